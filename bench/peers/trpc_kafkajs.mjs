// A peer of `acknowledge`: tRPC and kafkajs as their documentation has them, put together.
//
// PORT, KAFKA_BROKERS and TOPIC come from the environment; it prints a line once it listens. The
// server is trpc.io's standalone adapter, the producer that of kafka.js.org: a send for each call,
// awaited, with the defaults of both. kafkajs warns of its partitioner unless told that one means it.
import { initTRPC } from '@trpc/server';
import { createHTTPServer } from '@trpc/server/adapters/standalone';
import { Kafka, Partitioners } from 'kafkajs';
import { registration } from './registration.mjs';

const kafka = new Kafka({ clientId: 'registry', brokers: process.env.KAFKA_BROKERS.split(',') });
const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });

const t = initTRPC.create();
const appRouter = t.router({
  hello: t.procedure.query(() => 'Hello tRPC!'),
  registerUser: t.procedure.input(registration).mutation(async ({ input }) => {
    const [{ partition, baseOffset }] = await producer.send({
      topic: process.env.TOPIC,
      acks: -1,
      messages: [{ key: input.id, value: JSON.stringify(input) }],
    });
    return { status: 'success', id: input.id, position: `${partition}:${baseOffset}` };
  }),
});

await producer.connect();
const server = createHTTPServer({ router: appRouter, basePath: '/trpc/' });
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('ready'));
