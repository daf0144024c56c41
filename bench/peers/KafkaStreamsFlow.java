import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.text.Normalizer;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * The registry's three hops in Kafka Streams: a registration makes a pending user and claims its
 * address; the claim is decided where the address belongs; the decision completes the user.
 */
public final class KafkaStreamsFlow {
  private static final String USERS = "users";
  private static final String EMAILS = "emails";
  private static final String CLAIMS = "claims";
  private static final String DECISIONS = "decisions";
  private static final String OUTCOMES = "outcomes";

  private KafkaStreamsFlow() {}

  public static void main(String[] words) {
    Map<String, String> told = Registrations.arguments(words);
    var streams = new KafkaStreams(topology(told), settings(told));
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }

  private static Topology topology(Map<String, String> told) {
    Topology topology = new Topology();
    source(topology, "registrations", told.get("topic"));
    source(topology, "claimed", told.get("claims"));
    source(topology, "decided", told.get("decisions"));
    processor(topology, "register", "registrations", () -> new Register(new Registrations(told)));
    processor(topology, "decide", "claimed", () -> new Decide(new Registrations(told)));
    processor(topology, "complete", "decided", () -> new Complete(new Registrations(told)));
    topology.addStateStore(store(USERS), "register", "complete");
    topology.addStateStore(store(EMAILS), "decide");
    sink(topology, CLAIMS, told.get("claims"), "register");
    sink(topology, DECISIONS, told.get("decisions"), "decide");
    sink(topology, OUTCOMES, told.get("outcomes"), "register", "complete");
    return topology;
  }

  private static void source(Topology topology, String name, String topic) {
    topology.addSource(name, new ByteArrayDeserializer(), new ByteArrayDeserializer(), topic);
  }

  private static void processor(
      Topology topology,
      String name,
      String parent,
      ProcessorSupplier<byte[], byte[], byte[], byte[]> supplier) {
    topology.addProcessor(name, supplier, parent);
  }

  private static void sink(Topology topology, String name, String topic, String... parents) {
    topology.addSink(name, topic, new ByteArraySerializer(), new ByteArraySerializer(), parents);
  }

  private static StoreBuilder<KeyValueStore<String, byte[]>> store(String name) {
    return Stores.keyValueStoreBuilder(
            Stores.persistentKeyValueStore(name), Serdes.String(), Serdes.ByteArray())
        .withLoggingEnabled(Map.of())
        .withCachingDisabled();
  }

  private static Properties settings(Map<String, String> told) {
    int interval = Integer.parseInt(told.get("commit-interval-ms"));
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, told.get("group"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, told.get("brokers"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, told.get("folder"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, told.get("threads"));
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, interval);
    if (told.get("tuned-for").equals("throughput")) {
      // As the peer that only applies has them.
      settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
      settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
      settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 512 * 1024);
      settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128L << 20);
      settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
    } else {
      // A commit waits for the end of a poll, so a poll is no longer than the interval.
      settings.put(StreamsConfig.POLL_MS_CONFIG, interval);
      settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 0);
    }
    return settings;
  }

  /** What the three processors share: their store, and how they send. */
  private abstract static class Hop extends ContextualProcessor<byte[], byte[], byte[], byte[]> {
    final Registrations registrations;
    KeyValueStore<String, byte[]> store;
    private final String storeName;

    Hop(Registrations registrations, String storeName) {
      this.registrations = registrations;
      this.storeName = storeName;
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
      super.init(context);
      store = context.getStateStore(storeName);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      try {
        take(record);
      } catch (Registrations.Invalid error) {
        // No workload has such a record.
        System.err.println("left out: " + error.getMessage());
      } catch (IOException error) {
        System.err.println("left out: not JSON");
      }
    }

    abstract void take(Record<byte[], byte[]> record) throws IOException, Registrations.Invalid;

    void send(String sink, String key, long timestamp, byte[] value) {
      context().forward(new Record<>(key.getBytes(StandardCharsets.UTF_8), value, timestamp), sink);
    }

    void tell(String id, String position, String outcome, long timestamp) throws IOException {
      send(OUTCOMES, id, timestamp, registrations.object("position", position, "outcome", outcome));
    }
  }

  /** A registration: a new id gets a pending row, and its address is claimed. */
  private static final class Register extends Hop {
    Register(Registrations registrations) {
      super(registrations, USERS);
    }

    @Override
    void take(Record<byte[], byte[]> record) throws IOException, Registrations.Invalid {
      Registrations.Registration registration = registrations.read(record.value());
      RecordMetadata place = context().recordMetadata().orElseThrow();
      String id = registration.id();
      String position = Registrations.position(place);
      long timestamp = record.timestamp();
      byte[] row = store.get(id);
      if (row != null) {
        boolean replayed = registrations.isReplayed(row, registration);
        tell(id, position, replayed ? "replayed" : "id-taken", timestamp);
        return;
      }
      store.put(id, registrations.row(registration, "pending", timestamp, place));
      byte[] claim = registrations.object("id", id, "position", position);
      send(CLAIMS, emailKey(registration.email()), timestamp, claim);
    }

    private static String emailKey(String email) {
      boolean ascii = email.chars().allMatch(letter -> letter < 128);
      String folded = ascii ? email : Normalizer.normalize(email, Normalizer.Form.NFKC);
      return folded.strip().toLowerCase(Locale.ROOT);
    }
  }

  /** A claim: the first id that claims an address has it. */
  private static final class Decide extends Hop {
    Decide(Registrations registrations) {
      super(registrations, EMAILS);
    }

    @Override
    void take(Record<byte[], byte[]> record) throws IOException {
      String email = new String(record.key(), StandardCharsets.UTF_8);
      Map<String, String> claim = registrations.members(record.value());
      String id = claim.get("id");
      byte[] holder = store.get(email);
      if (holder == null) {
        store.put(email, record.value());
      }
      boolean granted = holder == null || registrations.members(holder).get("id").equals(id);
      String verdict = granted ? "granted" : "taken";
      byte[] decision =
          registrations.object("position", claim.get("position"), "verdict", verdict);
      send(DECISIONS, id, record.timestamp(), decision);
    }
  }

  /** A decision: the user is registered, or its row goes. */
  private static final class Complete extends Hop {
    Complete(Registrations registrations) {
      super(registrations, USERS);
    }

    @Override
    void take(Record<byte[], byte[]> record) throws IOException {
      String id = new String(record.key(), StandardCharsets.UTF_8);
      Map<String, String> decision = registrations.members(record.value());
      byte[] row = store.get(id);
      if (row == null || !registrations.members(row).get("status").equals("pending")) {
        return;
      }
      boolean granted = decision.get("verdict").equals("granted");
      store.put(id, granted ? registrations.withStatus(row, "registered") : null);
      String outcome = granted ? "registered" : "email-taken";
      tell(id, decision.get("position"), outcome, record.timestamp());
    }
  }
}
