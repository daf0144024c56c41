// A peer of `acknowledge`: the tuned tRPC server in front of librdkafka.
//
// KAFKA_BROKERS and TOPIC come from the environment. The client is kafka-crab-js, as npm has its
// binary; those of Confluent and of node-rdkafka are not in npm. Its documentation advises
// idempotence, acks=all and many records in a send; a send awaits the delivery of each.
import { KafkaClient } from 'kafka-crab-js';
import { gathered } from './gathering.mjs';
import { serve } from './trpc_tuned_server.mjs';

const { KAFKA_BROKERS, TOPIC } = process.env;
const client = new KafkaClient({ brokers: KAFKA_BROKERS, clientId: 'registry' });
const producer = client.createProducer({
  configuration: {
    acks: 'all',
    'enable.idempotence': true,
    // The sends are gathered already: nothing comes by waiting longer.
    'linger.ms': 0,
    // The partitions that all other peers choose.
    partitioner: 'murmur2_random',
  },
});

const acknowledged = gathered(async (messages) => {
  const sent = await producer.send({ topic: TOPIC, messages });
  return sent.map(({ partition, offset }) => `${partition}:${offset}`);
});

serve((id, user) =>
  acknowledged({ key: Buffer.from(id), payload: Buffer.from(JSON.stringify(user)) }),
);
