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
import java.util.Properties;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** Kafka Streams: one processor with a persistent, logged key-value store, and no cache before it. */
public final class KafkaStreams {
  private static final String STORE = "users";

  private KafkaStreams() {}

  /** A registration that was found valid. */
  private record Registration(String id, String name, String email) {}

  /** What makes a record one that cannot be applied; it is left out. */
  private static final class Invalid extends Exception {
    Invalid(String why) {
      super(why, null, false, false);
    }
  }

  public static void main(String[] words) {
    Map<String, String> told = arguments(words);
    Pattern ascii = Pattern.compile(told.get("ascii-email-pattern"));
    Pattern email = Pattern.compile(told.get("email-pattern"));
    Topology topology = new Topology();
    topology
        .addSource(
            "registrations",
            new ByteArrayDeserializer(),
            new ByteArrayDeserializer(),
            told.get("topic"))
        .addProcessor("apply", () -> new Apply(ascii, email), "registrations")
        .addStateStore(
            Stores.keyValueStoreBuilder(
                    Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray())
                .withLoggingEnabled(Map.of())
                .withCachingDisabled(),
            "apply");
    var streams = new org.apache.kafka.streams.KafkaStreams(topology, settings(told));
    streams.setGlobalStateRestoreListener(new Restored());
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }

  private static Map<String, String> arguments(String[] words) {
    Map<String, String> told = new HashMap<>();
    for (int at = 0; at + 1 < words.length; at += 2) {
      told.put(words[at].substring(2), words[at + 1]);
    }
    return told;
  }

  private static Properties settings(Map<String, String> told) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, told.get("group"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, told.get("brokers"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, told.get("folder"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, told.get("threads"));
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, told.get("guarantee"));
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.ACKS_CONFIG), "all");
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 512 * 1024);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128L << 20);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MIN_BYTES_CONFIG), 1 << 16);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), 100);
    return settings;
  }

  /** What a record does to the row of its id. */
  private static final class Apply extends ContextualProcessor<byte[], byte[], Void, Void> {
    private final JsonFactory json = new JsonFactory();
    // Java is slow at classes of many ranges, and nearly all addresses are ASCII.
    private final Pattern ascii;
    private final Pattern email;
    private KeyValueStore<String, byte[]> users;

    Apply(Pattern ascii, Pattern email) {
      this.ascii = ascii;
      this.email = email;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      super.init(context);
      users = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      try {
        Registration registration = read(record.value());
        byte[] row = users.get(registration.id());
        if (row == null) {
          users.put(registration.id(), row(registration, record.timestamp()));
        } else {
          isReplayed(row, registration);
        }
      } catch (Invalid error) {
        // No workload has such a record.
        System.err.println("left out: " + error.getMessage());
      } catch (IOException error) {
        System.err.println("left out: not JSON");
      }
    }

    private Registration read(byte[] value) throws IOException, Invalid {
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

    private byte[] row(Registration registration, long timestamp) throws IOException {
      RecordMetadata place = context().recordMetadata().orElseThrow();
      String at = Instant.ofEpochMilli(timestamp).toString();
      ByteArrayOutputStream bytes = new ByteArrayOutputStream(512);
      try (JsonGenerator row = json.createGenerator(bytes)) {
        row.writeStartObject();
        row.writeStringField("id", registration.id());
        row.writeStringField("name", registration.name());
        row.writeStringField("email", registration.email());
        row.writeStringField("status", "registered");
        row.writeStringField("registered_at", at);
        row.writeStringField("updated_at", at);
        row.writeNumberField("version", 1);
        row.writeStringField("position", position(place));
        row.writeEndObject();
      }
      return bytes.toByteArray();
    }

    private static String position(RecordMetadata place) {
      HexFormat hex = HexFormat.of();
      return hex.toHexDigits((short) place.partition()) + hex.toHexDigits(place.offset());
    }

    private boolean isReplayed(byte[] row, Registration registration) throws IOException {
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

  /** Says how many rows were restored, when; threads restore at the same time. */
  private static final class Restored implements StateRestoreListener {
    private long rows;

    @Override
    public synchronized void onRestoreStart(
        TopicPartition partition, String store, long start, long end) {
      say();
    }

    @Override
    public synchronized void onBatchRestored(
        TopicPartition partition, String store, long end, long batch) {
      rows += batch;
      say();
    }

    @Override
    public synchronized void onRestoreEnd(TopicPartition partition, String store, long total) {
      say();
    }

    private void say() {
      double at = System.currentTimeMillis() / 1000.0;
      System.out.println("{\"restored\": " + rows + ", \"at\": " + at + "}");
    }
  }
}
