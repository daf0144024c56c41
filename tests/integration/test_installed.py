"""The package as it is installed from its wheel, outside a checkout: the same registry."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from local.places import PROJECT
from tests.integration.test_make_run import (
    MAKES_OWN,
    READY,
    READY_SECONDS,
    STOP_SECONDS,
    USER,
    Machine,
)
from tests.support.terminal import CTRL_C, Terminal


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the command of a package that was installed; what it depends on is there already."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    outside = {name: value for name, value in os.environ.items() if name not in MAKES_OWN}
    made = subprocess.run(
        ["make", "wheel"], cwd=PROJECT, env=outside, capture_output=True, text=True, check=True
    )
    wheel = PROJECT / made.stdout.splitlines()[-1]
    place = folder / "venv"
    venv.create(place)
    ours = sysconfig.get_path("purelib", vars={"base": str(place)})
    Path(ours, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([*pip, "--python", place, "install", "--no-deps", wheel], check=True)
    return place / "bin" / "user-registry"


@pytest.fixture
def machine(tmp_path: Path, installed: Path) -> Iterator["Installed"]:
    """Return a place for one registry; nothing of it outlives the test."""
    machine = Installed(tmp_path, installed)
    yield machine
    machine.make("stop")


class Installed(Machine):
    """A folder in which the command is called as make is in a checkout."""

    def __init__(self, folder: Path, command: Path) -> None:
        super().__init__(folder)
        self.command = command
        self.start = folder / "elsewhere"
        self.start.mkdir()
        # What was fetched for the checkout is not fetched again.
        (folder / "cache").mkdir()
        (folder / "cache" / "user-registry").symlink_to(PROJECT / ".cache")
        self.env["XDG_CACHE_HOME"] = str(folder / "cache")

    def run(self) -> Terminal:
        """Run the registry on a terminal."""
        return Terminal(str(self.command), "run", cwd=self.start, env=self.env)

    def make(self, target: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Return how another command ended."""
        return called(self.command, target, cwd=self.start, env=self.env | more)


def called(
    command: Path, *words: str, cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Return how a command ended."""
    return subprocess.run(
        [command, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_it_runs_where_it_is_called(machine: Installed) -> None:
    with machine.run() as running:
        running.wait_for(READY, READY_SECONDS)
        assert machine.register(USER) in {201, 202}
        assert machine.look_up("ada").items() >= USER.items()
        beside = machine.make("run")
        assert (beside.returncode, "`user-registry stop` ends it" in beside.stderr) == (1, True)
        assert machine.make("status").returncode == 0
        running.type(CTRL_C)
        assert running.process.wait(STOP_SECONDS) == 0
    assert machine.make("status").returncode == 1
    # It is the wheel that ran, and it left nothing where it was called.
    log = (machine.folder.logs / "worker-1.log").read_text()
    assert str(PROJECT) not in log
    assert os.listdir(machine.start) == []


def test_its_commands_are_all_there(machine: Installed, installed: Path) -> None:
    told = machine.make("--help")
    assert told.returncode == 0
    listed = {line.split()[0] for line in told.stdout.partition("Commands:\n")[2].splitlines()}
    assert listed >= {"run", "stop", "restart", "status", "worker", "verify", "load", "keys"}
    assert machine.make("--version").stdout == "user-registry, version 0.8.0\n"
    wrong = machine.make("run", PARTITIONS="many")
    assert (wrong.returncode, wrong.stderr.count("\n"), wrong.stdout) == (2, 1, "")
    completion = machine.make("--help", _USER_REGISTRY_COMPLETE="bash_source")
    assert "complete -o nosort -F _user_registry_completion user-registry" in completion.stdout
    words = {"_USER_REGISTRY_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    completed = machine.make("--help", **words, COMP_WORDS="user-registry re")
    assert {line.partition(",")[2] for line in completed.stdout.splitlines()} == {
        *("recover", "repartition", "restart", "restore"),
    }
