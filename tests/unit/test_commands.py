"""Commands are imported one by one: none waits for what only others need."""

import subprocess
import sys

import click
import pytest

from app.cli.main import COMMANDS, main
from local.places import PROJECT


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_table_says(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name


def test_there_are_no_other_commands() -> None:
    context = click.Context(main)
    assert main.list_commands(context) == sorted(COMMANDS)
    assert main.get_command(context, "none") is None


def run(*arguments: str) -> tuple[str, list[str]]:
    """Return what a command prints in a process of its own, and which modules it imports."""
    asked = "import sys, app.cli.main as it; it.main(sys.argv[1:], standalone_mode=False)"
    done = subprocess.run(
        [sys.executable, "-c", f"{asked}; print(); print(*sys.modules)", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    printed, _, modules = done.stdout.strip().rpartition("\n")
    return printed, modules.split()


def test_a_command_imports_nothing_of_the_others() -> None:
    _, imported = run("worker", "--help")
    assert "app.cli.worker" in imported
    others = {place.module for place in COMMANDS.values()} - {"app.cli.worker"}
    assert others.intersection(imported) == set()


def test_the_list_of_commands_is_whole_and_imports_none() -> None:
    printed, imported = run("--help")
    for name, place in COMMANDS.items():
        assert f"  {name} " in printed
        assert place.summary in printed
    assert {place.module for place in COMMANDS.values()}.intersection(imported) == set()
    assert {"faust", "aiohttp", "pydantic"}.intersection(imported) == set()
