// tRPC's client of version 10; see ../trpc_calls.mjs.
import {
  createTRPCUntypedClient,
  httpBatchLink,
  httpLink,
  unstable_httpBatchStreamLink as httpBatchStreamLink,
} from '@trpc/client';
import { main } from '../trpc_calls.mjs';

await main(createTRPCUntypedClient, { httpLink, httpBatchLink, httpBatchStreamLink });
