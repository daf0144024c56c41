// A component with React Query's hooks of tRPC, rendered without a browser: what it sees, as JSON.
// Arguments: the address of a worker, a prefix of ids that nobody else uses.

import { QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { httpBatchLink, httpSubscriptionLink, splitLink } from '@trpc/client';
import { createTRPCReact } from '@trpc/react-query';
import { createElement, useEffect, useRef, useState } from 'react';
import renderer from 'react-test-renderer';

const [url, prefix] = process.argv.slice(2);
const USERS = 5;
const first = `${prefix}0`;
const trpc = createTRPCReact();

function userOf(number) {
  const id = `${prefix}${number}`;
  return { id, name: `Person ${number}`, email: `${id}@example.com` };
}

function Registry({ done }) {
  const hello = trpc.hello.useQuery();
  const register = trpc.registerUser.useMutation();
  const list = trpc.listUsers.useInfiniteQuery(
    { prefix, limit: 2 },
    { getNextPageParam: (page) => page.nextCursor, enabled: false },
  );
  const [names, setNames] = useState([]);
  trpc.user.useSubscription(
    { id: first },
    { onData: ({ data }) => setNames((known) => [...known, data?.name ?? null]) },
  );
  const [taken, setTaken] = useState(null);
  const isBegun = useRef(false);

  useEffect(() => {
    // The subscription has told that there is nobody yet.
    if (names.length === 0 || isBegun.current) return;
    isBegun.current = true;
    (async () => {
      for (let number = 0; number < USERS; number += 1) await register.mutateAsync(userOf(number));
      await register.mutateAsync({ ...userOf(0), name: 'Other' }).catch((error) => {
        setTaken(error.data.reason);
      });
      await list.refetch();
    })();
  }, [names]);

  useEffect(() => {
    if (list.hasNextPage && !list.isFetching) list.fetchNextPage();
  }, [list.hasNextPage, list.isFetching]);

  const pages = list.data?.pages ?? [];
  useEffect(() => {
    const isWhole = pages.length > 0 && !list.hasNextPage && !list.isFetching;
    if (isWhole && taken && names.length > 1 && hello.data) {
      done({
        hello: hello.data,
        names,
        taken,
        pages: pages.map((page) => page.items.map((user) => user.id)),
      });
    }
  });
  return createElement('p', null, `${hello.data ?? 'not yet'}, ${pages.length} pages`);
}

const links = [
  splitLink({
    condition: (operation) => operation.type === 'subscription',
    true: httpSubscriptionLink({ url }),
    false: httpBatchLink({ url, headers: { Prefer: 'wait=10' } }),
  }),
];
const queryClient = new QueryClient();
const client = trpc.createClient({ links });
let root;
const seen = await new Promise((done) => {
  const inside = createElement(Registry, { done });
  const queries = createElement(QueryClientProvider, { client: queryClient }, inside);
  root = renderer.create(createElement(trpc.Provider, { client, queryClient }, queries));
});
const text = root.toJSON().children.join('');
root.unmount();
queryClient.clear();
console.log(JSON.stringify({ ...seen, text }));
process.exit(0);
