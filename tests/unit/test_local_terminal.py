"""The terminal: Ctrl-C reaches the program alone, and whoever started it sees status 0."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.places import PROJECT
from local.terminal import in_foreground
from tests.support.terminal import CTRL_C, Terminal

DEADLINE_SECONDS = 20

PROGRAM = """
import time
from local.terminal import own_foreground
with own_foreground():
    try:
        print("running", flush=True)
        while True:
            # Not pause(): one handled signal ends it, and one that comes just before is lost to it.
            time.sleep(0.05)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""

Open = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Open]:
    """Open terminals whose commands may name the program as ``{program}``."""
    (tmp_path / "program.py").write_text(PROGRAM)
    program = shlex.join([sys.executable, str(tmp_path / "program.py")])
    (tmp_path / "Makefile").write_text(f"run:\n\t@{program}\n")
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    with ExitStack() as stack:
        yield lambda *command: stack.enter_context(
            Terminal(*(part.format(program=program) for part in command), cwd=tmp_path, env=env)
        )


def test_make_exits_with_0_after_ctrl_c(terminal: Open) -> None:
    make = terminal("make", "run")
    make.wait_for("running", DEADLINE_SECONDS)
    make.type(CTRL_C)
    assert make.process.wait(DEADLINE_SECONDS) == 0
    make.wait_for("interrupted", DEADLINE_SECONDS)


def test_the_foreground_is_given_back_at_the_end(terminal: Open) -> None:
    shell = terminal("sh", "-c", "{program}; read line; echo the shell read $line")
    shell.wait_for("running", DEADLINE_SECONDS)
    shell.type(CTRL_C)
    shell.wait_for("interrupted", DEADLINE_SECONDS)
    shell.type("again\n")
    shell.wait_for("the shell read again", DEADLINE_SECONDS)


def test_ctrl_z_does_nothing_as_nobody_could_continue_the_program(terminal: Open) -> None:
    make = terminal("make", "run")
    make.wait_for("running", DEADLINE_SECONDS)
    make.type("\x1a")
    make.type(CTRL_C)
    assert make.process.wait(DEADLINE_SECONDS) == 0


def test_the_leader_of_a_session_keeps_its_group(terminal: Open) -> None:
    alone = terminal("sh", "-c", "exec {program}")
    alone.wait_for("running", DEADLINE_SECONDS)
    alone.type(CTRL_C)
    assert alone.process.wait(DEADLINE_SECONDS) == 0


def test_without_a_terminal_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert not in_foreground()
    monkeypatch.setattr(sys, "stdin", None)
    assert not in_foreground()
