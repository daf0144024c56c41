import java.io.IOException;
import java.util.Map;
import java.util.Properties;
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

  public static void main(String[] words) {
    Map<String, String> told = Registrations.arguments(words);
    Topology topology = new Topology();
    topology
        .addSource(
            "registrations",
            new ByteArrayDeserializer(),
            new ByteArrayDeserializer(),
            told.get("topic"))
        .addProcessor("apply", () -> new Apply(new Registrations(told)), "registrations")
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
    private final Registrations registrations;
    private KeyValueStore<String, byte[]> users;

    Apply(Registrations registrations) {
      this.registrations = registrations;
    }

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      super.init(context);
      users = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      try {
        Registrations.Registration registration = registrations.read(record.value());
        byte[] row = users.get(registration.id());
        if (row == null) {
          RecordMetadata place = context().recordMetadata().orElseThrow();
          long timestamp = record.timestamp();
          users.put(
              registration.id(), registrations.row(registration, "registered", timestamp, place));
        } else {
          registrations.isReplayed(row, registration);
        }
      } catch (Registrations.Invalid error) {
        // No workload has such a record.
        System.err.println("left out: " + error.getMessage());
      } catch (IOException error) {
        System.err.println("left out: not JSON");
      }
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
