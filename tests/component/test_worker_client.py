"""The client that workers ask each other with, and workers that do what a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme

from app.query import worker_client
from app.query.worker_client import Asking, NoAnswerError, WorkerClient
from app.system.loop import Loop

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

ADA = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nada"

Script = Callable[["Worker", Reader, Writer], Awaitable[None]]


async def well(worker: "Worker", reader: Reader, writer: Writer) -> None:
    """Answer each question."""
    while await worker.asked(reader):
        writer.write(ADA)


class Worker:
    """A worker that answers each connection by a script, the last of them for all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.questions: list[bytes] = []

    async def asked(self, reader: Reader) -> bytes:
        """Return the next question, nothing if there is none."""
        try:
            question = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        self.questions.append(question)
        return question

    async def serve(self, reader: Reader, writer: Writer) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            await script(self, reader, writer)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def asking(*scripts: Script) -> AsyncIterator[tuple[WorkerClient, Worker, str]]:
    worker, client = Worker(*scripts), WorkerClient(Asking())
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(30):
            yield client, worker, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await client.stop()
        server.close()
        await server.wait_closed()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take its time."""
    monkeypatch.setattr(worker_client, "CONNECT_TIMEOUT_SECONDS", 20.0)


async def test_a_connection_serves_one_question_after_the_other() -> None:
    async with asking(well) as (client, worker, url):
        for _ in range(3):
            assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        assert worker.connections == 1
        host = url.removeprefix("http://").encode()
        assert worker.questions[0].startswith(b"GET /users?id=ada HTTP/1.1\r\nHost: %b\r\n" % host)


async def test_questions_at_once_need_a_connection_each_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_client, "MAX_CONNECTIONS", 2)
    async with asking(well) as (client, worker, url):
        told = await asyncio.gather(*(client.get(url, "/users?id=ada", 5) for _ in range(9)))
        assert told == [(200, b"ada")] * 9
        assert worker.connections == 2


async def test_a_connection_that_ended_while_it_was_kept_is_replaced() -> None:
    async def once(worker: Worker, reader: Reader, writer: Writer) -> None:
        await worker.asked(reader)
        writer.write(ADA)
        # The second question is read, and has no answer.
        await worker.asked(reader)

    async with asking(once, well) as (client, worker, url):
        for _ in range(2):
            assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        assert worker.connections == 2


async def test_a_connection_that_is_kept_for_long_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_client, "KEEP_SECONDS", 0.0)
    async with asking(well) as (client, worker, url):
        for _ in range(2):
            assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        assert worker.connections == 2


async def test_a_worker_that_does_not_answer_in_time_is_given_up_with_its_connection() -> None:
    async def silent(worker: Worker, reader: Reader, writer: Writer) -> None:
        while await worker.asked(reader):
            pass

    async with asking(silent, well) as (client, worker, url):
        with pytest.raises(TimeoutError):
            await client.get(url, "/users?id=ada", 0.05)
        assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        assert worker.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nada",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_answer_is_none(answer: bytes) -> None:
    async def babbles(worker: Worker, reader: Reader, writer: Writer) -> None:
        await worker.asked(reader)
        writer.write(answer)
        await worker.asked(reader)

    async with asking(babbles, well) as (client, _, url):
        with pytest.raises(NoAnswerError):
            await client.get(url, "/users?id=ada", 5)
        assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")


async def test_an_answer_that_ends_in_its_middle_is_none() -> None:
    async def half(worker: Worker, reader: Reader, writer: Writer) -> None:
        await worker.asked(reader)
        writer.write(ADA[:-1])
        await writer.drain()
        writer.close()
        await reader.read()

    async with asking(half) as (client, worker, url):
        with pytest.raises(ConnectionError):
            await client.get(url, "/users?id=ada", 5)
        # It was heard: it is not asked once more.
        assert worker.connections == 1


async def test_nobody_hears_an_answer_that_was_not_asked_for() -> None:
    async def twice(worker: Worker, reader: Reader, writer: Writer) -> None:
        await worker.asked(reader)
        writer.write(ADA + ADA.replace(b"ada", b"eve")[:30])
        await worker.asked(reader)

    async with asking(twice, well) as (client, worker, url):
        for _ in range(2):
            assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        assert worker.connections == 2


async def test_an_answer_in_chunks_is_put_together_and_ends_the_connection_if_it_says_so() -> None:
    async def chunks(worker: Worker, reader: Reader, writer: Writer) -> None:
        await worker.asked(reader)
        writer.write(b"HTTP/1.1 503 No\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\na\r\n2\r\nda\r\n0\r\n\r\n")
        await worker.asked(reader)

    async with asking(chunks, well) as (client, worker, url):
        assert await client.get(url, "/users?id=ada", 5) == (503, b"ada")
        assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        assert worker.connections == 2


async def test_who_is_not_there_is_forgotten() -> None:
    async with asking(well) as (client, _, url):
        assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        with pytest.raises(OSError, match=r"refused|Connect"):
            await client.get("http://127.0.0.1:1", "/users?id=ada", 5)
        assert [*client._workers] == [url]


async def test_a_client_that_stops_closes_what_it_keeps() -> None:
    async with asking(well) as (client, _, url):
        assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
        await client.stop()
        assert client.is_closed
        assert all(each.is_unused for each in client._workers.values())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, Loop])
@pytest.mark.parametrize("is_trusted", [True, False])
def test_over_tls_only_a_worker_whose_certificate_is_trusted_is_asked(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], is_trusted: bool
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    serves = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trusts = ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serves)
    (authority if is_trusted else other).configure_trust(trusts)

    async def ask() -> None:
        worker, client = Worker(well), WorkerClient(Asking(tls=trusts))
        server = await asyncio.start_server(worker.serve, "127.0.0.1", 0, ssl=serves)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            if is_trusted:
                for _ in range(2):
                    assert await client.get(url, "/users?id=ada", 5) == (200, b"ada")
                assert worker.connections == 1
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await client.get(url, "/users?id=ada", 5)
                assert not worker.questions
        finally:
            await client.stop()
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(ask())
