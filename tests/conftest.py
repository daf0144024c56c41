"""Fixtures that several kinds of tests share: one real broker, one real worker, for all of them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.broker import Broker
from local.broker.training import make_archive
from local.settings import LocalSettings
from tests.support.java import QUICK
from tests.support.worker import Registry, Worker

# Settings and proxies of whoever runs the tests are not theirs.
for _name in list(os.environ):
    if _name.lower().endswith("_proxy") or _name.lower() in LocalSettings.model_fields:
        del os.environ[_name]


def pytest_configure() -> None:
    """Heed signals, even behind a shell that has them ignored: children inherit that."""
    for each in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)


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


@pytest.fixture(scope="session")
def registry_url(worker: Worker) -> str:
    """Return the address of the shared worker's web view."""
    return worker.url
