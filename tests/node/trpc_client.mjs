// tRPC's client of version 11; see trpc_calls.mjs.
import {
  createTRPCUntypedClient,
  httpBatchLink,
  httpBatchStreamLink,
  httpLink,
} from '@trpc/client';
import { main } from './trpc_calls.mjs';

const acceptStreamLink = (options) => httpBatchStreamLink({ ...options, streamHeader: 'accept' });

await main(createTRPCUntypedClient, {
  httpLink,
  httpBatchLink,
  httpBatchStreamLink,
  acceptStreamLink,
});
