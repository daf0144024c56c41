"""One registry has one EMAIL_SECRET: it is written down once, and everybody else is refused."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.integration.test_repartition import run
from tests.support.worker import Registry, Worker, email_of, wait_until

ONE, ANOTHER = "a secret of sixteen letters", "and another one, as long as that"
TOLD = "EMAIL_SECRET: the registry began with another one; all workers and commands need that"


def under(registry: Registry, secret: str) -> Registry:
    """Return the registry as workers with a secret see it."""
    return replace(registry, settings={**registry.settings, "EMAIL_SECRET": secret})


def last_line(worker: Worker) -> str:
    """Return what a worker said at last, that was refused."""
    assert worker.wait() == 2
    return worker.log.read_text().splitlines()[-1]


def test_of_two_secrets_the_first_one_is_the_registrys(registry: Registry) -> None:
    """Else one address could be registered twice: each secret gives it another key."""
    first, second = under(registry, ONE).worker(1), under(registry, ANOTHER).worker(2)
    with first:
        second.launch()
        assert last_line(second) == TOLD
        user = {"id": "ada", "name": "Ada", "email": email_of("ada")}
        assert first.post("/users", json=user, headers={"Prefer": "wait=10"}).status_code == 201
        assert TOLD in run(second, "doctor").stdout
        assert run(second, "topics", "plan").stderr == f"{TOLD}\n"
        assert "under another EMAIL_SECRET" in run(second, "verify").stderr
        assert "EMAIL_SECRET is the registry's" in run(first, "doctor").stdout
    second.launch()
    assert last_line(second) == TOLD


def test_of_two_that_begin_at_once_one_is_refused(registry: Registry) -> None:
    workers = [under(registry, ONE).worker(1), under(registry, ANOTHER).worker(2)]
    with ThreadPoolExecutor(2) as starting:
        list(starting.map(Worker.launch, workers))
    try:
        wait_until(lambda: any(TOLD in each.log.read_text() for each in workers), 60, "one is out")
        (refused,) = (each for each in workers if TOLD in each.log.read_text())
        assert last_line(refused) == TOLD
        (taken,) = (each for each in workers if each is not refused)
        wait_until(taken.is_ready, 60, "the other one is ready")
    finally:
        for each in workers:
            each.stop()


#: A worker as 0.8 took its secret: blanks and line ends around it were a part of it.
AS_0_8 = """
import os
from app.domain.addresses import EmailKeys
from app.config.settings import Settings
Settings.email_keys = property(lambda _: EmailKeys(os.environ["EMAIL_SECRET"].encode()))
from app.cli.main import main
main()
"""


def test_a_registry_whose_secret_had_a_line_end_goes_on_as_another_one(
    registry: Registry, tmp_path: Path
) -> None:
    """What docs/operations.md says of upgrading from 0.8."""
    secret = {"EMAIL_SECRET": f"{ONE}\n", "PARTITIONS": "1"}
    earlier = replace(registry, settings=secret)
    worker = earlier.worker()
    worker.command = [sys.executable, "-c", AS_0_8, "worker"]
    file = tmp_path / "users.ndjson"
    users = [f"user-{number}" for number in range(30)]
    with worker:
        rows = [{"id": each, "name": "N", "email": email_of(each)} for each in users]
        assert worker.post("/users/batch", json=rows).json()["accepted"] == len(users)
        for each in users:
            worker.wait_for_user(each)
        assert run(worker, "export", worker.url, str(file)).returncode == 0
    worker = earlier.worker()
    worker.launch()
    assert last_line(worker) == TOLD

    later = Registry(registry.brokers, registry.folder, settings=secret).worker()
    with later:
        told = run(later, "import", later.url, str(file))
        assert told.stdout == "accepted 30, rejected 0, up to line 30\n", told.stderr
        for each in users:
            later.wait_for_user(each)
            found = later.get("/users", params={"email": email_of(each)})
            assert found.json()["id"] == each
    assert run(later, "verify").stdout.splitlines()[-1] == "result: clean"
