// Registers a user, changes and erases it. Node runs it as it is, from version 22.18 on:
// npm install user-registry-client @trpc/client @trpc/server, then node example.ts
import { createTRPCClient, httpBatchLink, TRPCClientError } from '@trpc/client';
import type { AppRouter } from 'user-registry-client';

const url = process.argv[2] ?? 'http://127.0.0.1:6066/trpc';

// Each write is answered once it is settled, and not once it is durable.
const headers = { Prefer: 'wait=5' };
const trpc = createTRPCClient<AppRouter>({ links: [httpBatchLink({ url, headers })] });

const id = `example-${Date.now()}`;
const ada = { id, name: 'Ada King', email: `${id}@example.com` };
console.log((await trpc.registerUser.mutate(ada)).outcome);

// Changed only if nobody has changed the user since.
const { version } = await trpc.userById.query({ id });
const change = { id, name: 'Ada Lovelace', ifVersion: version };
console.log((await trpc.updateUser.mutate(change)).outcome);
try {
  await trpc.updateUser.mutate(change);
} catch (error) {
  if (!(error instanceof TRPCClientError)) throw error;
  console.log(error.data?.reason);
}
console.log((await trpc.eraseUser.mutate({ id })).outcome);
