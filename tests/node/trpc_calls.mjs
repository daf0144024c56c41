// Makes calls with a real tRPC client: argv has the address; stdin has runs, by link and name, which
// follow one another. The calls of a run are made at the same time, so that batch links gather them.
import { readFileSync } from 'node:fs';

export async function main(createClient, links) {
  const url = process.argv[2];
  const told = {};
  for (const [link, runs] of Object.entries(JSON.parse(readFileSync(0, 'utf8')))) {
    told[link] = {};
    for (const [name, run] of Object.entries(runs)) {
      const requests = [];
      const connect = (headers = {}, through = link) =>
        createClient({ links: [links[through]({ url, headers, fetch: recording(requests) })] });
      told[link][name] = { ...(await making(run)(connect, run, told[link])), requests };
    }
  }
  console.log(JSON.stringify(told));
}

function making(run) {
  if (run.slow) return slow;
  return run.pages ? pages : together;
}

function recording(requests) {
  return async (url, options) => {
    const answer = await fetch(url, options);
    requests.push({ method: options.method, url: String(url), status: answer.status });
    return answer;
  };
}

async function together(connect, { calls, headers, after }, told) {
  const position = after && { 'Registry-After': told[after].results[0].data.position };
  const client = connect({ ...headers, ...position });
  return { results: await Promise.all(calls.map((call) => outcome(client, call))) };
}

async function outcome(client, { path, type, input }) {
  try {
    return { ok: true, data: await client[type](path, input) };
  } catch (error) {
    return { ok: false, name: error.name, message: error.message, ...error.data };
  }
}

// Pages as infinite queries ask for them.
async function pages(connect, { pages: wanted }) {
  const results = [];
  let cursor = null;
  do {
    const page = await connect().query('listUsers', { ...wanted, cursor, direction: 'forward' });
    results.push(page);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return { results };
}

// A lookup that waits for a write that is made only once the other call of its request is answered.
async function slow(connect, { slow: user }) {
  const single = connect({}, 'httpLink');
  const { position } = await single.mutation('registerUser', user);
  const client = connect({ 'Registry-After': next(position) });
  const order = [];
  const lookup = client.query('userById', { id: user.id }).finally(() => order.push('lookup'));
  await client.query('hello').finally(() => order.push('hello'));
  await single.mutation('registerUser', user);
  return { results: [await lookup], order };
}

// The position after a position: its last eight bytes are the offset.
function next(position) {
  const bytes = Buffer.from(position, 'base64url');
  bytes.writeBigUInt64BE(bytes.readBigUInt64BE(7) + 1n, 7);
  return bytes.toString('base64url');
}
