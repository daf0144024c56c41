"""Programs that start with their modules imported end, and are ended, as all others are."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import preloaded
from tests.support.worker import Registry, wait_until


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["keys", "list"], {"KEYS_FILE": "/none/keys.json"}),
        (["topics", "--help"], {}),
        (["no-such-command"], {}),
        (["worker"], {"PARTITIONS": "many", "KAFKA_BROKERS": "127.0.0.1:1"}),
    ],
)
def test_a_command_says_the_same_as_one_that_starts_from_nothing(
    arguments: list[str], settings: dict[str, str]
) -> None:
    environment = {**os.environ, **settings}
    whole = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    ended = preloaded.run(environment, *arguments)
    assert (ended.returncode, ended.stdout) == (whole.returncode, whole.stdout)
    assert ended.stderr == whole.stderr


def test_a_program_has_an_environment_of_its_own(tmp_path: Path) -> None:
    settings = {"KEYS_FILE": str(tmp_path / "keys.json"), "EMAIL_SECRET": "a secret of the tests"}
    made = preloaded.run(
        {**os.environ, **settings}, "keys", "create", "--name", "first", "--scope", "read"
    )
    assert made.returncode == 0, made.stderr
    listed = preloaded.run({**os.environ, **settings}, "keys", "list")
    assert "first" in listed.stdout
    assert "KEYS_FILE" not in os.environ


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_is_a_process_that_signals_end(registry: Registry, number: signal.Signals) -> None:
    with registry.worker() as worker:
        pid = worker.pid
        assert os.getpgid(pid) == os.getpgid(0)
        os.kill(pid, number)
        wait_until(lambda: worker.has_ended, 30, "it has ended")
        assert worker.wait() == (0 if number == signal.SIGTERM else -number)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
