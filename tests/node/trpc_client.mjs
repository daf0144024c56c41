// Makes calls with the real tRPC client: argv has the address, stdin what to call over which link.
// Calls of one run are made at the same time, so that httpBatchLink gathers them.
import { readFileSync } from 'node:fs';
import { createTRPCUntypedClient, httpBatchLink, httpLink } from '@trpc/client';

const links = { httpLink, httpBatchLink };
const { link, calls } = JSON.parse(readFileSync(0, 'utf8'));
const requests = [];

async function recordingFetch(url, options) {
  const answer = await fetch(url, options);
  requests.push({ method: options.method, url: String(url), status: answer.status });
  return answer;
}

async function outcome({ path, type, input }) {
  try {
    return { ok: true, data: await client[type](path, input) };
  } catch (error) {
    return { ok: false, name: error.name, message: error.message, ...error.data };
  }
}

const client = createTRPCUntypedClient({
  links: [links[link]({ url: process.argv[2], fetch: recordingFetch })],
});
const results = await Promise.all(calls.map(outcome));
console.log(JSON.stringify({ results, requests }));
