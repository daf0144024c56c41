"""What must hold after the storm; each check adds a line to the report for what is wrong."""

import random
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import quote

import orjson
from confluent_kafka import Message

from app.config.settings import Settings
from app.domain.positions import offset_of
from tests.chaos.answers import Answer, Answers, agrees
from tests.chaos.cluster import Cluster
from tests.chaos.model import Model, Record, User
from tests.chaos.readers import Claim
from tests.chaos.report import Report
from tests.chaos.schedule import Kind
from tests.chaos.topics import (
    Outcomes,
    Sources,
    Table,
    read_dead_letters,
    read_outcomes,
    read_table,
    reading,
)
from tests.chaos.writes import Write, spelled, user_id
from tests.support import kafka

#: Once the last record is applied, the group must have committed it within this time.
LAG_WITHIN_SECONDS = 5.0
APPLIED_WITHIN_SECONDS = 60.0
SHOWN = 5
#: What `verify` ends with: exit status and last line. It is partial if records were deleted.
CLEAN = 0, "result: clean"
PARTIAL = 2, "result: no difference in what could be checked"
#: What a list tells of a user, of that what the model knows.
LISTED = ("id", "name", "email", "status", "position")

#: By topic and partition: how many records are not applied yet, as the group's offsets say.
Lag = dict[str, dict[int, int]]


@dataclass
class Log:
    """What the topics hold, and what the model makes of it."""

    outcomes: Outcomes
    sources: Sources
    model: Model = field(default_factory=Model)
    #: Positions of records that can be read and stand where they belong.
    positions: set[str] = field(default_factory=set)
    #: Acknowledged positions that hold what was sent, and those that hold anything else.
    written: set[str] = field(default_factory=set)
    strange: list[Record] = field(default_factory=list)
    #: Records of the clients that no acknowledgement names.
    copies: list[Record] = field(default_factory=list)


class Checks:
    """Looks at a cluster at rest, of which all workers run."""

    def __init__(
        self,
        cluster: Cluster,
        report: Report,
        acknowledged: Mapping[str, Write],
        strays: Set[str],
        deadline: float,
    ) -> None:
        self._cluster = cluster
        self._registry = cluster.registry
        self._report = report
        self._acknowledged = acknowledged
        self._strays = strays
        self._deadline = deadline
        self._answers = Answers(cluster.urls)

    # -- at rest

    def settle(self) -> None:
        """Wait until every write is told its outcome; then the lag must soon be none."""
        outcomes = Outcomes()

        with reading(self._registry.brokers, self._registry.outcomes) as reader:

            def all_told() -> bool:
                outcomes.apply(reader.some())
                return (
                    len(outcomes.told) >= len(self._acknowledged)
                    and self._acknowledged.keys() <= outcomes.told.keys()
                    and outcomes.ids.issuperset(self._strays)
                )

            with suppress(AssertionError):  # what is missing is told by `outcomes`
                self._cluster.wait(all_told, APPLIED_WITHIN_SECONDS, "all is settled")
        self.no_lag()

    def no_lag(self) -> None:
        """The group has committed the end of every partition, or does so soon."""
        with suppress(AssertionError):
            self._cluster.wait(self._is_at_rest, LAG_WITHIN_SECONDS, "no lag")
        lag = self._lag(self._ends())
        self._report.lag.append(lag)
        for topic, by_partition in lag.items():
            if any(by_partition.values()):
                after = f"after {LAG_WITHIN_SECONDS:.0f} s, by partition"
                self._wrong(f"lag in {topic} {after}: {by_partition}")

    def _is_at_rest(self) -> bool:
        """Return whether all is applied, and no topic grew while that was asked."""
        ends = self._ends()
        applied = not any(any(lag.values()) for lag in self._lag(ends).values())
        return applied and self._ends() == ends

    def _ends(self) -> Lag:
        brokers = self._registry.brokers
        return {topic: kafka.end_offsets(brokers, topic) for topic in self._registry.sources}

    def _lag(self, ends: Lag) -> Lag:
        registry = self._registry
        lag: Lag = {}
        for topic, by_partition in ends.items():
            committed = kafka.committed(registry.brokers, registry.app_id, topic)
            name = topic.removeprefix(f"{registry.app_id}.").removeprefix(f"{registry.app_id}-")
            lag[name] = {n: end - committed.get(n, 0) for n, end in by_partition.items()}
        return lag

    # -- topics

    def read(self, deleted: Mapping[tuple[int, int], Message]) -> Log:
        """Return what the topics hold, and held before some of it was deleted."""
        registry = self._registry
        partitions = len(kafka.end_offsets(registry.brokers, registry.registrations))
        log = Log(read_outcomes(registry.brokers, registry.outcomes), Sources(partitions))
        with reading(registry.brokers, registry.registrations) as reader:
            left = (each for each in reader.to_the_end() if kafka.place(each) not in deleted)
            for record in log.sources.at_home(chain(deleted.values(), left)):
                self._take(log, record)
        return log

    def _take(self, log: Log, record: Record) -> None:
        log.positions.add(record.position)
        if told := log.outcomes.told.get(record.position):
            log.model.take(record, told.outcome)
        sent = self._acknowledged.get(record.position)
        if sent is None:
            if record.id not in self._strays:
                log.copies.append(record)
            return
        log.written.add(record.position)
        seed = self._report.seed
        if (record.id, record.command) != (user_id(seed, sent.number), sent.command(seed)):
            log.strange.append(record)

    def log(self, log: Log) -> None:
        """What is acknowledged is there, and every record has one outcome that is possible."""
        self._report.outcomes = dict(log.model.counts)
        self._report.contended_addresses = len(log.model.contended)
        if lost := self._acknowledged.keys() - log.written:
            self._wrong(f"{len(lost)} acknowledged writes are not in the topic: {_some(lost)}")
        if log.strange:
            self._wrong(f"{len(log.strange)} records are not as sent: {_some(log.strange)}")
        self._outcomes(log)
        for what in log.model.wrong():
            self._wrong(what)

    def copies(self, log: Log, unanswered: Set[Write]) -> None:
        """The last acknowledged write of each user is the final one.

        A write that was told not to be stored, or that nobody knows, is stored by then or never:
        it was sent again until it was acknowledged, so no copy of it stands behind that one. Only
        where a request had no answer at all, one may.
        """
        sent = defaultdict[str, list[tuple[int, Write]]](list)
        for position, write in self._acknowledged.items():
            sent[user_id(self._report.seed, write.number)].append((offset_of(position), write))
        seed = self._report.seed
        late = [c for c in log.copies if not _may_be_there(c, sent[c.id], unanswered, seed)]
        if late:
            self._wrong(f"{len(late)} copies of writes behind the acknowledged one: {_some(late)}")

    def _outcomes(self, log: Log) -> None:
        told = log.outcomes
        expected = log.positions | log.sources.misplaced
        if untold := expected - told.told.keys():
            self._wrong(f"{len(untold)} records without an outcome: {_some(untold)}")
        if invented := told.told.keys() - expected:
            self._wrong(f"{len(invented)} outcomes of no record: {_some(invented)}")
        if told.repeated:
            self._wrong(f"{len(told.repeated)} records with two outcomes: {_some(told.repeated)}")
        if other := {
            position
            for position, write in self._acknowledged.items()
            if position in told.told
            and told.told[position].id != user_id(self._report.seed, write.number)
        }:
            self._wrong(f"{len(other)} outcomes under another id: {_some(other)}")

    def strays(self, sources: Sources) -> None:
        """What came of records that stood in no good place, or that nobody can read."""
        registry = self._registry
        letters = read_dead_letters(registry.brokers, registry.dead_letters)
        wanted = {f"{registry.registrations}/{position}" for position in sources.unreadable}
        self._once("dead letter", wanted, letters)
        self._once("move", sources.misplaced, sources.moved)

    def _once(self, what: str, wanted: set[str], found: Counter[str]) -> None:
        if missing := wanted - found.keys():
            self._wrong(f"no {what} for {len(missing)} of {len(wanted)} records: {_some(missing)}")
        if more := {position for position, times in found.items() if times > 1}:
            self._wrong(f"more than one {what} for {len(more)} records: {_some(more)}")
        if strange := found.keys() - wanted:
            self._wrong(f"a {what} of {len(strange)} records without need: {_some(strange)}")

    # -- tables

    def tables(self) -> tuple[Table, Table]:
        """Return the tables of users and of emails, as their changelogs hold them."""
        registry = self._registry
        return (
            read_table(registry.brokers, registry.users_changelog),
            read_table(registry.brokers, registry.emails_changelog),
        )

    def rows(self, users: Table, emails: Table, model: Model) -> None:
        """The tables have the model's users, each with its address, and no row beside them."""
        self._report.rows = {"users": len(users.rows), "emails": len(emails.rows)}
        shown = {key.decode(): _shown(row) for key, row in users.rows.items()}
        wanted = {user_id: _row(user_id, user) for user_id, user in model.users.items()}
        self._equal("users", shown, wanted)
        secret = Settings(kafka_brokers=self._registry.brokers).email_keys
        held = {key.decode(): orjson.loads(row) for key, row in emails.rows.items()}
        holders = {
            secret.key(user.email).decode(): {"id": user_id, "attempt": user.attempt}
            for user_id, user in model.users.items()
        }
        self._equal("emails", held, holders)

    def _equal(self, table: str, rows: Mapping[str, object], wanted: Mapping[str, object]) -> None:
        if missing := wanted.keys() - rows.keys():
            self._wrong(f"{len(missing)} rows are not in {table}: {_some(missing)}")
        if strange := rows.keys() - wanted.keys():
            found = [(key, rows[key]) for key in sorted(strange)[:SHOWN]]
            self._wrong(f"{len(strange)} rows should not be in {table}: {_some(found)}")
        if other := {key for key in rows.keys() & wanted.keys() if rows[key] != wanted[key]}:
            pairs = [(rows[key], wanted[key]) for key in sorted(other)[:SHOWN]]
            self._wrong(f"{len(other)} rows of {table} are (and should be): {_some(pairs)}")

    # -- lookups

    def claims(self, claims: Sequence[Claim], model: Model) -> None:
        """What lookups said during the storm was true when they said it."""
        if not claims:
            self._wrong("no lookup was answered during the storm")
        if lies := [claim for claim in claims if not claim.holds(model)]:
            self._wrong(f"{len(lies)} of {len(claims)} claims are not true: {_some(lies)}")

    def listed(self, model: Model) -> None:
        """Every user, and nobody else, is listed as the last write left it."""
        found = {user["id"]: user for user in self._answers.everybody()}
        shown = {user_id: {n: user[n] for n in LISTED} for user_id, user in found.items()}
        wanted = {
            user_id: {name: row[name] for name in LISTED}
            for user_id, user in model.users.items()
            for row in [_row(user_id, user)]
        }
        self._equal("the list of users", shown, wanted)

    def questions(self, log: Log, size: int) -> dict[str, Answer]:
        """Return paths to be asked for, and the answers that the model has for them.

        Half of the users are such as something happened to, the others any.
        """
        chance = random.Random(self._report.seed)
        model, seed = log.model, self._report.seed
        told = log.outcomes.told
        mine = told.keys() & self._acknowledged.keys()
        eventful = {told[p].id for p in mine if told[p].outcome != "registered"}
        half = _sample(chance, eventful | set(self._strays), size // 2)
        known = {user_id(seed, write.number) for write in self._acknowledged.values()}
        ids = [*half, *_sample(chance, known - set(half), size - len(half))]
        addresses = _sample(chance, model.contended, size // 4)
        positions = _sample(chance, mine, size // 4)
        holders = model.holders()
        return {
            **{f"/users/{i}": _found(i, model.users.get(i)) for i in ids},
            **{
                f"/users?email={quote(spelled(address, which))}": _holder(holders.get(address))
                for which, address in enumerate(addresses)
            },
            **{f"/registrations/{p}": (200, told[p].members) for p in positions},
        }

    def answers(self, questions: Mapping[str, Answer]) -> Mapping[str, Answer]:
        """Return what lookups answer; it must be what the model says."""
        found = self._answers.to(questions)
        if untold := {path: status for path, (status, _) in found.items() if not status}:
            self._wrong(f"{len(untold)} of {len(found)} lookups are not answered: {_some(untold)}")
        if other := [
            (path, found[path], wanted)
            for path, wanted in questions.items()
            if found[path][0] and not agrees(found[path], wanted)
        ]:
            self._wrong(f"{len(other)} answers are (and should be): {_some(other)}")
        return found

    # -- all of it

    def same(self, what: str, before: object, after: object) -> None:
        """Nothing has changed."""
        if before != after:
            self._wrong(f"{what} changed when the stores were deleted")

    def verify(self) -> None:
        """The project's own proof that the tables are what the topics make them."""
        seconds = max(self._deadline - time.monotonic(), 10)
        try:
            status, said = self._cluster.verify(seconds)
        except subprocess.TimeoutExpired:
            self._wrong(f"verify took more than {seconds:.0f} s")
            return
        self._report.verified.append(status)
        # A broker that is killed within a minute has deleted records again.
        right = (CLEAN, PARTIAL) if self._report.counts.get(Kind.RECORDS_DELETED) else (CLEAN,)
        if (status, said.splitlines()[-1]) not in right:
            self._wrong(f"verify ended with status {status}: {said.strip()[-2000:]}")

    def _wrong(self, what: str) -> None:
        self._report.wrong.append(what)


def _shown(stored: bytes) -> dict[str, Any]:
    """Return what of a row the model knows, and whatever waits in it."""
    row = orjson.loads(stored)
    row["attempt"] = row.get("attempt", row["position"])
    names = ("id", "name", "email", "status", "position", "attempt", "open", "queue")
    return {name: row[name] for name in names if name in row}


def _row(user_id: str, user: User) -> dict[str, str]:
    """Return the row that a user of the model has."""
    return {
        "id": user_id,
        "name": user.name,
        "email": user.email,
        "status": "registered",
        "position": user.position,
        "attempt": user.attempt,
    }


def _found(user_id: str, user: User | None) -> Answer:
    if user is None:
        return 404, {}
    row = _row(user_id, user)
    del row["attempt"]
    return 200, row


def _holder(user_id: str | None) -> Answer:
    return (404, {}) if user_id is None else (200, {"id": user_id})


def _may_be_there(
    copy: Record, sent: Sequence[tuple[int, Write]], unanswered: Set[Write], seed: int
) -> bool:
    """Return whether a record that nobody acknowledged stands where it may."""
    same = [(offset, write) for offset, write in sent if write.command(seed) == copy.command]
    at = offset_of(copy.position)
    return any(at < offset or write in unanswered for offset, write in same)


def _sample(chance: random.Random, these: Set[str], size: int) -> list[str]:
    return chance.sample(sorted(these), min(len(these), size))


def _some(these: Iterable[object]) -> str:
    """Return a few, in order, so that one can look for them."""
    named = these.items() if isinstance(these, Mapping) else these
    shown = sorted(map(str, named))
    return ", ".join(shown[:SHOWN]) + (" ..." if len(shown) > SHOWN else "")
