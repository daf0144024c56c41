"""What must hold after the storm; each check adds a line to the report for what is wrong."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import requests

from tests import kafka
from tests.chaos.cluster import Cluster
from tests.chaos.report import Report
from tests.chaos.topics import (
    Table,
    Written,
    read_dead_letters,
    read_registrations,
    read_table,
    reading,
)
from tests.worker import wait_until

#: Once the last record is applied, the group must have committed it within this time.
LAG_WITHIN_SECONDS = 5.0
APPLIED_WITHIN_SECONDS = 60.0
ANSWERS_WITHIN_SECONDS = 15.0
#: What leaves no doubt; all else means that nobody can tell now.
TELLING = (200, 404)
ASKED_AT_ONCE = 8
SHOWN = 5

#: The status of an answer (0: none), and the user that it shows.
Answer = tuple[int, Mapping[str, Any]]


class Checks:
    """Looks at a cluster at rest, of which all workers run."""

    def __init__(self, cluster: Cluster, report: Report, expected: set[str], deadline: float):
        self._cluster = cluster
        self._report = report
        self._expected = expected
        self._deadline = deadline

    def settle(self) -> None:
        """Wait until every expected id has a row; then the lag must soon be none."""
        table = Table()

        with reading(self._cluster.brokers, self._cluster.users_changelog) as reader:

            def all_applied() -> bool:
                table.apply(reader.some())
                return len(table.rows) >= len(self._expected) and not table.missing(self._expected)

            with suppress(AssertionError):  # what is missing is told by `rows`
                self._cluster.wait(all_applied, APPLIED_WITHIN_SECONDS, "all is applied")
        self.no_lag()

    def no_lag(self) -> None:
        """The group has committed the end of every partition, or does so soon."""
        with suppress(AssertionError):
            self._cluster.wait(lambda: not any(self._lag().values()), LAG_WITHIN_SECONDS, "no lag")
        lag = self._lag()
        self._report.lag.append(lag)
        if any(lag.values()):
            self._wrong(f"lag after {LAG_WITHIN_SECONDS:.0f} s, by partition: {lag}")

    def topics(self, written: Written) -> None:
        """What came of records that stood in no good place, or that nobody can read."""
        letters = read_dead_letters(self._cluster.brokers, self._cluster.registry.dead_letters)
        self._once("dead letter", written.unreadable, letters)
        self._once("move", written.misplaced, written.moved)

    def _once(self, what: str, wanted: set[str], found: Counter[str]) -> None:
        if missing := wanted - found.keys():
            self._wrong(f"no {what} for {len(missing)} of {len(wanted)} records: {_some(missing)}")
        if more := {position for position, times in found.items() if times > 1}:
            self._wrong(f"more than one {what} for {len(more)} records: {_some(more)}")
        if strange := found.keys() - wanted:
            self._wrong(f"a {what} of {len(strange)} records without need: {_some(strange)}")

    def rows(self, table: Table, written: Written) -> None:
        """Every acknowledged id has a row, and no id that nobody sent."""
        self._report.rows = len(table.rows)
        if lost := self._expected - written.first.keys():
            self._wrong(f"{len(lost)} acknowledged ids are not in the topic: {_some(lost)}")
        if missing := table.missing(self._expected) - lost:
            self._wrong(f"{len(missing)} acknowledged ids have no row: {_some(missing)}")
        known = {user_id.encode() for user_id in written.first}
        if invented := table.rows.keys() - known:
            self._wrong(f"{len(invented)} rows for ids that nobody sent: {_some(invented)}")

    def sample(self, size: int, first_choice: Iterable[str], seed: int) -> list[str]:
        """Return ids to be looked up: half of them of the first choice, the others by chance."""
        chance = random.Random(seed)
        chosen = sorted(set(first_choice) & self._expected)
        half = chance.sample(chosen, min(len(chosen), size // 2))
        others = sorted(self._expected - set(half))
        return half + chance.sample(others, min(len(others), size - len(half)))

    def answers(self, ids: list[str], written: Written) -> dict[str, Answer]:
        """Return what lookups answer; it must be what stands first in the topic."""
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            shares = [ids[start::ASKED_AT_ONCE] for start in range(ASKED_AT_ONCE)]
            found = {i: answer for share in pool.map(self._look_up, shares) for i, answer in share}
        if missing := {i for i, (status, _) in found.items() if status == 404}:
            self._wrong(f"{len(missing)} of {len(ids)} lookups find nobody: {_some(missing)}")
        if untold := {i: status for i, (status, _) in found.items() if status not in TELLING}:
            self._wrong(f"{len(untold)} of {len(ids)} lookups are not answered: {_some(untold)}")
        if other := {i for i, (_, user) in found.items() if _differs(user, written.first.get(i))}:
            self._wrong(f"{len(other)} users are not as first registered: {_some(other)}")
        return found

    def _look_up(self, ids: list[str]) -> list[tuple[str, Answer]]:
        """Return what workers answer, each id asked of one; together they have so much time."""
        until = time.monotonic() + ANSWERS_WITHIN_SECONDS
        with requests.Session() as http:
            return [(user_id, self._find(http, user_id, until)) for user_id in ids]

    def _find(self, http: requests.Session, user_id: str, until: float) -> Answer:
        """Return what a worker answers, as soon as it can tell."""
        url = random.Random(user_id).choice(self._cluster.urls)
        last: Answer = (0, {})

        def told() -> bool:
            nonlocal last
            with suppress(requests.RequestException):
                answer = http.get(f"{url}/users", params={"id": user_id}, timeout=5)
                last = (answer.status_code, answer.json() if answer.status_code == 200 else {})
            return last[0] in TELLING or time.monotonic() >= until

        wait_until(told, ANSWERS_WITHIN_SECONDS + 10, f"an answer about {user_id}")
        return last

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
        if status:
            self._wrong(f"verify ended with status {status}: {said.strip()[-2000:]}")

    def read(self) -> tuple[Table, Written]:
        """Return what the changelog and the topic of registrations hold now."""
        registry = self._cluster.registry
        brokers = self._cluster.brokers
        partitions = len(kafka.end_offsets(brokers, registry.registrations))
        return (
            read_table(brokers, self._cluster.users_changelog),
            read_registrations(brokers, registry.registrations, partitions),
        )

    def _lag(self) -> dict[int, int]:
        registry = self._cluster.registry
        committed = kafka.committed(registry.brokers, registry.app_id, registry.registrations)
        ends = kafka.end_offsets(registry.brokers, registry.registrations)
        return {number: end - committed.get(number, 0) for number, end in ends.items()}

    def _wrong(self, what: str) -> None:
        self._report.wrong.append(what)


def _differs(user: Mapping[str, Any], first: Mapping[str, str] | None) -> bool:
    return bool(user) and any(user[name] != value for name, value in (first or {}).items())


def _some(these: Iterable[object]) -> str:
    """Return a few, in order, so that one can look for them."""
    named = these.items() if isinstance(these, Mapping) else these
    shown = sorted(map(str, named))
    return ", ".join(shown[:SHOWN]) + (" ..." if len(shown) > SHOWN else "")
