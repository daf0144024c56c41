"""The protocol "One email, one user", in every order that Kafka allows.

A state machine appends records to ``user-registrations`` and lets partitions apply what they have
to, in transactions of any size, in any order between partitions and topics, with crashes. The
decisions are the real ones; rows are stored as JSON between two transactions. The protocol stands
in docs/decisions/one-email-one-user.md. Its invariants:

I1 each position has one terminal outcome, I2 each id at most one open attempt, I3 each email key at
most one holder. I4 Who is registered holds the address. I5 An address is held by a row's attempt,
or by an open one, or its release is in flight. I6 Who is refused an address finds it held by
another id. I7 A record is rejected because too many wait if, and only if, all places of its id's
queue are taken; an erasure has one place more.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.domain import decisions, email_claims
from app.domain.addresses import EmailKeys, normalised
from app.domain.decisions import Decisions, attempt_of, is_open
from app.domain.email_claims import (
    Claim,
    Holder,
    Verdict,
    decode_holder,
    encode_claim,
    encode_holder,
    encode_verdict,
    read_claim,
    read_verdict,
)
from app.domain.keys import partition_of
from app.domain.outcomes import Decided, Outcome
from app.domain.parsing import MOVED_FROM_HEADER, sort
from app.domain.positions import token
from app.domain.records import (
    Erasure,
    Queued,
    Registration,
    Update,
    UserRow,
    decode_row,
    encode,
    encode_row,
)
from tests.support.strategies import Record

PARTITIONS = 2
#: So few may wait that queues are full often.
MAX_QUEUE = 2
EMAIL_KEY = EmailKeys(b"a secret of tests").key

REGISTRATIONS, CLAIMS, VERDICTS = "user-registrations", "email-claims", "email-decisions"

#: A partition of a topic.
Source = tuple[str, int]
SOURCES = [(topic, p) for topic in (REGISTRATIONS, CLAIMS, VERDICTS) for p in range(PARTITIONS)]

IDS = ["ada", "bob", "eve"]
#: Several spellings of few addresses.
EMAILS = ["a@ex.co", "A@EX.co ", "\uff41@ex.co", "b@ex.co", "B@ex.co", "c@ex.co"]


@dataclass
class Transaction:
    """What comes of records of one source; nothing of it is visible before it is committed."""

    source: Source
    #: The marker: the next record of the source to apply.
    next: int
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    sent: list[tuple[Source, Record]] = field(default_factory=list)
    #: Positions of records of which nothing more will come.
    outcomes: list[tuple[str, Outcome]] = field(default_factory=list)
    #: Claims that were refused, and who held the address then.
    refused: list[tuple[Claim, Holder | None]] = field(default_factory=list)
    #: All that is said of records of this partition, in order; that they wait, too.
    said: list[Decided] = field(default_factory=list)


class Registry:
    """Logs, tables and markers. Decides as the agents do, and commits as Kafka does."""

    #: What happened in all registries.
    seen: ClassVar[Counter[object]] = Counter()

    def __init__(self) -> None:
        self.logs: dict[Source, list[Record]] = {source: [] for source in SOURCES}
        self.applied: dict[Source, int] = dict.fromkeys(SOURCES, 0)
        self.users: list[dict[bytes, bytes]] = [{} for _ in range(PARTITIONS)]
        self.emails: list[dict[bytes, bytes]] = [{} for _ in range(PARTITIONS)]
        self.outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
        self.refused: list[tuple[Claim, Holder | None]] = []
        self.said: list[list[Decided]] = [[] for _ in range(PARTITIONS)]

    # -- logs

    def append(self, source: Source, record: Record) -> None:
        """Append a record to a log."""
        log = self.logs[source]
        log.append(replace(record, offset=len(log)))

    def left(self, source: Source) -> list[Record]:
        """Return the records of a source that are not applied yet."""
        return self.logs[source][self.applied[source] :]

    def behind(self) -> list[Source]:
        """Return the sources of which something is left."""
        return [source for source in SOURCES if self.left(source)]

    # -- transactions

    def decide(self, source: Source, records: int, slice_records: int) -> Transaction:
        """Return what comes of the next records of a source, decided slice by slice."""
        topic, partition = source
        decide = {
            REGISTRATIONS: self._decide_registrations,
            CLAIMS: self._decide_claims,
            VERDICTS: self._decide_verdicts,
        }[topic]
        left = self.left(source)[:records]
        transaction = Transaction(source, self.applied[source] + len(left))
        while left:
            part, left = left[:slice_records], left[slice_records:]
            decide(partition, part, transaction)
        return transaction

    def commit(self, transaction: Transaction) -> None:
        """Make a transaction visible, all of it at once."""
        self.seen.update(outcome for _, outcome in transaction.outcomes)
        self.write(transaction)
        self.send(transaction)
        self.outcomes_come(transaction)
        self.applied[transaction.source] = transaction.next

    def crash(self, transaction: Transaction) -> None:
        """Lose a transaction: nothing of it is ever visible."""
        self.seen["crashed"] += 1

    def write(self, transaction: Transaction) -> None:
        """Write the rows of a transaction."""
        topic, partition = transaction.source
        table = (self.emails if topic == CLAIMS else self.users)[partition]
        for key, row in transaction.rows.items():
            if row is None:
                table.pop(key, None)
            else:
                table[key] = row

    def send(self, transaction: Transaction) -> None:
        """Append what a transaction sends."""
        for source, record in transaction.sent:
            self.append(source, record)

    def outcomes_come(self, transaction: Transaction) -> None:
        """Take down what a transaction says of records."""
        for position, outcome in transaction.outcomes:
            self.outcomes[position].append(outcome)
        self.refused += transaction.refused
        self.said[transaction.source[1]] += transaction.said

    def finish(self) -> None:
        """Apply everything that is left, and what comes of it."""
        while behind := self.behind():
            before = dict(self.applied)
            for source in behind:
                self.commit(self.decide(source, 1_000, 1_000))
            assert self.applied != before, f"nothing goes on: {behind}"

    # -- what the agents do

    def _decide_registrations(
        self, partition: int, records: Sequence[Record], transaction: Transaction
    ) -> None:
        batch = sort(partition, records, PARTITIONS)
        decisions = Decisions(partition, EMAIL_KEY)
        changed = decisions.ask_all(batch, self._users(partition, transaction))
        for arrival, _ in batch.unreadable:
            transaction.outcomes.append((token(partition, arrival.offset), Outcome.DEAD_LETTER))
        for move in batch.elsewhere:
            first = token(partition, move.arrival.offset)
            headers = [*move.headers, (MOVED_FROM_HEADER, first.encode())]
            moved = Record(move.value, 0, move.key, move.arrival.timestamp, headers)
            transaction.sent.append(((REGISTRATIONS, move.partition), moved))
            transaction.outcomes.append((first, Outcome.MOVED))
        _add_decisions(partition, changed, decisions, transaction)

    def _decide_claims(
        self, partition: int, records: Sequence[Record], transaction: Transaction
    ) -> None:
        for record in records:
            key, claim = record.key or b"", read_claim(record.value or b"")
            before = (self.emails[partition] | transaction.rows).get(key)
            holder = None if before is None else decode_holder(before)
            after, verdict = email_claims.settle(holder, claim)
            transaction.rows[key] = None if after is None else encode_holder(after)
            if verdict is None:
                continue
            if verdict == "taken":
                transaction.refused.append((claim, holder))
            at = token(partition, record.offset)
            value = encode_verdict(key, claim["attempt"], verdict, at)
            home = (VERDICTS, partition_of(claim["id"].encode(), PARTITIONS))
            transaction.sent.append((home, Record(value, key=claim["id"].encode())))

    def _decide_verdicts(
        self, partition: int, records: Sequence[Record], transaction: Transaction
    ) -> None:
        rows = self._users(partition, transaction)
        decisions = Decisions(partition, EMAIL_KEY)
        changed: dict[bytes, UserRow | None] = {}
        for record in records:
            key, verdict = record.key or b"", read_verdict(record.value or b"")
            row = changed[key] if key in changed else rows.get(key)
            changed[key] = decisions.settle(row, key, verdict)
        _add_decisions(partition, changed, decisions, transaction)

    def _users(self, partition: int, transaction: Transaction) -> dict[bytes, UserRow | None]:
        stored = (self.users[partition] | transaction.rows).items()
        return {key: None if row is None else decode_row(row) for key, row in stored}


def _add_decisions(
    partition: int, changed: decisions.Rows, decisions: Decisions, transaction: Transaction
) -> None:
    transaction.rows |= {k: None if row is None else encode_row(row) for k, row in changed.items()}
    transaction.sent += _claim_records(decisions)
    transaction.outcomes += _terminal(partition, decisions)
    transaction.said += decisions.outcomes


def _claim_records(decisions: Decisions) -> Iterator[tuple[Source, Record]]:
    for kind, key, user_id, attempt in decisions.claims:
        home = (CLAIMS, partition_of(key, PARTITIONS))
        yield home, Record(encode_claim(kind, user_id, attempt), key=key)


def _terminal(partition: int, decisions: Decisions) -> Iterator[tuple[str, Outcome]]:
    for offset, _, outcome in decisions.outcomes:
        if outcome.is_terminal:
            yield token(partition, offset), outcome


# -- the invariants

#: An attempt at an address, and whose: email key, id, attempt.
Held = tuple[bytes, str, str]


class Snapshot:
    """What a registry holds at a moment, as the invariants speak of it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.rows: dict[str, UserRow] = {}
        #: Positions of records that wait: for their verdict, or in a queue.
        self.waiting: set[str] = set()
        for partition, table in enumerate(registry.users):
            for key, stored in table.items():
                row = self.rows[key.decode()] = decode_row(stored)
                queue = row.get("queue", ())
                self.waiting |= {token(partition, offset) for offset, *_ in queue}
        #: What users hold, and what they wait for.
        self.registered: set[Held] = set()
        self.opened: set[Held] = set()
        for user_id, row in self.rows.items():
            held = (EMAIL_KEY(row["email"]), user_id, attempt_of(row))
            (self.opened if row["status"] == "pending" else self.registered).add(held)
            if "open" in row:
                wanted = row["open"]
                self.opened.add((EMAIL_KEY(wanted["email"]), user_id, wanted["position"]))
        self.waiting |= {attempt for _, _, attempt in self.opened}
        self.held: set[Held] = set()
        for holders in registry.emails:
            for email_key, stored in holders.items():
                holder = decode_holder(stored)
                self.held.add((email_key, holder["id"], holder["attempt"]))

    def check(self) -> None:
        """Check what holds at any moment."""
        self._one_terminal_outcome()
        self._one_open_attempt()
        keys = [email_key for email_key, *_ in self.registered]
        assert len(keys) == len(set(keys)), "I3: two users with one address"
        assert self.registered <= self.held, "I4: a user does not hold the address"
        flying = {
            held
            for p in range(PARTITIONS)
            for kind, held in _claims(self.registry.left((CLAIMS, p)))
            if kind == "release"
        }
        assert self.held <= self.registered | self.opened | flying, "I5: an address held by nobody"
        assert all(
            holder is not None and holder["id"] != claim["id"]
            for claim, holder in self.registry.refused
        ), "I6: refused, and no other held it"

    def _one_terminal_outcome(self) -> None:
        registry = self.registry
        terminal = {p for p, outcomes in registry.outcomes.items() if outcomes}
        assert all(len(outcomes) == 1 for outcomes in registry.outcomes.values()), "I1: two"
        assert not terminal & self.waiting, "I1: it waits, and was told"
        applied = {
            token(p, offset)
            for p in range(PARTITIONS)
            for offset in range(registry.applied[REGISTRATIONS, p])
        }
        assert applied == terminal | self.waiting, "I1: neither told nor waiting"

    def _one_open_attempt(self) -> None:
        # By the logs: what was claimed, and of which nothing was told yet.
        claimed = {
            held
            for p in range(PARTITIONS)
            for kind, held in _claims(self.registry.logs[CLAIMS, p])
            if kind == "claim"
        }
        opened = {held for held in claimed if held[2] not in self.registry.outcomes}
        assert opened == self.opened, "I2: rows and claims differ"
        ids = [user_id for _, user_id, _ in opened]
        assert len(ids) == len(set(ids)), "I2: two open attempts of one id"

    def check_end(self) -> None:
        """Check what holds when everything is applied."""
        self.check()
        assert not self.waiting
        assert not any(is_open(row) or "queue" in row for row in self.rows.values())
        assert self.held == self.registered
        logs = self.registry.logs
        positions = {
            token(p, record.offset) for p in range(PARTITIONS) for record in logs[REGISTRATIONS, p]
        }
        assert positions == self.registry.outcomes.keys()


def _claims(records: Sequence[Record]) -> Iterator[tuple[str, Held]]:
    for record in records:
        claim = read_claim(record.value or b"")
        yield claim["type"], (record.key or b"", claim["id"], claim["attempt"])


# -- a replay of the logs


def check_replay(registry: Registry) -> None:
    """Check that each log, folded anew by itself, comes to what is there."""
    verdicts = _verdicts(registry)
    for partition in range(PARTITIONS):
        holders, said = _claims_anew(registry, partition)
        assert holders == registry.emails[partition]
        assert said == {
            (email_key, at): verdict
            for (email_key, at), verdict in verdicts.items()
            if partition_of(email_key, PARTITIONS) == partition
        }
    by_attempt = {verdict["attempt"]: verdict for _, verdict in verdicts.values()}
    assert len(by_attempt) == len(verdicts), "two verdicts on one attempt"
    sent: Counter[tuple[Source, bytes | None, bytes | None]] = Counter()
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for partition in range(PARTITIONS):
        rejected = {
            position
            for position, told in registry.outcomes.items()
            if told == [Outcome.TOO_MANY_PENDING]
        }
        records = registry.logs[REGISTRATIONS, partition]
        transaction = _users_anew(records, partition, by_attempt, rejected)
        assert transaction.rows == registry.users[partition]
        sent.update((source, record.key, record.value) for source, record in transaction.sent)
        for position, outcome in transaction.outcomes:
            outcomes[position].append(outcome)
    assert outcomes == registry.outcomes
    assert sent == Counter(
        ((CLAIMS, p), record.key, record.value)
        for p in range(PARTITIONS)
        for record in registry.logs[CLAIMS, p]
    )


def _verdicts(registry: Registry) -> dict[tuple[bytes, str], tuple[bytes, Verdict]]:
    """Return the verdicts that were sent, and to whom, by email key and place of the claim."""
    found = {}
    for partition in range(PARTITIONS):
        for record in registry.logs[VERDICTS, partition]:
            verdict = read_verdict(record.value or b"")
            place = (verdict["email_key"].encode(), verdict["at"])
            assert place not in found, "two verdicts on one claim"
            found[place] = (record.key or b"", verdict)
    return found


def _claims_anew(
    registry: Registry, partition: int
) -> tuple[dict[bytes, bytes], dict[tuple[bytes, str], tuple[bytes, Verdict]]]:
    """Return who holds the addresses of a partition, and all verdicts, from its log alone."""
    alone = Registry()
    alone.logs[CLAIMS, partition] = registry.logs[CLAIMS, partition]
    alone.commit(alone.decide((CLAIMS, partition), 10_000, 10_000))
    return alone.emails[partition], _verdicts(alone)


def _users_anew(
    records: Sequence[Record],
    partition: int,
    verdicts: Mapping[str, Verdict],
    rejected: Set[str],
) -> Transaction:
    """Return what comes of the records of a partition if each attempt has its verdict at once.

    That too many waited depends on timing, and is taken as it was told.
    """
    anew = Transaction((REGISTRATIONS, partition), len(records))
    rows: dict[bytes, UserRow | None] = {}
    for record in records:
        batch = sort(partition, [record], PARTITIONS)
        decisions = Decisions(partition, EMAIL_KEY)
        for key, (arrival, command) in zip(batch.keys, batch.here, strict=True):
            asked = Queued(arrival.offset, arrival.timestamp, command)
            if token(partition, arrival.offset) in rejected:
                decisions.reject(key, asked)
                continue
            row = decisions.accept(rows.get(key), key, asked)
            if row is not None and is_open(row):
                verdict = verdicts.get(token(partition, arrival.offset))
                assert verdict is not None, "an attempt that nobody has decided on"
                row = decisions.settle(row, key, verdict)
            rows[key] = row
        here = token(partition, record.offset)
        anew.outcomes += [(here, Outcome.DEAD_LETTER) for _ in batch.unreadable]
        anew.outcomes += [(here, Outcome.MOVED) for _ in batch.elsewhere]
        anew.outcomes += _terminal(partition, decisions)
        anew.sent += _claim_records(decisions)
    anew.rows = {key: encode_row(row) for key, row in rows.items() if row is not None}
    return anew


# -- the table of decisions, told in the simplest way


class Person(NamedTuple):
    """A user, knowing nothing of claims and queues."""

    first: tuple[str, str]
    name: str
    email: str
    version: int


def by_the_table(
    person: Person | None, command: Any, is_granted: bool
) -> tuple[Person | None, Outcome]:
    """Return whom a record leaves, and its outcome; if it must ask, the address is granted."""
    if person is not None and (command or {}).get("ifVersion", person.version) != person.version:
        return person, Outcome.VERSION_MISMATCH
    if command is None or command.get("type") == "erase":
        return None, Outcome.ERASED
    if command.get("type") == "update":
        if person is None:
            return None, Outcome.UNKNOWN_ID
        changed = Person(
            person.first,
            command.get("name", person.name),
            command.get("email", person.email),
            person.version + 1,
        )
        asks = normalised(changed.email) != normalised(person.email)
        return (
            (person, Outcome.EMAIL_TAKEN) if asks and not is_granted else (changed, Outcome.UPDATED)
        )
    data = command["name"], command["email"]
    if person is not None:
        return person, Outcome.REPLAYED if data == person.first else Outcome.ID_TAKEN
    return (
        (Person(data, *data, 1), Outcome.REGISTERED) if is_granted else (None, Outcome.EMAIL_TAKEN)
    )


def check_table(registry: Registry) -> None:
    """Check that users and outcomes are those of the table of decisions."""
    granted = {v["attempt"] for _, v in _verdicts(registry).values() if v["verdict"] == "granted"}
    for partition in range(PARTITIONS):
        people: dict[bytes, Person | None] = {}
        batch = sort(partition, registry.logs[REGISTRATIONS, partition], PARTITIONS)
        for key, (arrival, command) in zip(batch.keys, batch.here, strict=True):
            here = token(partition, arrival.offset)
            if registry.outcomes[here] == [Outcome.TOO_MANY_PENDING]:
                continue  # by `check_queues`
            people[key], outcome = by_the_table(people.get(key), command, here in granted)
            assert registry.outcomes[here] == [outcome]
        rows = {key: decode_row(stored) for key, stored in registry.users[partition].items()}
        assert {key: (row["name"], row["email"], row["version"]) for key, row in rows.items()} == {
            key: person[1:] for key, person in people.items() if person is not None
        }


# -- the rule of full queues, told in the simplest way


def check_queues(registry: Registry) -> None:
    """Check I7 by all that was said, in order: who waits was asked, and is not told anything."""
    for partition, said in enumerate(registry.said):
        batch = sort(partition, registry.logs[REGISTRATIONS, partition], PARTITIONS)
        ids = dict(zip([arrival.offset for arrival, _ in batch.here], batch.keys, strict=True))
        erasures = {arrival.offset for arrival, command in batch.here if command is None}
        waiting: defaultdict[bytes, set[int]] = defaultdict(set)
        for offset, _, outcome in said:
            wait = waiting[ids[offset]]
            if offset not in wait:
                places = 1 + MAX_QUEUE + (offset in erasures)  # one is asked for, others wait
                is_full = len(wait) >= places
                assert is_full == (outcome is Outcome.TOO_MANY_PENDING), "I7: rejected, or not"
            if outcome is Outcome.PENDING:
                wait.add(offset)
            else:
                wait.discard(offset)


# -- the machine


def _wishes() -> Iterator[Registration | Update | Erasure]:
    for user_id in IDS:
        for email in EMAILS:
            # As many registrations as updates: both meet the same rows.
            yield Registration(id=user_id, name="x", email=email)
            yield Registration(id=user_id, name="x", email=email)
            yield Update(type="update", id=user_id, email=email)
            yield Update(type="update", id=user_id, name="y", email=email)
        yield Update(type="update", id=user_id, name="y")
        yield Update(type="update", id=user_id, email=EMAILS[0], ifVersion=1)
        yield Update(type="update", id=user_id, name="z", ifVersion=2)
        yield Erasure(type="erase", id=user_id, ifVersion=1)


TOMBSTONES = [Record(None, key=user_id.encode()) for user_id in IDS]
ARRIVALS = [
    *[Record(encode(command), key=command["id"].encode()) for command in _wishes()],
    *TOMBSTONES * 6,
    Record(b"?", key=b"ada"),
]

arrivals = st.sampled_from(ARRIVALS)
#: Rarely, a producer chooses another partition than Kafka's own would.
is_astray = st.sampled_from([False] * 19 + [True])


class Turn(NamedTuple):
    """Which of the sources that have records left goes on, and how far."""

    source: int
    records: int
    slice_records: int
    crashes: bool


turns = st.lists(
    st.builds(
        Turn,
        st.integers(0, len(SOURCES) - 1),
        st.integers(1, 5),
        st.integers(1, 5),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=12,
)


class Protocol(RuleBasedStateMachine):
    """Records come, and partitions apply what they have to, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.clock = 0

    @rule(records=st.lists(st.tuples(arrivals, is_astray), min_size=1, max_size=6), turns=turns)
    def records_come(self, records: list[tuple[Record, bool]], turns: list[Turn]) -> None:
        for record, astray in records:
            home = partition_of(record.key or b"", PARTITIONS)
            self._comes((home + astray) % PARTITIONS, record)
        self._partitions_apply(turns)

    @precondition(lambda self: any(self.registry.logs[REGISTRATIONS, p] for p in range(PARTITIONS)))
    @rule(data=st.data(), turns=turns)
    def a_record_comes_once_more(self, data: st.DataObject, turns: list[Turn]) -> None:
        logs = [(p, self.registry.logs[REGISTRATIONS, p]) for p in range(PARTITIONS)]
        came = [(partition, record) for partition, log in logs for record in log]
        self._comes(*data.draw(st.sampled_from(came)))
        self._partitions_apply(turns)

    @precondition(lambda self: self.registry.behind())
    @rule(turns=turns)
    def partitions_apply(self, turns: list[Turn]) -> None:
        self._partitions_apply(turns)

    def _comes(self, partition: int, record: Record) -> None:
        self.clock += 1_000
        self.registry.append((REGISTRATIONS, partition), replace(record, timestamp=self.clock))

    def _partitions_apply(self, turns: list[Turn]) -> None:
        for turn in turns:
            if behind := self.registry.behind():
                self._applies(behind[turn.source % len(behind)], turn)
                Snapshot(self.registry).check()

    def _applies(self, source: Source, turn: Turn) -> None:
        transaction = self.registry.decide(source, turn.records, turn.slice_records)
        if turn.crashes:
            self.registry.crash(transaction)
        else:
            self.registry.commit(transaction)

    @invariant()
    def invariants_hold(self) -> None:
        Snapshot(self.registry).check()

    def teardown(self) -> None:
        self.registry.finish()
        Snapshot(self.registry).check_end()
        check_replay(self.registry)
        check_table(self.registry)
        check_queues(self.registry)


@pytest.fixture(autouse=True)
def _short_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MAX_QUEUE", MAX_QUEUE)


def test_ids_and_addresses_are_of_several_partitions() -> None:
    assert {partition_of(user_id.encode(), PARTITIONS) for user_id in IDS} == {0, 1}
    assert {partition_of(EMAIL_KEY(email), PARTITIONS) for email in EMAILS} == {0, 1}
    assert len({EMAIL_KEY(email) for email in EMAILS}) == 3


def run(examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """Run the machine, each time the same way."""
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            derandomize=True,
            # The machine is busy with other tests, too.
            deadline=None,
            phases=phases,
        ),
    )


def test_invariants_hold_and_replays_agree_in_any_order_and_after_any_crash() -> None:
    Registry.seen.clear()
    run(examples=200)
    # It has been everywhere: otherwise it proves nothing.
    for event in ({*Outcome} - {Outcome.PENDING}) | {"crashed"}:
        assert Registry.seen[event] > 10, f"hardly ever: {event}"


# -- the machine finds what is broken on purpose

Broken = Callable[[pytest.MonkeyPatch], None]
Settled = tuple[Holder | None, str | None]


def every_claim_is_granted(broken: pytest.MonkeyPatch) -> None:
    def settle(holder: Holder | None, claim: Claim) -> Settled:
        if claim["type"] == "release":
            return _settle(holder, claim)
        return Holder(id=claim["id"], attempt=claim["attempt"]), "granted"

    broken.setattr(email_claims, "settle", settle)


def a_claim_of_what_was_ever_held_is_refused(broken: pytest.MonkeyPatch) -> None:
    def settle(holder: Holder | None, claim: Claim) -> Settled:
        # A release is as if it had not come.
        return (holder, None) if claim["type"] == "release" else _settle(holder, claim)

    broken.setattr(email_claims, "settle", settle)


def a_free_address_is_refused(broken: pytest.MonkeyPatch) -> None:
    def settle(holder: Holder | None, claim: Claim) -> Settled:
        return (holder, None) if claim["type"] == "release" else (holder, "taken")

    broken.setattr(email_claims, "settle", settle)


def what_waited_is_forgotten(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Decisions, "_drain", lambda self, row, key, queue: row)


def the_rest_of_the_queue_is_forgotten(broken: pytest.MonkeyPatch) -> None:
    def drain(self: Decisions, row: UserRow | None, key: bytes, queue: Any) -> UserRow | None:
        for queued in queue:
            row = self._decide(row, key, Queued(*queued))
            if row is not None and is_open(row):
                break
        return row

    broken.setattr(Decisions, "_drain", drain)


def the_queue_is_decided_past_the_next_attempt(broken: pytest.MonkeyPatch) -> None:
    def drain(self: Decisions, row: UserRow | None, key: bytes, queue: Any) -> UserRow | None:
        for queued in queue:
            row = self._decide(row, key, Queued(*queued))
        return row

    broken.setattr(Decisions, "_drain", drain)


def the_queue_is_decided_backwards(broken: pytest.MonkeyPatch) -> None:
    def drain(self: Decisions, row: UserRow | None, key: bytes, queue: Any) -> UserRow | None:
        return _drain(self, row, key, queue[::-1])

    broken.setattr(Decisions, "_drain", drain)


def nothing_waits(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Decisions, "ask", lambda self, row, key, asked: self._decide(row, key, asked))


def one_more_may_wait(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(decisions, "places_for", lambda command: MAX_QUEUE + 1)


def one_fewer_may_wait(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(decisions, "places_for", lambda command: MAX_QUEUE - (command is not None))


def an_erasure_has_no_place_of_its_own(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(decisions, "places_for", lambda command: MAX_QUEUE)


def a_second_erasure_has_a_place_of_its_own(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(decisions, "places_for", lambda command: MAX_QUEUE + 2 * (command is None))


def any_number_may_wait(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Decisions, "ask", Decisions.accept)


def a_rejected_record_costs_the_last_that_waits(broken: pytest.MonkeyPatch) -> None:
    def ask(self: Decisions, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        if row is not None and len(row.get("queue", ())) >= decisions.places_for(asked.command):
            self.reject(key, asked)
            return cast(UserRow, {**row, "queue": row["queue"][:-1]})
        return self.accept(row, key, asked)

    broken.setattr(Decisions, "ask", ask)


def who_is_rejected_is_not_told(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Decisions, "reject", lambda self, key, asked: None)


def what_is_rejected_is_told_as_waiting(broken: pytest.MonkeyPatch) -> None:
    def reject(self: Decisions, key: bytes, asked: Queued) -> None:
        self._decided(asked.offset, key.decode(), Outcome.PENDING)

    broken.setattr(Decisions, "reject", reject)


def what_is_rejected_is_decided_at_once(broken: pytest.MonkeyPatch) -> None:
    def ask(self: Decisions, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        if row is not None and len(row.get("queue", ())) >= decisions.places_for(asked.command):
            return self._decide(row, key, asked)
        return self.accept(row, key, asked)

    broken.setattr(Decisions, "ask", ask)


def a_release_names_the_latest_record(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(decisions, "attempt_of", lambda row: row["position"])


def nothing_is_released(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Decisions, "_release", lambda self, row: None)


def a_refused_update_loses_its_user(broken: pytest.MonkeyPatch) -> None:
    def taken(self: Decisions, row: UserRow, attempt: str) -> None:
        _taken(self, row, attempt)

    broken.setattr(Decisions, "_taken", taken)


def a_refused_registration_stays(broken: pytest.MonkeyPatch) -> None:
    def taken(self: Decisions, row: UserRow, attempt: str) -> UserRow:
        return _taken(self, row, attempt) or {**row, "status": "registered"}

    broken.setattr(Decisions, "_taken", taken)


def a_granted_update_releases_its_new_address(broken: pytest.MonkeyPatch) -> None:
    def granted(self: Decisions, row: UserRow, attempt: str) -> UserRow:
        given = _granted(self, row, attempt)
        if "open" in row:
            self.claims.pop()
            self._release(given)
        return given

    broken.setattr(Decisions, "_granted", granted)


def every_version_is_the_right_one(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(decisions, "_is_for", lambda row, command: True)


def the_version_is_looked_at_too_early(broken: pytest.MonkeyPatch) -> None:
    def accept(self: Decisions, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        if row is not None and not decisions._is_for(row, asked.command):
            self._decided(asked.offset, row["id"], Outcome.VERSION_MISMATCH)
            return row
        return _accept(self, row, key, asked)

    broken.setattr(Decisions, "accept", accept)


def the_first_registration_is_forgotten(broken: pytest.MonkeyPatch) -> None:
    def is_first(row: UserRow, command: Registration) -> bool:
        return (row["name"], row["email"]) == (command["name"], command["email"])

    broken.setattr(decisions, "_is_first_registration", is_first)


def a_crash_leaves_the_rows(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Registry, "crash", lambda self, transaction: self.write(transaction))


def a_crash_leaves_what_was_sent(broken: pytest.MonkeyPatch) -> None:
    broken.setattr(Registry, "crash", lambda self, transaction: self.send(transaction))


def a_crash_leaves_everything_but_the_marker(broken: pytest.MonkeyPatch) -> None:
    def crash(self: Registry, transaction: Transaction) -> None:
        marker = self.applied[transaction.source]
        self.commit(transaction)
        self.applied[transaction.source] = marker

    broken.setattr(Registry, "crash", crash)


def a_crash_leaves_only_the_marker(broken: pytest.MonkeyPatch) -> None:
    def crash(self: Registry, transaction: Transaction) -> None:
        self.applied[transaction.source] = transaction.next

    broken.setattr(Registry, "crash", crash)


_settle = email_claims.settle
_accept = Decisions.accept
_drain = Decisions._drain
_taken = Decisions._taken
_granted = Decisions._granted


@pytest.mark.parametrize(
    "broken",
    [
        every_claim_is_granted,
        a_claim_of_what_was_ever_held_is_refused,
        a_free_address_is_refused,
        what_waited_is_forgotten,
        the_rest_of_the_queue_is_forgotten,
        the_queue_is_decided_past_the_next_attempt,
        the_queue_is_decided_backwards,
        nothing_waits,
        one_more_may_wait,
        one_fewer_may_wait,
        an_erasure_has_no_place_of_its_own,
        a_second_erasure_has_a_place_of_its_own,
        any_number_may_wait,
        a_rejected_record_costs_the_last_that_waits,
        who_is_rejected_is_not_told,
        what_is_rejected_is_told_as_waiting,
        what_is_rejected_is_decided_at_once,
        a_release_names_the_latest_record,
        nothing_is_released,
        a_refused_update_loses_its_user,
        a_refused_registration_stays,
        a_granted_update_releases_its_new_address,
        every_version_is_the_right_one,
        the_version_is_looked_at_too_early,
        the_first_registration_is_forgotten,
        a_crash_leaves_the_rows,
        a_crash_leaves_what_was_sent,
        a_crash_leaves_everything_but_the_marker,
        a_crash_leaves_only_the_marker,
    ],
    ids=lambda broken: broken.__name__,
)
def test_the_machine_finds_it_when(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        run(examples=200, phases=[Phase.generate])
