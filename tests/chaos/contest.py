"""The contest: many clients want the same few addresses, while workers are killed and restarted.

Each client registers a user, and asks what became of that: of those who want one address, in
whichever spelling, exactly one is registered, and all others are told that it is taken.
``python -m tests.chaos.contest`` runs the long form, on a broker of its own.
"""

import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import aiohttp
import click

from local.broker import Broker
from local.machine import free_port
from local.signals import signals_interrupt
from tests.chaos.answers import Answer, Answers, agrees
from tests.chaos.clients import Clients
from tests.chaos.cluster import Crew
from tests.chaos.writes import spelled
from tests.support.worker import Registry

#: Each client's question waits so long for an answer that is final.
WAIT = {"Prefer": "wait=5"}
#: A killed worker is missed after this time.
SETTINGS = {"SESSION_TIMEOUT_SECONDS": "6"}
STALLED_SECONDS = 60.0
#: A user whose first registration was not acknowledged, but written, hears that it is known.
WON = ("registered", "replayed")
LOST = "email-taken"
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Config:
    """What a contest is to be."""

    clients: int = 100
    users: int = 10_000
    emails: int = 1_000
    workers: int = 3
    #: How often a worker is killed, and started again later, and another is restarted.
    rounds: int = 2
    seconds_limit: float = 280.0
    verify: bool = True

    def address_of(self, number: int) -> int:
        """Return the number of the address that a user wants."""
        # Those who want the same one follow each other: they come at the same time.
        return number * self.emails // self.users

    def user(self, number: int) -> dict[str, str]:
        """Return a registration."""
        email = spelled(f"shared-{self.address_of(number)}@contest.example.com", number)
        return {"id": f"contest-{number}", "name": f"User {number}", "email": email}


@dataclass
class Report:
    """What a contest came to; it is good if nothing is wrong."""

    config: Config
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    failures: Mapping[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the report for people."""
        config = self.config
        seconds = {phase: round(spent, 1) for phase, spent in self.seconds.items()}
        lines = [
            *self.faults,
            "",
            f"contest         {config.users:,} users, {config.emails:,} addresses",
            f"between         {config.clients} clients, {config.workers} workers",
            f"outcomes        {_listed(self.outcomes)}",
            f"asked again     {_listed(self.failures)}",
            f"seconds         {_listed(seconds)}",
            "",
            *(f"WRONG: {what}" for what in self.wrong),
        ]
        return "\n".join(lines if self.wrong else [*lines, "every address has exactly one user"])


class Contenders(Clients):
    """Clients that each register one user after the other, and ask what became of it."""

    def __init__(self, urls: Sequence[str], config: Config) -> None:
        super().__init__(urls, config.clients, seed=0)
        #: By the user's number: the last word on the registration.
        self.outcomes: dict[int, str] = {}
        self._config = config
        self._numbers = iter(range(config.users))

    @property
    def share(self) -> float:
        """The part of the users whose outcome is known."""
        return len(self.outcomes) / self._config.users

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        for number in self._numbers:
            body = self._config.user(number)
            status, said = await self._answer(session, chance, "POST", "/users", json=body)
            if status == 202:
                self.outcomes[number] = await self._outcome(session, chance, said["position"])
            elif status:
                self.traffic.refuse(body, f"{status} {said}")

    async def _outcome(
        self, session: aiohttp.ClientSession, chance: random.Random, position: str
    ) -> str:
        """Ask until the outcome is final."""
        path = f"/registrations/{position}"
        while True:
            status, said = await self._answer(session, chance, "GET", path, headers=WAIT)
            if status != 200:
                return f"answer {status}"
            if said["outcome"] != "pending":
                return str(said.get("reason") or said["outcome"])


def run(config: Config, brokers: str, folder: Path) -> Report:
    """Run a contest; the report says what is wrong."""
    report = Report(config)
    began = time.monotonic()
    deadline = began + config.seconds_limit
    try:
        with Crew(Registry(brokers, folder, settings=SETTINGS), config.workers, deadline) as crew:
            report.seconds["starting"] = time.monotonic() - began
            _Contest(config, crew, report, deadline).all()
    except AssertionError as error:
        report.wrong.append(str(error))
    report.seconds["all"] = time.monotonic() - began
    return report


class _Contest:
    """The phases of a contest."""

    def __init__(self, config: Config, crew: Crew, report: Report, deadline: float) -> None:
        self._config = config
        self._crew = crew
        self._report = report
        self._deadline = deadline
        self._contenders = Contenders(crew.urls, config)

    def all(self) -> None:
        """Contend, and check what came of it."""
        began = time.monotonic()
        with self._contenders:
            self._do_faults()
            self._wait_for(1.0)
        self._report.seconds["contest"] = time.monotonic() - began
        self._note()
        self._crew.start_all()
        self._look_up(self._winners())
        if self._config.verify:
            self._verify()

    # -- the contest

    def _do_faults(self) -> None:
        """Do the faults to the workers, spread evenly over the contest."""
        crew = self._crew
        do = {"killed": crew.kill, "started": crew.start, "restarted": crew.restart}
        faults = [fault for number in range(self._config.rounds) for fault in self._round(number)]
        for index, (what, worker) in enumerate(faults, start=1):
            self._wait_for(index / (len(faults) + 1))
            share = self._contenders.share
            self._report.faults.append(f"{share:4.0%} known: worker {worker} {what}")
            if share == 1:
                self._wrong(f"the contest was over before worker {worker} was {what}")
            do[what](worker)

    def _round(self, number: int) -> list[tuple[str, int]]:
        workers = sorted(self._crew.members)
        killed, restarted = (workers[(2 * number + which) % len(workers)] for which in (0, 1))
        return [("killed", killed), ("started", killed), ("restarted", restarted)]

    def _wait_for(self, share: float) -> None:
        """Wait until a part of the outcomes is known."""
        known = partial(self._is_known, share)
        self._crew.wait(known, STALLED_SECONDS, f"{share:.0%} of the outcomes are known")

    def _is_known(self, share: float) -> bool:
        return self._contenders.done or self._contenders.share >= share

    # -- what came of it

    def _note(self) -> None:
        traffic, crew = self._contenders.traffic, self._crew
        self._report.outcomes.update(self._contenders.outcomes.values())
        self._report.failures = traffic.failures
        for refused in traffic.refused:
            self._wrong(f"a registration was refused: {refused}")
        if defects := traffic.failures["500"]:
            self._wrong(f"{defects} x status 500; the workers' logs tell more")
        for ending in crew.endings:
            self._wrong(f"a worker ended alone: {ending}")
        if any(crew.stop_statuses):
            self._wrong(f"exit statuses after SIGTERM: {crew.stop_statuses}")

    def _winners(self) -> list[int]:
        """Return who got an address: each was got by one, and all others hear that it is taken."""
        outcomes = self._contenders.outcomes
        if unknown := self._config.users - len(outcomes):
            self._wrong(f"{unknown} users without an outcome")
        if strange := {n: word for n, word in outcomes.items() if word not in (*WON, LOST)}:
            self._wrong(f"{len(strange)} strange outcomes: {_some(strange.items())}")
        winners = [number for number, word in outcomes.items() if word in WON]
        by_address: defaultdict[int, list[int]] = defaultdict(list)
        for number in winners:
            by_address[self._config.address_of(number)].append(number)
        contested = range(self._config.emails)
        if wrong := {n: by_address[n] for n in contested if len(by_address[n]) != 1}:
            self._wrong(
                f"{len(wrong)} addresses without exactly one winner: {_some(wrong.items())}"
            )
        return winners

    def _look_up(self, winners: Sequence[int]) -> None:
        """Any worker finds the winners, by id and by address, and as many losers by neither."""
        began = time.monotonic()
        losers = sorted(self._contenders.outcomes.keys() - set(winners))
        losers = random.sample(losers, min(len(losers), len(winners)))
        wanted: dict[str, Answer] = {self._path(number): (404, {}) for number in losers}
        for number in winners:
            user = self._config.user(number)
            found = 200, user | {"status": "registered"}
            # Spelled in yet another way than in the registration.
            by_email = f"/users?email={quote(user['email'].swapcase())}"
            wanted |= {self._path(number): found, by_email: found}
        answers = Answers(self._crew.urls).to(wanted)
        wrong = [
            (path, answers[path]) for path in wanted if not agrees(answers[path], wanted[path])
        ]
        if wrong:
            self._wrong(f"{len(wrong)} of {len(wanted)} lookups are wrong: {_some(wrong)}")
        self._report.seconds["lookups"] = time.monotonic() - began

    def _path(self, number: int) -> str:
        return f"/users/{self._config.user(number)['id']}"

    def _verify(self) -> None:
        began = time.monotonic()
        status, said = self._crew.verify(max(self._deadline - began, 10))
        if status:
            self._wrong(f"verify ended with status {status}: {said.strip()[-2000:]}")
        self._report.seconds["verify"] = time.monotonic() - began

    def _wrong(self, what: str) -> None:
        self._report.wrong.append(what)


def _listed(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _some(these: Iterable[object]) -> str:
    return ", ".join(map(str, list(these)[:SHOWN]))


DEFAULTS = Config()


@click.command(help="Let clients contend for addresses; see that each has exactly one user.")
@click.option("--clients", default=DEFAULTS.clients, show_default=True)
@click.option("--users", default=DEFAULTS.users, show_default=True)
@click.option("--emails", default=DEFAULTS.emails, show_default=True)
@click.option("--workers", default=DEFAULTS.workers, show_default=True)
@click.option("--rounds", default=DEFAULTS.rounds, show_default=True, help="Of faults.")
@click.option("--verify/--no-verify", default=True, help="Run `python -m app verify`.")
def main(clients: int, users: int, emails: int, workers: int, rounds: int, verify: bool) -> None:
    """Run it; the folder with logs and data is kept if something is wrong."""
    config = Config(clients, users, emails, workers, rounds, verify=verify)
    folder = Path(tempfile.mkdtemp(prefix="contest-"))
    with signals_interrupt(), Broker(folder / "broker", port=free_port()) as broker:
        report = run(config, broker.address, folder)
    click.echo(report.summary())
    if report.wrong:
        click.echo(f"logs and data: {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
