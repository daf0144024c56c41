// Follows with tRPC's own client: argv has the address, the path and the input; each event is a line.
// A line `stop` on standard input ends it.
import { createTRPCUntypedClient, httpSubscriptionLink } from '@trpc/client';
import { createInterface } from 'node:readline';

const [url, path, input] = process.argv.slice(2);
const tell = (told) => console.log(JSON.stringify(told));
const client = createTRPCUntypedClient({ links: [httpSubscriptionLink({ url, EventSource })] });
const following = client.subscription(path, JSON.parse(input), {
  onStarted: () => tell({ started: true }),
  onData: ({ id, data }) => tell({ id, data }),
  onConnectionStateChange: ({ state }) => tell({ state }),
  onError: (error) => {
    tell({ error: error.message, ...error.data });
    process.exit(0);
  },
});
createInterface(process.stdin).on('line', () => {
  following.unsubscribe();
  process.exit(0);
});
