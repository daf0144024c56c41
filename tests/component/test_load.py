"""`load` against the web view without a broker, and against servers that misbehave."""

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import orjson
import pytest
import trustme
from click.testing import CliRunner

from app.cli.main import main
from app.domain.errors import BrokerUnavailableError
from local.machine import free_port
from tests.component.conftest import Client
from tests.component.fakes import FakeProducer
from tools.load import LoadError, Options, drive
from tools.load.options import CODINGS, MODES, Coding, Mode
from tools.load.report import Snapshot

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"


def url_of(client: Client) -> str:
    return str(client.make_url(""))


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve connections by hand; return the address."""
    serves = []
    writers = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serves.append(asyncio.current_task())
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*filter(None, serves))
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Return a request of one registration: all of them end in a brace."""
    await reader.readuntil(b"\r\n\r\n")
    return await reader.readuntil(b"}")


async def accept_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(reader)
        writer.write(ACCEPTED)


@pytest.mark.parametrize("mode", MODES)
async def test_every_mode_registers_exactly_what_it_says(
    client: Client, producer: FakeProducer, mode: Mode, tmp_path: Path
) -> None:
    ids = tmp_path / "ids"
    options = Options(
        url=url_of(client), mode=mode, batch=8, registrations=100, warmup=0, keep_ids=ids
    )
    told = await drive(options)
    assert (told.registrations, told.acknowledged, told.rejected) == (100, 100, 0)
    assert (told.refused, told.errors) == ({}, {})
    assert told.requests == (100 if mode == "single" else 13)
    kept = ids.read_text().split()
    assert len(kept) == 100
    assert {each.encode() for each in kept} == {key for _, _, key, _ in producer.sent}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("mode", ["batch", "ndjson", "trpc"])
async def test_batches_are_compressed_if_asked_for(
    client: Client, producer: FakeProducer, mode: Mode, coding: Coding
) -> None:
    options = Options(
        url=url_of(client), mode=mode, batch=10, compress=coding, registrations=100, warmup=0
    )
    told = await drive(options)
    assert (told.acknowledged, told.rejected, len(producer.sent)) == (100, 0, 100)


async def test_a_warm_up_does_not_count(client: Client, producer: FakeProducer) -> None:
    told = await drive(Options(url=url_of(client), registrations=50, warmup=0.1, connections=2))
    assert told.acknowledged == 50
    assert len(producer.sent) > 50


async def test_duplicates_repeat_registrations_exactly(
    client: Client, producer: FakeProducer
) -> None:
    options = Options(url=url_of(client), registrations=200, warmup=0, duplicates=0.5)
    told = await drive(options)
    assert told.acknowledged == 200
    keys = {key for _, _, key, _ in producer.sent}
    assert 60 < len(keys) < 140
    assert len({value for _, _, _, value in producer.sent}) == len(keys)


async def test_refusals_are_counted_by_status(client: Client, producer: FakeProducer) -> None:
    producer.failures_from = (30, BrokerUnavailableError("no broker"))
    told = await drive(Options(url=url_of(client), registrations=50, warmup=0, connections=1))
    assert (told.acknowledged, told.retries) == (30, 0)
    assert told.refused == {"503": {"requests": 20, "registrations": 20, "with_retry_after": 20}}
    assert told.refusal_ms is not None


async def test_a_refused_request_is_sent_again_if_asked_for() -> None:
    async def refuse_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            first = await read_request(reader)
            writer.write(REFUSED)
            assert await read_request(reader) == first
            writer.write(ACCEPTED)

    async with serving(refuse_first) as url:
        told = await drive(Options(url=url, registrations=10, warmup=0, connections=2, retry=3))
    assert (told.acknowledged, told.retries, told.refused) == (10, 10, {})


async def test_retries_have_a_limit() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(REFUSED)

    async with serving(refuse) as url:
        told = await drive(Options(url=url, registrations=5, warmup=0, retry=2))
    assert (told.acknowledged, told.retries) == (0, 10)
    assert told.refused == {"503": {"requests": 5, "registrations": 5, "with_retry_after": 5}}


async def test_a_silent_server_ends_in_time_outs() -> None:
    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(say_nothing) as url:
        told = await drive(Options(url=url, registrations=3, warmup=0, connections=3, timeout=0.1))
    assert (told.requests, told.acknowledged, told.errors) == (3, 0, {"time-out": 3})
    assert told.service_ms is None


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"", "connection-closed"), (b"what?\r\n\r\n", "malformed-answer")]
)
async def test_what_is_no_answer_is_an_error(answer: bytes, kind: str) -> None:
    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        writer.close()

    async with serving(misbehave) as url:
        told = await drive(Options(url=url, registrations=4, warmup=0, connections=2))
    assert (told.requests, told.errors) == (4, {kind: 4})


async def test_a_connection_that_the_server_ends_is_made_again() -> None:
    async def accept_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ACCEPTED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        writer.close()

    async with serving(accept_one) as url:
        told = await drive(Options(url=url, registrations=20, warmup=0, connections=2))
    assert (told.acknowledged, told.errors) == (20, {})


async def test_a_request_that_meets_the_end_of_an_idle_connection_is_sent_once_more() -> None:
    async def end_at_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ACCEPTED)
        await read_request(reader)
        writer.close()

    async with serving(end_at_the_second) as url:
        told = await drive(Options(url=url, registrations=9, warmup=0, connections=1))
    assert (told.requests, told.acknowledged, told.retries, told.errors) == (9, 9, 8, {})


async def test_a_request_is_sent_once_more_only_if_nothing_of_an_answer_came() -> None:
    async def end_in_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ACCEPTED)
        await read_request(reader)
        writer.write(ACCEPTED[:20])
        await writer.drain()
        writer.close()

    async with serving(end_in_the_second) as url:
        told = await drive(Options(url=url, registrations=2, warmup=0, connections=1))
    assert (told.acknowledged, told.retries, told.errors) == (1, 0, {"connection-closed": 1})


async def test_time_counts_from_when_a_request_was_due() -> None:
    """A server that stalls once has one slow answer, and many that had to wait behind it."""
    stalled = False

    async def stall_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal stalled
        while True:
            await read_request(reader)
            if not stalled:
                stalled = True
                await asyncio.sleep(0.5)
            writer.write(ACCEPTED)

    async with serving(stall_once) as url:
        told = await drive(Options(url=url, rate=200, duration=1, warmup=0, connections=1))
    assert told.service_ms is not None
    assert told.response_ms is not None
    assert told.service_ms["p50"] < 100
    assert told.service_ms["p90"] < 200
    assert told.response_ms["max"] >= 490
    assert told.response_ms["p90"] > 250
    assert any("waited for a free connection" in note for note in told.notes)


async def test_a_fixed_rate_is_kept() -> None:
    async with serving(accept_all) as url:
        told = await drive(Options(url=url, rate=400, duration=0.5, warmup=0.1))
    assert told.requests + told.not_begun == pytest.approx(200, abs=20)


async def test_a_run_can_be_stopped_and_watched() -> None:
    stop = asyncio.Event()
    seen: list[Snapshot] = []

    def watch(snapshot: Snapshot) -> None:
        seen.append(snapshot)
        if snapshot.acknowledged:
            stop.set()

    async with serving(accept_all) as url:
        told = await drive(Options(url=url, duration=60, warmup=0.1), watch=watch, stop=stop)
    assert told.interrupted
    assert told.acknowledged >= seen[-1].acknowledged > 0
    assert seen[-1].per_second > 0
    assert seen[-1].p50_ms is not None


async def test_nobody_at_the_address_is_told() -> None:
    with pytest.raises(LoadError, match=r"nothing answers at .*: connection-refused"):
        await drive(Options(url=f"http://127.0.0.1:{free_port()}"))


async def test_tls_is_spoken_with_whom_the_machine_trusts(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    async with serving(accept_all, tls) as url:
        told = await drive(Options(url=url, registrations=10, warmup=0, ca_file=trusted))
        with pytest.raises(LoadError, match="no trusted certificate"):
            await drive(Options(url=url, registrations=10))
    assert told.acknowledged == 10


async def test_ids_that_cannot_be_written_end_the_run(client: Client, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        await drive(Options(url=url_of(client), keep_ids=tmp_path / "none" / "ids"))
    with pytest.raises(LoadError, match="No space left"):
        await drive(Options(url=url_of(client), keep_ids=Path("/dev/full")))


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["load", *arguments])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "'nonsense' is no address of a registry: it must be http(s)://host:port"),
        (["http://a", "--prefix", "ä"], "the prefix must be 1 to 51 letters, digits, '_' and '-'"),
        (
            ["http://a", "--duration", "1", "--registrations", "1"],
            "a run ends by duration or by registrations, not by both",
        ),
        (
            ["http://a", "--compress", "gzip"],
            "single registrations are not compressed: choose a mode with a batch",
        ),
        (["http://a", "--rate", "nan"], "rate, seconds and shares must be finite numbers"),
        (["http://a", "--json", "/none/x"], "/none/x: No such file or directory"),
        (["https://a", "--ca-file", "/none"], "/none: no certificates can be read there"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], line: str) -> None:
    assert command(*arguments) == (2, f"{line}\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nobody_there_is_told_in_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert command(url) == (2, f"nothing answers at {url}: connection-refused\n")


async def started(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "load", *arguments, stdout=pipe, stderr=pipe
    )


async def test_the_command_reports_on_standard_output() -> None:
    async with serving(accept_all) as url, asyncio.timeout(30):
        process = await started(url, "--registrations", "100", "--warmup", "0", "--json", "-")
        out, tables = await process.communicate()
    told = orjson.loads(out)
    assert (process.returncode, told["acknowledged"]) == (0, 100)
    assert told["options"]["connections"] == 64
    assert b"acknowledged a second" in tables
    assert b"service time" in tables


async def test_the_command_fails_if_nothing_is_acknowledged(client: Client) -> None:
    async with asyncio.timeout(30):
        wrong = f"{url_of(client)}/nowhere"
        process = await started(wrong, "--registrations", "5", "--warmup", "0")
        out, errors = await process.communicate()
    assert (process.returncode, errors) == (1, b"")
    assert b"refused with 404, requests" in out


async def test_ctrl_c_ends_the_command_with_a_report() -> None:
    busy = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            busy.set()
            writer.write(ACCEPTED)

    async with serving(accept) as url, asyncio.timeout(30):
        process = await started(url, "--duration", "60", "--warmup", "0", "--connections", "1")
        await busy.wait()
        process.send_signal(signal.SIGINT)
        out, errors = await process.communicate()
    assert (process.returncode, errors) == (130, b"")
    assert b"interrupted" in out
    assert b"acknowledged" in out
