"""Fixtures that several kinds of tests share: one real broker, one real worker, for all of them."""

import inspect
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import uvloop

from local import machine
from local.broker import Broker
from local.broker.training import make_archive
from local.settings import LocalSettings
from tests.support.java import QUICK
from tests.support.leaks import (
    There,
    forget_logging,
    require_nothing_left,
    require_nothing_left_in_loop,
)
from tests.support.worker import LOGS, PARTITIONS, Pair, Registry, Worker, wait_until

#: Among how many processes the ports are shared out.
PORT_SHARES = 4
#: How many lines of a worker's log are shown for a test that has failed.
LOG_LINES = 100

# Settings and proxies of whoever runs the tests are not theirs.
for _name in list(os.environ):
    if _name.lower().endswith("_proxy") or _name.lower() in LocalSettings.model_fields:
        del os.environ[_name]


def pytest_configure() -> None:
    """Prepare the process that runs the tests, and what it starts."""
    # Heed signals, even behind a shell that has them ignored: children inherit that.
    for each in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    # Processes that run tests at once choose ports for later use: each has its own to choose from.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = len(machine.FREE_PORTS) // PORT_SHARES
    machine.FREE_PORTS = machine.FREE_PORTS[number % PORT_SHARES * share :][:share]
    # The first loop of uvloop's opens a pipe for signals, which stays: no test is to be blamed.
    uvloop.new_event_loop().close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what workers have logged while a test failed, but for what is routine."""
    report = yield
    if report.failed:
        for log in sorted(LOGS):
            if log.exists() and log.stat().st_mtime >= call.start:
                lines = [line for line in log.read_text().splitlines() if "[info " not in line]
                report.sections.append((f"{item.name}: {log}", "\n".join(lines[-LOG_LINES:])))
    return report


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads, open files, tasks or a changed environment behind.

    What fixtures of a wider scope have opened is there before. Tests with real workers are left
    out: they share connections to them, which are opened when they are first used.
    """
    if request.path.parent.name not in {"unit", "component"}:
        yield
    elif inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("nothing_is_left_in_loop")
        yield
    else:
        before = There.now()
        yield
        require_nothing_left(before)


@pytest.fixture
async def nothing_is_left_in_loop() -> AsyncIterator[None]:
    """Do the same within the loop of an asynchronous test."""
    before = There.now()
    yield
    await require_nothing_left_in_loop(before)


@pytest.fixture(autouse=True)
def logging_is_as_before() -> Iterator[None]:
    """Let no test find the logging that another one has configured."""
    yield
    forget_logging()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive that lets brokers start sooner; the first session ever makes it."""
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def broker(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Run a real Kafka broker; without one, the tests that need it fail."""
    with Broker(tmp_path_factory.mktemp("broker"), port=0, java_options=QUICK) as running:
        yield running


@pytest.fixture
def registry(broker: Broker, tmp_path: Path) -> Registry:
    """Return a registry that no other test shares."""
    return Registry(broker.address, tmp_path)


@pytest.fixture(scope="session")
def shared_registry(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Return a registry for tests that get along by using ids of their own."""
    return Registry(broker.address, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def worker(shared_registry: Registry) -> Iterator[Worker]:
    """Run a real worker of the shared registry."""
    with shared_registry.worker() as running:
        yield running


@pytest.fixture(scope="module")
def pair(shared_registry: Registry, worker: Worker) -> Iterator[Pair]:
    """Run a second worker of the shared registry; afterwards, the first one has everything again.

    Otherwise the tests of the next module would meet partitions that are moving.
    """

    def has_all() -> bool:
        told = worker.get("/overview").json().get("workers", [])
        return [len(each["owned"]) for each in told] == [PARTITIONS] and worker.is_ready()

    with shared_registry.worker(2) as other:
        wait_until(lambda: worker.is_ready() and other.is_ready(), 30, "both workers are ready")
        yield worker, other
    wait_until(has_all, 60, "the first worker has all partitions")


@pytest.fixture(scope="session")
def registry_url(worker: Worker) -> str:
    """Return the address of the shared worker's web view."""
    return worker.url
