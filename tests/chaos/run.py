"""A whole run: the storm, what must hold after it, and once more from nothing but the topics."""

import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.checks import Checks
from tests.chaos.cluster import Cluster
from tests.chaos.deletions import Deletions
from tests.chaos.load import Load
from tests.chaos.readers import Readers
from tests.chaos.report import Report
from tests.chaos.schedule import Kind as FaultKind
from tests.chaos.schedule import schedule, wanted
from tests.chaos.storm import Storm, Tell
from tests.chaos.strays import Strays
from tests.chaos.writes import Kind
from tests.support import kafka

#: The part of the time that the storm may take: the checks need the rest.
STORM_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Config:
    """What a run is to be; the seed decides the rest."""

    seed: int
    registrations: int = 100_000
    workers: int = 3
    brokers: int = 1
    clients: int = 16
    #: How often each kind of fault happens, and how often a worker is suspended.
    faults: int = 3
    suspensions: int = 1
    #: How often applied records of a partition are deleted. `verify` is partial then.
    deletions: int = 1
    #: How many kinds of faults happen once while the group rebalances: all of them.
    rebalances: int = len(FaultKind)
    longest_pause_seconds: float = 4.0
    seconds_limit: float = 280.0
    #: How many ids are looked up by HTTP.
    sample: int = 500
    verify: bool = True
    #: More settings of the workers.
    settings: Mapping[str, str] = field(default_factory=dict)


def quiet(_what: str, _acknowledged: int) -> None:
    """Tell nobody."""


def run(config: Config, tell: Tell = quiet) -> Report:
    """Run it all; the report says what is wrong. The folder is kept if something is."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    report = Report(config.seed, config.registrations, config.workers, config.clients, str(folder))
    began = time.monotonic()
    deadline = began + config.seconds_limit
    try:
        with Cluster(folder, config.workers, config.settings, deadline, config.brokers) as cluster:
            report.seconds["starting"] = time.monotonic() - began
            _Run(config, cluster, report, tell, began).all()
    except AssertionError as error:
        report.wrong.append(str(error))
    report.seconds["all"] = time.monotonic() - began
    if report.seconds["all"] > config.seconds_limit:
        report.wrong.append(f"it took more than {config.seconds_limit:.0f} s")
    if report.good:
        shutil.rmtree(folder)
    return report


class _Run:
    """The phases of a run."""

    def __init__(
        self, config: Config, cluster: Cluster, report: Report, tell: Tell, began: float
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._report = report
        self._tell = tell
        self._deadline = began + config.seconds_limit
        self._storm_deadline = began + config.seconds_limit * STORM_SHARE
        registry = cluster.registry
        partitions = len(kafka.end_offsets(registry.brokers, registry.registrations))
        self._strays = Strays(registry.brokers, registry.registrations, partitions, config.seed)
        self._deletions = Deletions(registry, partitions, config.seed)
        self._load = Load(cluster.urls, config.registrations, config.clients, config.seed)
        self._readers = Readers(cluster.urls, self._load.tally, partitions, config.seed)

    def all(self) -> None:
        """Storm, checks, stores deleted, checks."""
        try:
            with self._phase("storm"):
                self._storm()
            with self._phase("workers up"):
                self._cluster.start_all()
            self._check()
        finally:
            self._report.endings = self._cluster.endings
            self._report.stop_statuses = self._cluster.stop_statuses
            self._report.wrong += [
                f"worker {each.worker} ended by itself, status {each.status}: {each.last_line}"
                for each in self._cluster.endings
                if not each.excused
            ]
            if stuck := self._cluster.stop_statuses.count(-signal.SIGKILL):
                self._report.wrong.append(f"{stuck} x a worker did not end after SIGTERM")

    def _storm(self) -> None:
        config = self._config
        counts = wanted(config.faults, config.suspensions, config.deletions)
        steps = schedule(
            config.seed,
            config.workers,
            counts,
            config.longest_pause_seconds,
            rebalances=config.rebalances,
        )
        cluster, load, strays = self._cluster, self._load, self._strays
        storm = Storm(cluster, load, self._readers, strays, self._deletions, steps, self._tell)
        try:
            with self._readers, self._load:
                storm.rage(self._storm_deadline)
            assert self._readers.done
        finally:
            self._report.wanted = {kind.value: count for kind, count in counts.items()}
            self._report.faults = storm.faults
            self._note_load()

    def _note_load(self) -> None:
        report, tally, traffic = self._report, self._load.tally, self._load.traffic
        report.counts = dict(Counter(fault.kind for fault in report.faults))
        report.acknowledged = len(tally.registered)
        report.writes = {kind.value: tally.counts[kind] for kind in Kind}
        report.contended = tally.contended
        report.requests, report.tries_in_vain = traffic.requests, traffic.tries_in_vain
        report.failures = dict(traffic.failures)
        report.longest_without_ack_seconds = round(tally.longest_gap_seconds, 1)
        strays, found = self._strays, self._readers.findings
        report.strays, report.unreadable = len(strays.ids), strays.unreadable + strays.poisoned
        report.lookups, report.claims = dict(found.answers), len(found.claims)
        report.wrong += [f"an answer is not right: {answer}" for answer in found.wrong]
        # A worker that is started has no writes yet.
        met = {fault.kind for fault in report.faults if fault.writes_in_flight}
        met.add(FaultKind.WORKER_STARTED.value)
        for kind, count in report.wanted.items():
            if (happened := report.counts.get(kind, 0)) < count:
                report.wrong.append(f"{kind}: {happened} times and not {count}")
        report.wrong += [
            f"{kind}: no write was in flight at any time" for kind in report.counts.keys() - met
        ]
        if report.acknowledged < report.registrations:
            report.wrong.append(
                f"{report.acknowledged} of {report.registrations} registrations acknowledged"
            )
        report.wrong += [f"a write was refused: {refused}" for refused in traffic.refused]
        if defects := traffic.failures["500"]:
            report.wrong.append(f"{defects} x status 500; the workers' logs tell more")

    def _check(self) -> None:
        config = self._config
        # Each partition ends with a registration: once these are settled, all before them is read.
        self._strays.write_last()
        tally, strays = self._load.tally, set(self._strays.ids)
        checks = Checks(self._cluster, self._report, tally.writes, strays, self._deadline)
        with self._phase("settling"):
            checks.settle()
        with self._phase("checks"):
            log = checks.read(self._deletions.kept)
            checks.log(log)
            checks.copies(log, tally.unanswered)
            checks.claims(self._readers.findings.claims, log.model)
            checks.strays(log.sources)
            users, emails = checks.tables()
            checks.rows(users, emails, log.model)
            checks.listed(log.model)
            questions = checks.questions(log, config.sample)
            answers = checks.answers(questions)
        self._verify(checks)
        with self._phase("stores anew"):
            self._cluster.stop_all()
            self._cluster.delete_stores()
            self._cluster.start_all()
        with self._phase("checks again"):
            checks.no_lag()
            users_again, emails_again = checks.tables()
            checks.same("the rows of users", users.digest(), users_again.digest())
            checks.same("the rows of emails", emails.digest(), emails_again.digest())
            checks.same("what lookups answer", answers, checks.answers(questions))
        self._verify(checks)

    def _verify(self, checks: Checks) -> None:
        if self._config.verify:
            with self._phase("verify"):
                checks.verify()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._tell(name, len(self._load.tally.registered))
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self._report.seconds.get(name, 0.0)
            self._report.seconds[name] = spent + time.monotonic() - began
