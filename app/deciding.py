"""What the agents do: decide records by the rows of their partition.

Rows, claims, verdicts, outcomes, dead letters and moved records are added to the `Changes` of the
partition, and the engine writes them in one transaction.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import orjson
import structlog
from faust.types import TP
from pydantic import ValidationError

from app.dead_letters import DeadLetters
from app.domain.addresses import EmailKeys
from app.domain.consumed_records import (
    ConsumedRecord,
    UnreadableRecord,
    as_they_were,
    require_readable,
)
from app.domain.decisions import Claiming, Decisions, Rows
from app.domain.email_claims import (
    Holder,
    encode_claim,
    encode_holder,
    encode_verdict,
    read_claim,
    read_verdict,
    settle,
)
from app.domain.errors import UnreadableRecordError
from app.domain.keys import partitions_of
from app.domain.outcomes import Decided, Outcome
from app.domain.parsing import MOVED_FROM_HEADER, Move, id_of, sort
from app.domain.positions import Position, token
from app.domain.records import Outgoing, UserRow, encode_outcome, encode_row
from app.engine.marker import letters_key, move_key
from app.engine.partitions import Changes
from app.engine.shares import Sent
from app.kafka.fast_records import NO_HEADERS
from app.kafka.moved_records import MovedBefore
from app.kafka.topics import Topics, TopicSpec
from app.telemetry.metrics import DEAD_LETTERS, OUTCOMES
from tables import Tables

log = structlog.get_logger(__name__)
#: It knows the log level: structlog prepares each line before it is dropped.
_stdlib_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Dead letters tell of themselves, and a move is told once its new position is known.
_TOLD_ELSEWHERE = (Outcome.DEAD_LETTER, Outcome.MOVED)


@dataclass(frozen=True, slots=True)
class Deciding:
    """What comes of records, by the rows that there are."""

    topics: Topics
    tables: Tables
    #: Of addresses: by what they are known beyond the users' rows.
    email_keys: EmailKeys
    moved_before: MovedBefore

    # -- user-registrations

    def decide_registrations(
        self, partition: int, arrivals: Sequence[ConsumedRecord], changes: Changes
    ) -> None:
        """Add what comes of a partition's records, by the rows there are and those before."""
        batch = sort(partition, arrivals, self.topics.user_registrations.partitions)
        decisions = Decisions(partition, self.email_keys.key, self.email_keys.key_of_0_8)
        rows = self.tables.users.rows(partition, batch.keys, changes.rows)
        changed = decisions.ask_all(batch, rows)
        # Before the erasures among the decisions: they reach the letters of this batch, too.
        for arrival, error in batch.unreadable:
            self._add_letter(changes, partition, arrival, error)
        decisions.outcomes.extend(
            Decided(arrival.offset, "", Outcome.DEAD_LETTER) for arrival, _ in batch.unreadable
        )
        for move in batch.elsewhere:
            self._add_move(changes, partition, move)
            decisions.outcomes.append(Decided(move.arrival.offset, "", Outcome.MOVED))
        self._add_decisions(changes, partition, changed, decisions)

    def _add_letter(
        self,
        changes: Changes,
        partition: int,
        arrival: ConsumedRecord,
        error: UnreadableRecordError,
    ) -> None:
        position = token(partition, arrival.offset)
        log.warning("dead letter", cause=error.cause, position=position)
        changes.on_commit.append(DEAD_LETTERS.labels(error.cause).inc)
        changes.send(
            self._letters_of(self.topics.user_registrations).letter(partition, arrival, error)
        )
        user_id = id_of(arrival)
        if user_id is not None:
            changes.rows[letters_key(user_id)] = self.tables.letters.with_new(
                partition, user_id, position, changes.rows
            )

    def _add_move(self, changes: Changes, partition: int, move: Move) -> None:
        if (copy := self.moved_before.copy_of(partition, move)) is not None:
            self._note_move(changes, partition, move, copy)
            return
        position = token(partition, move.arrival.offset)
        record = Outgoing(
            self.topics.user_registrations.name,
            move.partition,
            move.key,
            move.value,
            max(move.arrival.timestamp, 0),
            [*move.headers, (MOVED_FROM_HEADER, position.encode())],
        )
        changes.noted.append((record, partial(self._note_move, changes, partition, move)))

    def _note_move(self, changes: Changes, partition: int, move: Move, offset: int) -> None:
        moved_to = token(move.partition, offset)
        changes.rows[move_key(move.arrival.offset)] = moved_to.encode()
        decided = Decided(move.arrival.offset, move.id, Outcome.MOVED)
        changes.send(self._outcome(partition, decided, move.partition, moved_to))

    # -- email-claims

    def decide_claims(
        self, partition: int, arrivals: Sequence[ConsumedRecord], changes: Changes
    ) -> None:
        """Add the verdicts on claims of a partition, and who holds the addresses then."""
        topic = self.topics.email_claims
        claims = self._readable(topic, partition, arrivals, read_claim, changes)
        keys = [arrival.key or b"" for arrival, _ in claims]
        before = self.tables.emails.rows(partition, keys, changes.rows)
        homes = partitions_of([claim["id"].encode() for _, claim in claims], topic.partitions)
        holders: dict[bytes, Holder | None] = {}
        for key, (arrival, claim), home in zip(keys, claims, homes, strict=True):
            holder = holders[key] if key in holders else before.get(key)
            holders[key], verdict = settle(holder, claim)
            if verdict is not None:
                at = token(partition, arrival.offset)
                value = encode_verdict(key, claim["attempt"], verdict, at)
                changes.outgoing[self.topics.email_decisions.name, home].append(
                    (None, claim["id"].encode(), value, NO_HEADERS)
                )
        changes.rows.update(
            (key, None if holder is None else encode_holder(holder))
            for key, holder in holders.items()
            if holder != before.get(key)
        )

    # -- email-decisions

    def decide_verdicts(
        self, partition: int, arrivals: Sequence[ConsumedRecord], changes: Changes
    ) -> None:
        """Add what verdicts make of the users that wait for them."""
        topic = self.topics.email_decisions
        verdicts = self._readable(topic, partition, arrivals, read_verdict, changes)
        decisions = Decisions(partition, self.email_keys.key, self.email_keys.key_of_0_8)
        keys = [arrival.key or b"" for arrival, _ in verdicts]
        rows = self.tables.users.rows(partition, keys, changes.rows)
        changed: dict[bytes, UserRow | None] = {}
        for key, (_, verdict) in zip(keys, verdicts, strict=True):
            row = changed[key] if key in changed else rows.get(key)
            changed[key] = decisions.settle(row, key, verdict)
        self._add_decisions(changes, partition, changed, decisions)

    # -- what decisions come to

    def _add_decisions(
        self, changes: Changes, partition: int, changed: Rows, decisions: Decisions
    ) -> None:
        changes.rows.update(
            (key, None if row is None else encode_row(row)) for key, row in changed.items()
        )
        if decisions.claims:
            # What becomes of a claim comes back here.
            changes.likely |= {
                TP(topic.name, partition)
                for topic in (self.topics.email_decisions, self.topics.registration_outcomes)
            }
            self._add_claims(changes, decisions.claims)
        outcomes = decisions.outcomes
        changes.rows.update(self.tables.outcomes.with_new(partition, outcomes, changes.rows))
        terminal = [decided for decided in outcomes if decided.outcome is not Outcome.PENDING]
        changes.settled.extend(decided.offset for decided in terminal)
        changes.on_commit.append(partial(_count, Counter(decided.outcome for decided in terminal)))
        if _stdlib_log.isEnabledFor(logging.DEBUG):
            changes.on_commit.append(partial(_tell, partition, terminal))
        told = [decided for decided in terminal if decided.outcome not in _TOLD_ELSEWHERE]
        changes.outgoing[self.topics.registration_outcomes.name, partition].extend(
            (
                None,
                decided.id.encode(),
                encode_outcome(token(partition, decided.offset), decided),
                NO_HEADERS,
            )
            for decided in told
        )
        self._add_recent(changes, partition, changed, told)
        changes.rows.update(
            self.tables.counts.changed(
                partition, decisions.registered, decisions.erased, changes.rows
            )
        )

    def _add_claims(self, changes: Changes, claims: Sequence[Claiming]) -> None:
        topic = self.topics.email_claims
        homes = partitions_of([claim.email_key for claim in claims], topic.partitions)
        for (kind, key, user_id, attempt), home in zip(claims, homes, strict=True):
            changes.outgoing[topic.name, home].append(
                (None, key, encode_claim(kind, user_id, attempt), NO_HEADERS)
            )

    def _add_recent(
        self, changes: Changes, partition: int, changed: Rows, told: Iterable[Decided]
    ) -> None:
        registered: list[UserRow] = []
        erased: set[str] = set()
        for _, user_id, outcome in told:
            if outcome is Outcome.REGISTERED:
                row = changed.get(user_id.encode())
                if row is not None:
                    registered.append(row)
            elif outcome is Outcome.ERASED:
                erased.add(user_id)
                self._erase_letters(changes, partition, user_id)
        if registered or erased:
            changes.rows.update(
                self.tables.recent.changed(partition, registered, erased, changes.rows)
            )

    def _erase_letters(self, changes: Changes, partition: int, user_id: str) -> None:
        positions = self.tables.letters.of(partition, user_id, changes.rows)
        for position in positions:
            letters = self._letters_of(self.topics.user_registrations)
            changes.send(letters.mark(Position.parse(position), "erased"))
        if positions:
            changes.rows[letters_key(user_id)] = None

    def _outcome(
        self, partition: int, decided: Decided, home: int, moved_to: str | None = None
    ) -> Outgoing:
        return Outgoing(
            self.topics.registration_outcomes.name,
            home,
            decided.id.encode(),
            encode_outcome(token(partition, decided.offset), decided, moved_to),
        )

    def _letters_of(self, topic: TopicSpec) -> DeadLetters:
        return DeadLetters(topic.name, self.topics.dead_letter.name)

    def _readable(
        self,
        topic: TopicSpec,
        partition: int,
        arrivals: Sequence[ConsumedRecord],
        read: Callable[[bytes], T],
        changes: Changes,
    ) -> list[tuple[ConsumedRecord, T]]:
        """Return the records of our own topic that can be read; others are dead letters."""
        if set(map(type, arrivals)) == {Sent}:
            # This worker has just written them, in this transaction: all at once, and unchecked.
            values = orjson.loads(b"[%b]" % b",".join([each.value or b"" for each in arrivals]))
            return list(zip(arrivals, values, strict=True))
        arrivals = as_they_were(arrivals)
        try:
            require_readable(arrivals)
            # Nearly always: all of them, and all keys are text.
            b"\n".join([arrival.key for arrival in arrivals]).decode()  # type: ignore[misc]
            return [(arrival, read(arrival.value)) for arrival in arrivals]  # type: ignore[arg-type]
        except (ValidationError, UnicodeDecodeError, TypeError, UnreadableRecordError):
            pass
        readable = []
        for arrival in arrivals:
            error = arrival.error if isinstance(arrival, UnreadableRecord) else None
            try:
                if error is None:
                    arrival.key.decode()  # type: ignore[union-attr]
                    readable.append((arrival, read(arrival.value or b"")))
            except (ValidationError, UnicodeDecodeError, AttributeError):
                error = UnreadableRecordError(
                    "invalid-record", f"The record is none of {topic.name}"
                )
            if error is not None:
                position = token(partition, arrival.offset)
                log.warning("dead letter", topic=topic.name, cause=error.cause, position=position)
                changes.on_commit.append(DEAD_LETTERS.labels(error.cause).inc)
                changes.send(self._letters_of(topic).letter(partition, arrival, error))
        return readable

    def tidy_users(self, partition: int, log_starts: Mapping[str, int], changes: Changes) -> None:
        """Remove outcomes of records that are gone."""
        start = log_starts[self.topics.user_registrations.name]
        changes.rows.update(dict.fromkeys(self.tables.outcomes.superfluous(partition, start)))


def _tell(partition: int, terminal: Iterable[Decided]) -> None:
    """Log what became of each record; its id is personal, its position is not."""
    for decided in terminal:
        log.debug(
            "settled",
            position=token(partition, decided.offset),
            outcome=decided.outcome.reason or decided.outcome.word,
        )


def _count(outcomes: Mapping[Outcome, int]) -> None:
    for outcome, records in outcomes.items():
        OUTCOMES.labels(outcome.name.lower().replace("_", "-")).inc(records)
