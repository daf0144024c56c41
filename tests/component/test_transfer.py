"""Export and import against the web view: exit statuses, one line each, nothing half done."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from app.cli.main import main
from app.domain.errors import BrokerUnavailableError
from app.web.api import batches
from local.machine import free_port
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer


def url_of(client: Client) -> str:
    return str(client.make_url("/")).rstrip("/")


async def run(*arguments: str | Path, given: bytes = b"") -> tuple[int, str, str]:
    """Run a command; return its status, and what it says on both outputs."""
    invoked = asyncio.to_thread(CliRunner().invoke, main, list(map(str, arguments)), input=given)
    result = await asyncio.wait_for(invoked, 30)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@asynccontextmanager
async def serving(**handlers: Callable[[web.Request], object]) -> AsyncIterator[str]:
    """Serve a registry that answers otherwise than ours."""

    async def live(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/health/live", live)
    app.router.add_get("/export", handlers.get("export", live))  # type: ignore[arg-type]
    app.router.add_post("/users/batch", handlers.get("batch", live))  # type: ignore[arg-type]
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def test_an_export_is_a_file(client: Client, lookups: FakeLookups, tmp_path: Path) -> None:
    lookups.add("ada", name='Ada "A"\r\nKing')
    lookups.add("bob")
    target = tmp_path / "users.csv"
    told = await run("export", url_of(client), target)
    assert told == (0, "", "exported 2 users\n")
    assert target.read_text().startswith("id,name,email,status")
    assert [path.name for path in tmp_path.iterdir()] == ["users.csv"]
    status, out, _ = await run("export", url_of(client), "-", "--prefix", "b")
    assert (status, orjson.loads(out)["id"]) == (0, "bob")


async def test_an_export_goes_where_a_link_leads_and_only_its_owner_reads_it(
    client: Client, lookups: FakeLookups, tmp_path: Path
) -> None:
    lookups.add("ada")
    (tmp_path / "link").symlink_to("users.ndjson")
    former = os.umask(0)
    try:
        assert (await run("export", url_of(client), tmp_path / "link"))[0] == 0
    finally:
        os.umask(former)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "users.ndjson").stat().st_mode & 0o777 == 0o600


async def test_two_exports_into_one_file_leave_one_of_them_whole(
    client: Client, lookups: FakeLookups, tmp_path: Path
) -> None:
    for number in range(300):
        lookups.add(f"u{number}")
    target = tmp_path / "users.ndjson"
    both = await asyncio.gather(*(run("export", url_of(client), target) for _ in range(2)))
    assert [status for status, _, _ in both] == [0, 0]
    assert [orjson.loads(line)["id"] for line in target.read_text().splitlines()] == sorted(
        f"u{number}" for number in range(300)
    )
    assert list(tmp_path.iterdir()) == [target]


async def test_a_line_end_is_no_part_of_a_key(client: Client, lookups: FakeLookups) -> None:
    lookups.add("ada")
    for around in ("\n", " \r\n"):
        told = await run("export", url_of(client), "-", "--key", f"key{around}")
        assert (told[0], orjson.loads(told[1])["id"]) == (0, "ada")


async def test_a_pipe_is_imported(client: Client, producer: FakeProducer, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    row = b'{"id":"a","name":"A","email":"a@example.com"}\n'
    told, _ = await asyncio.gather(
        run("import", url_of(client), pipe), asyncio.to_thread(pipe.write_bytes, row)
    )
    assert told == (0, "accepted 1, rejected 0, up to line 1\n", "")


async def test_an_export_that_is_cut_off_leaves_no_file(tmp_path: Path) -> None:
    async def cut_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"id":"a"}\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with serving(export=cut_off) as url:
        status, _, error = await run("export", url, tmp_path / "users")
    assert status == 1
    assert error == (
        "nothing is exported: the connection was cut off after 1 users; nothing is kept\n"
    )
    assert list(tmp_path.iterdir()) == []


async def test_an_export_that_is_refused_says_why(
    client: Client, lookups: FakeLookups, tmp_path: Path
) -> None:
    lookups.ready = False
    status, _, error = await run("export", url_of(client), tmp_path / "users")
    assert (status, error) == (
        1,
        "the registry answers 503: The owner of the partition restores it from the changelog.\n",
    )
    nobody = f"http://127.0.0.1:{free_port()}"
    status, _, error = await run("export", nobody, "-")
    assert (status, error) == (2, f"{nobody}: nothing answers there\n")
    assert (await run("export", "nonsense", "-"))[0] == 2
    nowhere = tmp_path / "none" / "users"
    lookups.ready = True
    assert await run("export", url_of(client), nowhere) == (
        1,
        "",
        f"{nowhere}: No such file or directory\n",
    )


async def test_an_import_is_sent_in_order_and_says_what_is_wrong(
    client: Client, producer: FakeProducer, tmp_path: Path
) -> None:
    rows = [{"id": f"u{n}", "name": "Ada", "email": f"u{n}@example.com"} for n in range(7)]
    rows[3]["email"] = "nobody"
    lines = [*map(orjson.dumps, rows), b"{"]
    file = tmp_path / "users.ndjson"
    file.write_bytes(b"\n".join(lines))
    status, out, error = await run("import", url_of(client), file, "--batch", "2")
    assert (status, error) == (1, "")
    assert out.splitlines() == [
        "line 4: email Must be an email address, such as ada@example.com",
        "line 8: the line is not JSON",
        "accepted 6, rejected 2, up to line 8",
    ]
    sent = [orjson.loads(value or b"")["id"] for *_, value in producer.sent]
    assert sorted(sent) == ["u0", "u1", "u2", "u4", "u5", "u6"]
    assert len(producer.asked) == 4


async def test_an_import_may_be_sent_packed(
    client: Client, producer: FakeProducer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"u{n}", "name": "Ada", "email": f"u{n}@example.com"} for n in range(3_000)]
    file = tmp_path / "users.ndjson"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    sizes: dict[str | None, int] = {None: 0, "gzip": 0}
    chunks = batches._chunks

    def note(request: web.Request) -> AsyncIterator[list[object]]:
        sizes[request.headers.get("Content-Encoding")] += request.content_length or 0
        return chunks(request)

    monkeypatch.setattr(batches, "_chunks", note)
    for options in ((), ("--gzip",)):
        told = await run("import", url_of(client), file, "--batch", "500", *options)
        assert told == (0, "accepted 3,000, rejected 0, up to line 3,000\n", "")
    assert 0 < sizes["gzip"] < sizes[None] / 4
    assert len(producer.sent) == 6_000


async def test_each_wrong_row_is_told_of(client: Client) -> None:
    status, out, _ = await run("import", url_of(client), "-", given=b"{\n" * 30)
    assert (status, out.splitlines()) == (
        1,
        [
            *(f"line {number}: the line is not JSON" for number in range(1, 31)),
            "accepted 0, rejected 30, up to line 30",
        ],
    )


@pytest.mark.parametrize("name", ["ndjson", "csv"])
async def test_names_that_0_8_took_are_told_of_or_mended(
    client: Client, lookups: FakeLookups, producer: FakeProducer, tmp_path: Path, name: str
) -> None:
    users = 1_500  # more than a request has
    for number in range(users):
        lookups.add(f"u{number:04}", name="Ada\r\nKing\x1b\x9f")
    lookups.add("v", name="Bob")
    file = tmp_path / f"users.{name}"
    assert (await run("export", url_of(client), file))[0] == 0
    status, out, error = await run("import", url_of(client), file)
    *rows, last = out.splitlines()
    assert (status, error, len(rows)) == (1, "", users)
    assert {row.partition(": ")[2] for row in rows} == {"name Must not contain control characters"}
    assert last.startswith(f"accepted 1, rejected {users:,}, up to line ")
    assert len(producer.sent) == 1

    status, out, error = await run("import", url_of(client), file, "--mend-names")
    *rows, last = out.splitlines()
    assert (status, error, len(rows)) == (0, "", users)
    assert {row.partition(": ")[2] for row in rows} == {
        "its name had control characters, and was sent with blanks for them"
    }
    assert last.startswith(f"accepted 1,501 ({users:,} with another name), rejected 0, up to line ")
    sent = [orjson.loads(value or b"") for *_, value in producer.sent[1:]]
    assert {row["name"] for row in sent} == {"Ada  King  ", "Bob"}
    assert len({row["id"] for row in sent}) == users + 1


async def test_an_import_waits_for_a_registry_that_refuses(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def refuse_twice(request: web.Request) -> web.Response:
        asked.append(await request.read())
        if len(asked) < 3:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return web.json_response({"accepted": 1, "rejected": []}, status=202)

    async with serving(batch=refuse_twice) as url:
        status, out, _ = await run("import", url, "-", given=b'{"id":"a"}\n')
    assert (status, out) == (0, "accepted 1, rejected 0, up to line 1\n")
    assert asked == [b'{"id":"a"}'] * 3


async def test_an_import_without_patience_says_how_far_it_came(
    client: Client, producer: FakeProducer
) -> None:
    producer.failure = BrokerUnavailableError("no broker answers")
    given = b'{"id":"a","name":"A","email":"a@example.com"}\n'
    told = await run("import", url_of(client), "-", "--patience", "0", given=given)
    assert told == (
        1,
        "accepted 0, rejected 0, up to line 0\n",
        "the registry answers 503: No broker answers.\n",
    )


async def test_what_is_no_registry_is_told_in_one_line(tmp_path: Path) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text="hello", status=202)

    async with serving(batch=nonsense) as url:
        status, _, error = await run("import", url, "-", given=b"{}\n")
    assert status == 2
    assert error == f"{url}: what answers there is no registry\n"
    status, _, error = await run("import", f"http://127.0.0.1:{free_port()}", "-")
    assert status == 2
    assert "nothing answers there" in error
    status, _, error = await run("import", "http://127.0.0.1:1", tmp_path / "none")
    assert (status, error) == (2, f"{tmp_path / 'none'}: No such file or directory\n")


@pytest.mark.parametrize("name", ["export", "import"])
async def test_a_command_explains_itself(name: str) -> None:
    status, out, _ = await run(name, "--help")
    assert status == 0
    assert "Exit status" in out
