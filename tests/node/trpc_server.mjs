// tRPC's own server, version 11, with procedures as ours: what it answers, ours must answer.
// It prints its port once it listens, and ends with its input.
import { initTRPC } from '@trpc/server';
import { createHTTPServer } from '@trpc/server/adapters/standalone';
import { z } from 'zod';

const { procedure, router } = initTRPC.create({ isDev: false });
const text = z.string().min(1);
const user = z.object({ id: text, name: text, email: z.string().includes('@') });

const server = createHTTPServer({
  basePath: '/trpc/',
  maxBatchSize: 1000,
  maxBodySize: 1024 * 1024,
  router: router({
    hello: procedure.query(() => 'Hello tRPC!'),
    userByEmail: procedure.input(z.object({ email: text })).query(() => ({})),
    registerUser: procedure.input(user).mutation(() => ({})),
  }),
});
const running = server.listen(0, '127.0.0.1', () => console.log(running.address().port));
process.stdin.on('end', () => process.exit()).resume();
