import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.time.Instant;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.regex.Pattern;
import org.apache.kafka.streams.processor.api.RecordMetadata;

/** The registry's rules for registrations, and the JSON of its rows, as both topologies have them. */
final class Registrations {
  private final JsonFactory json = new JsonFactory();
  // Java is slow at classes of many ranges, and nearly all addresses are ASCII.
  private final Pattern ascii;
  private final Pattern email;

  Registrations(Map<String, String> told) {
    ascii = Pattern.compile(told.get("ascii-email-pattern"));
    email = Pattern.compile(told.get("email-pattern"));
  }

  /** A registration that was found valid. */
  record Registration(String id, String name, String email) {}

  /** What makes a record one that cannot be applied; it is left out. */
  static final class Invalid extends Exception {
    Invalid(String why) {
      super(why, null, false, false);
    }
  }

  /** What stands on the command line: names with dashes before them, each with its value. */
  static Map<String, String> arguments(String[] words) {
    Map<String, String> told = new HashMap<>();
    for (int at = 0; at + 1 < words.length; at += 2) {
      told.put(words[at].substring(2), words[at + 1]);
    }
    return told;
  }

  Registration read(byte[] value) throws IOException, Invalid {
    String id = null;
    String name = null;
    String mail = null;
    try (JsonParser parser = json.createParser(value)) {
      require(parser.nextToken() == JsonToken.START_OBJECT, "not an object");
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        JsonToken token = parser.nextToken();
        switch (field) {
          case "id" -> id = text(parser, token);
          case "name" -> name = text(parser, token);
          case "email" -> mail = text(parser, token);
          default -> parser.skipChildren();
        }
      }
    }
    require(id != null && isLong(id, 128) && hasNoControls(id), "id");
    require(name != null && isLong(name, 256), "name");
    require(mail != null && isLong(mail, 254) && isEmail(mail), "email");
    return new Registration(id, name, mail);
  }

  private boolean isEmail(String text) {
    return ascii.matcher(text).matches() || email.matcher(text).matches();
  }

  private static String text(JsonParser parser, JsonToken token) throws IOException {
    return token == JsonToken.VALUE_STRING ? parser.getText() : null;
  }

  private static boolean isLong(String text, int most) {
    int length = text.codePointCount(0, text.length());
    return 1 <= length && length <= most;
  }

  private static boolean hasNoControls(String text) {
    for (int at = 0; at < text.length(); at++) {
      if (Character.isISOControl(text.charAt(at))) {
        return false;
      }
    }
    return true;
  }

  private static void require(boolean holds, String what) throws Invalid {
    if (!holds) {
      throw new Invalid(what);
    }
  }

  byte[] row(Registration registration, String status, long timestamp, RecordMetadata place)
      throws IOException {
    String at = Instant.ofEpochMilli(timestamp).toString();
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(512);
    try (JsonGenerator row = json.createGenerator(bytes)) {
      row.writeStartObject();
      row.writeStringField("id", registration.id());
      row.writeStringField("name", registration.name());
      row.writeStringField("email", registration.email());
      row.writeStringField("status", status);
      row.writeStringField("registered_at", at);
      row.writeStringField("updated_at", at);
      row.writeNumberField("version", 1);
      row.writeStringField("position", position(place));
      row.writeEndObject();
    }
    return bytes.toByteArray();
  }

  /** The same row with another status. */
  byte[] withStatus(byte[] row, String status) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(512);
    try (JsonParser parser = json.createParser(row);
        JsonGenerator changed = json.createGenerator(bytes)) {
      while (parser.nextToken() != null) {
        changed.copyCurrentEvent(parser);
        if (parser.currentToken() == JsonToken.FIELD_NAME && parser.currentName().equals("status")) {
          parser.nextToken();
          changed.writeString(status);
        }
      }
    }
    return bytes.toByteArray();
  }

  /** An object of strings: names and values in turn. */
  byte[] object(String... words) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(256);
    try (JsonGenerator object = json.createGenerator(bytes)) {
      object.writeStartObject();
      for (int at = 0; at < words.length; at += 2) {
        object.writeStringField(words[at], words[at + 1]);
      }
      object.writeEndObject();
    }
    return bytes.toByteArray();
  }

  /** The members of an object that are strings. */
  Map<String, String> members(byte[] value) throws IOException {
    Map<String, String> members = new HashMap<>();
    try (JsonParser parser = json.createParser(value)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        if (parser.nextToken() == JsonToken.VALUE_STRING) {
          members.put(field, parser.getText());
        }
      }
    }
    return members;
  }

  static String position(RecordMetadata place) {
    HexFormat hex = HexFormat.of();
    return hex.toHexDigits((short) place.partition()) + hex.toHexDigits(place.offset());
  }

  boolean isReplayed(byte[] row, Registration registration) throws IOException {
    int equal = 0;
    try (JsonParser parser = json.createParser(row)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        parser.nextToken();
        if (field.equals("name") && parser.getText().equals(registration.name())
            || field.equals("email") && parser.getText().equals(registration.email())) {
          equal++;
        }
      }
    }
    return equal == 2;
  }
}
