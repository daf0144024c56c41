"""The npm package in clients/: types that tRPC's client is checked against by TypeScript itself."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from app.web.api.typescript import declaration
from tests.support import node_toolbox
from tests.support.worker import Worker

CLIENT = node_toolbox.ROOT / "clients" / "typescript"

BEGIN = """\
import { createTRPCClient, httpBatchLink, TRPCClientError } from '@trpc/client';
import type { inferRouterInputs, inferRouterOutputs } from '@trpc/server';
import type { AppRouter } from 'user-registry-client';

const trpc = createTRPCClient<AppRouter>({ links: [httpBatchLink({ url: 'http://x/trpc' })] });
declare const error: unknown;
declare function isOurs(error: unknown): error is TRPCClientError<AppRouter>;
const ada = { id: 'ada', name: 'Ada King', email: 'ada@example.com' };
"""

#: Lines that must compile, and lines that must not.
CALLS = """\
const hello: string = await trpc.hello.query();
const told = await trpc.registerUser.mutate(ada);
const status: 'success' = told.status, position: string = told.position;
const name: string = (await trpc.userById.query({ id: 'ada' })).name;
const since: string = (await trpc.userByEmail.query({ email: 'a@b.co' })).registered_at;
const next: string | undefined = (await trpc.listUsers.query({ prefix: 'a', limit: 5 })).nextCursor;
const items: { id: string }[] = (await trpc.listUsers.query()).items;
await trpc.listUsers.query({ cursor: null, direction: 'forward' });
if (isOurs(error)) {
  const why: string | undefined = error.data?.reason, where = error.data?.errors?.[0]?.pointer;
  const soon: number | undefined = error.data?.retryAfter;
  const never: number | undefined = error.data?.reason;  // wrong: a reason is text
  console.log(why, where, soon, never);
}
await trpc.registerUser.mutate({ ...ada, nam: 'Ada' });  // wrong: an unknown field
await trpc.registerUser.mutate({ id: 'ada', name: 'Ada' });  // wrong: a field is missing
await trpc.registerUser.mutate({ ...ada, id: 7 });  // wrong: a number is no id
await trpc.registerUser.mutate();  // wrong: nothing is given
await trpc.registerUser.query(ada);  // wrong: it is a mutation
await trpc.userById.mutate({ id: 'ada' });  // wrong: it is a query
const receipts = await trpc.registerUsers.mutate([ada, ada]);
const refused: string | undefined = receipts[0].error?.reason;
const at: string | undefined = receipts[0].position;
trpc.user.subscribe({ id: 'ada' }, {
  onData: ({ id, data }) => {
    const seen: string = id, who: string | undefined = data?.name;
    console.log(seen, who);
  },
});
trpc.outcomes.subscribe(undefined, { onData: ({ data }) => console.log(data.id.length) });
trpc.user.subscribe({}, {});  // wrong: it does not say whom
await trpc.registerUsers.mutate(ada);  // wrong: one is not several
const changed = await trpc.updateUser.mutate({ id: 'ada', name: 'Ada', ifVersion: 2 });
const became: 'pending' | 'updated' | 'erased' | 'moved' | undefined = changed.outcome;
await trpc.eraseUser.mutate({ id: 'ada', ifPosition: changed.position });
const counted: { users: number; days: Record<string, number> } = await trpc.countUsers.query();
const reason: string | undefined = (await trpc.registration.query({ position })).reason;
await trpc.updateUser.mutate({ id: 'ada', ifVersion: '2' });  // wrong: a version is a number
await trpc.renameUser.mutate({ id: 'ada' });  // wrong: no such procedure
const wrong: number = (await trpc.userById.query({ id: 'ada' })).name;  // wrong: a name is text
const late: Date = (await trpc.userById.query({ id: 'a' })).updated_at;  // wrong: text on the wire
await trpc.listUsers.query({ cursor: 7 });  // wrong: a cursor is text
console.log(refused, at, became, reason, counted, status, position, hello, name, since, next);
console.log(items);
type Input = inferRouterInputs<AppRouter>['registerUser'];
type Output = inferRouterOutputs<AppRouter>['userById'];
const asked: Input = ada, got: Pick<Output, 'id' | 'name' | 'email'> = ada;
console.log(wrong, late, asked, got);
"""

#: The same for React Query's hooks.
HOOKS = """\
import { createTRPCReact } from '@trpc/react-query';
import type { AppRouter } from 'user-registry-client';
const trpc = createTRPCReact<AppRouter>();
const ada = { id: 'ada', name: 'Ada King', email: 'ada@example.com' };
const hello: string | undefined = trpc.hello.useQuery().data;
const users: number | undefined = trpc.countUsers.useQuery().data?.users;
const ifAny = trpc.userById.useQuery({ id: 'ada' }, { enabled: false }).data?.name;
const register = trpc.registerUser.useMutation({ onSuccess: ({ position }) => position.length });
register.mutate(ada);
register.mutate({ id: 'ada' });  // wrong: fields are missing
const reason: string | undefined = register.error?.data?.reason;
const { data } = trpc.listUsers.useInfiniteQuery(
  { prefix: 'a' }, { getNextPageParam: (page) => page.nextCursor },
);
const id: string | undefined = data?.pages[0].items[0].id;
trpc.user.useSubscription({ id: 'ada' }, { onData: (told) => console.log(told.data?.name) });
trpc.user.useSubscription({}, {});  // wrong: it does not say whom
trpc.registerUser.useQuery(ada);  // wrong: it is a mutation
console.log(hello, users, ifAny, reason, id);
"""


@contextmanager
def in_node_folder(files: Mapping[str, str], within: str = ".") -> Iterator[Path]:
    """Yield a folder with some files, where Node finds the packages of a folder, and ours."""
    folder = Path(mkdtemp(dir=node_toolbox.install_node_packages() / within))
    try:
        shutil.copytree(CLIENT, folder / "node_modules" / "user-registry-client")
        (folder / "package.json").write_text('{"type": "module"}')
        for name, text in files.items():
            (folder / name).write_text(text)
        yield folder
    finally:
        shutil.rmtree(folder)


def compiled(source: str, within: str = ".") -> set[int]:
    """Return the lines of which tsc complains, all of them in the source itself."""
    tsc = node_toolbox.PACKAGES / "node_modules" / "typescript" / "lib" / "tsc.js"
    with in_node_folder({"calls.ts": source}, within) as folder:
        done = subprocess.run(
            [
                *(node_toolbox.node(), tsc),
                *("--strict", "--noEmit", "--module", "nodenext", "--target", "es2022"),
                *("--lib", "esnext,dom", "calls.ts"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    # Further lines of an error begin with a blank. What @trpc/server declares for servers needs the
    # types of Node.
    elsewhere = (" ", "../node_modules/@trpc/server/")
    errors = [line for line in done.stdout.splitlines() if not line.startswith(elsewhere)]
    found = [re.match(r"calls\.ts\((\d+),\d+\): error TS", line) for line in errors]
    assert all(found), done.stdout
    return {int(match[1]) for match in found if match}


@pytest.mark.parametrize(
    ("source", "within", "mistakes"), [(BEGIN + CALLS, ".", 14), (HOOKS, "react", 3)]
)
def test_right_calls_compile_and_each_wrong_one_does_not(
    source: str, within: str, mistakes: int
) -> None:
    lines = enumerate(source.splitlines(), start=1)
    wrong = {number for number, line in lines if "// wrong" in line}
    assert len(wrong) == mistakes
    assert compiled(source, within) == wrong


def test_the_example_runs(worker: Worker) -> None:
    with in_node_folder({"example.ts": (CLIENT / "example.ts").read_text()}) as folder:
        done = subprocess.run(
            [node_toolbox.node(), "example.ts", f"{worker.url}/trpc"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stdout.split() == ["registered", "updated", "version-mismatch", "erased"], done


def test_the_package_can_be_published() -> None:
    packed = node_toolbox.npm("pack", "--dry-run", "--json", cwd=CLIENT)
    (told,) = json.loads(packed)
    assert {each["path"] for each in told["files"]} == {
        *("LICENSE", "README.md", "example.ts", "index.d.ts", "package.json"),
    }


def test_the_package_is_what_the_registry_declares_now() -> None:
    """``make clients`` writes it."""
    assert (CLIENT / "index.d.ts").read_text() == declaration()


def test_the_package_has_the_version_of_the_registry() -> None:
    described = (node_toolbox.ROOT / "pyproject.toml").read_text()
    version = re.findall(r'^version = "(.+)"$', described, re.MULTILINE)[0]
    assert json.loads((CLIENT / "package.json").read_text())["version"] == version
