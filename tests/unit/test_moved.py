"""Copies of moved records: found by where these first stood, and only if they say the same."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import pytest
from faust.types import TP

from app.config.connection import Connection
from app.domain.errors import BrokerUnavailableError, NotWrittenError
from app.domain.parsing import MOVED_FROM_HEADER, Move
from app.domain.positions import token
from app.kafka import moved_records
from app.kafka.moved_records import MovedBefore
from app.kafka.topics import TopicSpec
from tests.support.simulation import Log, Record, SimulatedReader

TOPIC = TopicSpec("user-registrations", 8, 1)
VALUE = b'{"id": "ada"}'
#: Where a record first stood, and where it belongs.
BEFORE, HOME, OFFSET = 1, 2, 5


class Topic:
    """The topic, as a reader gives it."""

    def __init__(self) -> None:
        self.logs = {(TOPIC.name, number): Log() for number in range(TOPIC.partitions)}
        self.random = Random(1)

    def log(self, topic: TopicSpec, number: int) -> Log:
        """Return a partition."""
        return self.logs[topic.name, number]

    def copy(self, value: bytes = VALUE, header: bytes | None = None) -> int:
        """Write a copy of the record; return its offset."""
        origin = token(BEFORE, OFFSET).encode() if header is None else header
        headers = [("other", b""), (MOVED_FROM_HEADER, origin)]
        return self.logs[TOPIC.name, HOME].append(Record(0, b"ada", value, headers))


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    """Return a topic, which is read from memory."""
    made = Topic()

    @asynccontextmanager
    async def reader(*_: Any) -> AsyncIterator[SimulatedReader]:
        yield SimulatedReader(cast(Any, made))

    monkeypatch.setattr(moved_records, "reader", reader)
    return made


def move(home: int = HOME, value: bytes = VALUE) -> Move:
    """Return the record, as it would be moved."""
    return Move(cast(Any, Record(OFFSET)), home, "ada", b"ada", value, ())


async def found() -> MovedBefore:
    """Return what finds copies, after it has found them."""
    before = MovedBefore(Connection("nowhere:1"), TOPIC)
    await before.find(TP(TOPIC.name, BEFORE))
    return before


async def test_the_first_copy_is_found_by_where_its_record_stood(topic: Topic) -> None:
    topic.logs[TOPIC.name, HOME].append(Record(0, b"eve", b"{}"))
    assert topic.copy() == 1
    topic.copy()
    before = await found()
    assert before.copy_of(BEFORE, move()) == 1
    assert before.copy_of(BEFORE + 1, move()) is None


async def test_only_what_says_the_same_in_the_right_place_is_a_copy(topic: Topic) -> None:
    """Any producer can write the header: it must hide no record."""
    topic.copy()
    before = await found()
    assert before.copy_of(BEFORE, move(value=b'{"id": "ada", "name": "Ada"}')) is None
    assert before.copy_of(BEFORE, move(home=HOME + 1)) is None


@pytest.mark.parametrize("header", [b"", b"\xff", b"nonsense"])
async def test_a_header_that_is_no_position_is_passed(topic: Topic, header: bytes) -> None:
    topic.copy(header=header)
    assert (await found()).copy_of(BEFORE, move()) is None


async def test_nothing_is_looked_for_in_topics_without_copies(topic: Topic) -> None:
    topic.copy()
    before = MovedBefore(Connection("nowhere:1"), TOPIC)
    await before.find(TP("email-claims", BEFORE))
    assert before.copy_of(BEFORE, move()) is None


async def test_without_a_broker_it_is_tried_again(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise BrokerUnavailableError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(moved_records, "reader", away)
        with pytest.raises(NotWrittenError):
            await found()
