// The tRPC server of the Node peers that are tuned by hand, in front of any producer.
//
// PORT comes from the environment; it prints a line once it listens. Tried, and left out because it
// won nothing: reading the body before tRPC's adapter does (slower in batches), no HTTP time-outs,
// --max-semi-space-size, --single-threaded-gc (slower).
import { initTRPC } from '@trpc/server';
import { createHTTPServer } from '@trpc/server/adapters/standalone';
import { registration } from './registration.mjs';

// Head, body and end of an answer leave in one write instead of two: a sixth of a single request.
function inOneWrite(_request, response, next) {
  response.cork();
  next();
}

// `write(id, registration)` returns a promise of the position.
export function serve(write) {
  const trpc = initTRPC.create({ isDev: false });
  const router = trpc.router({
    hello: trpc.procedure.query(() => 'Hello tRPC!'),
    registerUser: trpc.procedure.input(registration).mutation(async ({ input }) => {
      return { status: 'success', id: input.id, position: await write(input.id, input) };
    }),
  });
  const server = createHTTPServer({ router, basePath: '/trpc/', middleware: inOneWrite });
  server.keepAliveTimeout = 60_000;
  server.listen(Number(process.env.PORT), '127.0.0.1', 1024, () => console.log('ready'));
}
