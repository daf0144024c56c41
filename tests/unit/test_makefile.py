"""The Makefile with a stand-in for Python: which one it takes, and what that sees and does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from local.places import PROJECT

#: Writes down how it was called, and makes an environment as Python's venv does.
PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
env | grep -E '^(PIP|PYTHON)' | grep -v '^PYTHON=' >> "$CALLS"
case "$*" in "-m venv "*)
    mkdir -p .venv/bin && ln -s "$0" .venv/bin/python
    echo "command = $0 -m venv $(pwd -P)/.venv" > .venv/pyvenv.cfg
esac
"""


class Checkout:
    """The Makefile and what it looks at, in a folder with a blank in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "check out"
        (self.folder / "locks").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "locks/run.txt"):
            shutil.copy(PROJECT / name, self.folder / name)
        self.calls = folder / "calls"
        self.python = folder / "a place" / "python3.11"
        self.python.parent.mkdir()
        self.python.write_text(PYTHON)
        self.python.chmod(0o700)

    def make(self, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        surroundings = {"PATH": os.environ["PATH"], "CALLS": str(self.calls)}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=surroundings | {"PYTHON": str(self.python)} | given,
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> bool:
        return "-r locks/run.txt" in self.calls.read_text()

    def pip_calls(self) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith("-m pip")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a checkout in which nothing is installed."""
    return Checkout(tmp_path)


def test_a_python_whose_path_has_blanks_is_taken(checkout: Checkout) -> None:
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    assert checkout.installed()
    assert checkout.make("setup").returncode == 0
    assert not checkout.installed()


def test_an_install_is_told_in_a_few_lines(checkout: Checkout) -> None:
    lock = (checkout.folder / "locks" / "run.txt").read_text()
    packages = sum("==" in line and not line.startswith(" ") for line in lock.splitlines())
    assert checkout.make("setup").stdout.splitlines() == [
        "Installing what the registry needs, once. It takes about a minute:",
        f"  {packages} packages, as locks/run.txt names them",
        "  this project",
    ]
    assert all("--quiet" in line for line in checkout.pip_calls())


def test_an_install_that_fails_says_why(checkout: Checkout) -> None:
    script = checkout.python.read_text()
    failing = 'case "$*" in "-m pip "*) echo "ERROR: no network" >&2; exit 1; esac\n'
    checkout.python.write_text(script + failing)
    done = checkout.make("setup")
    assert done.returncode != 0
    assert "ERROR: no network" in done.stderr


def test_a_python_that_does_not_fit_is_told_in_one_line(checkout: Checkout) -> None:
    checkout.python.write_text("#!/bin/sh\nexit 1\n")
    done = checkout.make("setup")
    assert done.returncode == 2
    assert done.stderr.startswith("CPython 3.11 with its venv module is needed: name it")


def test_how_it_is_installed_does_not_follow_the_surroundings(checkout: Checkout) -> None:
    bent = {"PIP_USER": "1", "PIP_TARGET": "/x", "PIP_REQUIRE_HASHES": "0", "PYTHONHOME": "/x"}
    asked = {"PIP_INDEX_URL": "https://index.example", "PIP_CERT": "/certificate"}
    done = checkout.make("setup", **bent, **asked, PYTHONPATH="/x", PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr
    seen = {line for line in checkout.calls.read_text().splitlines() if line.startswith("P")}
    assert seen == {f"{name}={value}" for name, value in asked.items()}


def test_a_checkout_that_was_moved_is_installed_anew(checkout: Checkout) -> None:
    checkout.make("setup")
    (checkout.folder / ".venv" / "of-old").touch()
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    done = checkout.make("setup")
    assert done.returncode == 0, done.stderr
    assert "This folder was elsewhere when its packages were installed" in done.stdout
    assert checkout.installed()
    assert not (checkout.folder / ".venv" / "of-old").exists()
    assert checkout.make("setup").returncode == 0
    assert not checkout.installed()
