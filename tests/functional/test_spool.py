"""The spool in front of a producer: what the broker does not take is kept, and sent in order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.engine.lean import ToWrite
from app.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    RecordTooLargeError,
)
from app.positions import SPOOLED
from app.spool import Spool, SpoolFiles, encode
from tests.functional.fakes import FakeProducer

AWAY = BrokerUnavailableError("no broker takes records")
MIB = 1024 * 1024


@asynccontextmanager
async def spooling(
    folder: Path, producer: FakeProducer, max_bytes: int = MIB
) -> AsyncIterator[Spool]:
    spool = Spool(producer, folder, max_bytes)
    await spool.start()
    try:
        yield spool
    finally:
        await spool.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def record(name: str) -> ToWrite:
    return None, name.encode(), b"{}", []


async def send(spool: Spool, *names: str) -> list[int]:
    (offsets,) = spool.send({0: [record(name) for name in names]}).values()
    return list(await offsets)


def names(producer: FakeProducer) -> list[str]:
    return [(key or b"").decode() for _, _, key, _ in producer.sent]


async def test_while_the_broker_is_there_nothing_is_kept(tmp_path: Path) -> None:
    producer = FakeProducer()
    async with spooling(tmp_path / "spool", producer) as spool:
        assert await send(spool, "a", "b") == [0, 1]
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    "failure", [AWAY, OutcomeUnknownError("no acknowledgement"), OutcomeOpenError("no fence")]
)
async def test_what_the_broker_does_not_take_is_kept_and_sent_in_order(
    tmp_path: Path, failure: Exception
) -> None:
    producer = FakeProducer(failure=failure)
    async with spooling(tmp_path, producer) as spool:
        assert await send(spool, "a", "b") == [SPOOLED, SPOOLED]
        kept = SpoolFiles(tmp_path)
        assert [key for path in kept.names() for _, key, _ in kept.read(path)] == [b"a", b"b"]
        assert await send(spool, "c") == [SPOOLED]
        producer.failure = None
        # Nothing overtakes what is kept.
        assert await send(spool, "d") == [SPOOLED]
        await until(lambda: not kept.names())
        assert names(producer) == ["a", "b", "c", "d"]
        await until(lambda: not spool._is_used)
        assert await send(spool, "e") == [4]


async def test_what_a_worker_left_is_sent_by_the_next(tmp_path: Path) -> None:
    files = SpoolFiles(tmp_path)
    files.append(b"".join(encode((0, name, b"{}")) for name in (b"a", b"b")))
    producer = FakeProducer(failure=AWAY)
    async with spooling(tmp_path, producer) as spool:
        assert await send(spool, "c") == [SPOOLED]
    files.append(b"0000 torn by a crash")
    producer.failure = None
    # Even if it keeps nothing itself.
    async with spooling(tmp_path, producer, max_bytes=0):
        await until(lambda: not files.names())
    assert names(producer) == ["a", "b", "c"]


async def test_no_more_is_kept_than_it_may(tmp_path: Path) -> None:
    producer = FakeProducer(failure=AWAY)
    async with spooling(tmp_path, producer, max_bytes=100) as spool:
        sent = [spool.send({0: [record("a")]})[0] for _ in range(10)]
        told = await asyncio.gather(*sent, return_exceptions=True)
        kept = [told_one for told_one in told if not isinstance(told_one, BaseException)]
        refused = [told_one for told_one in told if isinstance(told_one, BrokerUnavailableError)]
        assert 0 < len(kept) <= 4
        assert len(kept) + len(refused) == 10
        assert SpoolFiles(tmp_path).size() <= 100


async def test_without_room_on_the_disk_the_first_cause_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    producer = FakeProducer(failure=OutcomeUnknownError("no acknowledgement"))
    async with spooling(tmp_path, producer) as spool:
        monkeypatch.setattr(SpoolFiles, "append", full)
        with pytest.raises(OutcomeUnknownError):
            await send(spool, "a")
        producer.failure = None
        await until(lambda: not spool._is_used)
        assert await send(spool, "b") == [0]


async def test_what_the_broker_never_will_take_is_not_kept(tmp_path: Path) -> None:
    producer = FakeProducer(failure=RecordTooLargeError("too large"))
    async with spooling(tmp_path, producer) as spool:
        with pytest.raises(RecordTooLargeError):
            await send(spool, "a")
    assert SpoolFiles(tmp_path).names() == []


async def test_many_are_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[bytes] = []
    append = SpoolFiles.append

    def count(files: SpoolFiles, lines: bytes) -> None:
        appended.append(lines)
        append(files, lines)

    monkeypatch.setattr(SpoolFiles, "append", count)
    producer = FakeProducer(failure=AWAY)
    async with spooling(tmp_path, producer) as spool:
        told = await asyncio.gather(*(send(spool, f"u{n}") for n in range(1_000)))
        assert told == [[SPOOLED]] * 1_000
        assert len(appended) < 20
        producer.failure = None
        await until(lambda: not spool._is_used)
    assert names(producer) == [f"u{n}" for n in range(1_000)]
