"""``python -m app keys create``, ``list`` and ``revoke``."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import click
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from app.access.files import locked_keys, read_keys, write_keys
from app.access.keys import Key, KeyName, new_key
from app.access.scopes import Scope
from app.cli.audited import audited
from app.cli.runner import one_line
from app.config.settings import settings
from app.domain.errors import SettingsError

#: The width of a table that goes to a pipe.
WIDTH_WITHOUT_TERMINAL = 160

_Command = TypeVar("_Command", bound=Callable[..., None])

_NAMES = TypeAdapter[str](KeyName)


def _rate(what: str, told: str) -> Callable[[_Command], _Command]:
    return click.option(
        f"--{what}-per-second",
        what,
        type=click.FloatRange(min=0, min_open=True, max=1e9),
        callback=lambda _context, _option, rate: _number(rate),
        metavar="RATE",
        help=told,
    )


@click.group()
def keys() -> None:
    """Create, list and revoke access keys, in the file that KEYS_FILE names.

    Workers take a changed file within a second. Exit status: 0 done; 2 it could not be done.
    """


@keys.command()
@click.option("--name", required=True, help="The name of the key: letters, digits, '._-'.")
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What it may do; may be given more than once. admin includes all.",
)
@click.option(
    "--expires-in",
    type=click.IntRange(1, 36_500),
    metavar="DAYS",
    help="Days until the key expires. Unset: never.",
)
@_rate("writes", "Writes a second, instead of CLIENT_WRITES_PER_SECOND.")
@_rate("reads", "Reads a second, instead of CLIENT_READS_PER_SECOND.")
def create(
    name: str,
    scopes: Sequence[str],
    expires_in: int | None,
    writes: float | None,
    reads: float | None,
) -> None:
    """Create a key and print it. Only its hash is kept, so it cannot be shown again."""
    lifetime = None if expires_in is None else timedelta(days=expires_in)
    with _told_of("create", added=[name]):
        _require_name(name)
        with locked_keys(_path()) as known:
            if any(key.name == name for key in known):
                raise SettingsError(f"there is a key named {name} already; revoke it first")
            text, key = new_key(name, frozenset(map(Scope, scopes)), lifetime, writes, reads)
            write_keys(_path(), (*known, key))
    click.echo(text)
    click.echo("Keep it safe: it is not shown again, and only its hash is kept.", err=True)


@keys.command("list")
def list_keys() -> None:
    """List the keys: names, scopes and dates. Never the keys themselves."""
    with _told_of("list"):
        known = read_keys(_path())
    if not known:
        click.echo("No keys.")
        return
    _console().print(_table(known))


@keys.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke a key. Workers refuse it within a second, and its sessions end."""
    with _told_of("revoke", removed=[name]), locked_keys(_path()) as known:
        kept = tuple(key for key in known if key.name != name)
        if len(kept) == len(known):
            raise SettingsError(f"there is no key named {name!r}")
        write_keys(_path(), kept)
    click.echo(f"Revoked {name}.")


def _path() -> Path:
    path = settings().keys_file
    if path is None:
        raise SettingsError("KEYS_FILE: must be set: the file that keys are kept in")
    return path


def _require_name(name: str) -> None:
    try:
        _NAMES.validate_python(name)
    except ValidationError:
        raise SettingsError("--name: must be 1 to 64 letters, digits, '.', '_' and '-'") from None


def _number(rate: float | None) -> float | None:
    if rate is not None and math.isnan(rate):
        raise click.BadParameter("must be a number")
    return rate


def _table(known: Sequence[Key]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "scopes", "id", "created", "expires", "writes/s", "reads/s"):
        table.add_column(heading)
    for key in known:
        scopes = ", ".join(scope for scope in Scope if scope in key.scopes)
        rates = map(_shown, (key.writes_per_second, key.reads_per_second))
        table.add_row(key.name, scopes, key.id, _day(key.created_at), _end(key), *rates)
    return table


def _shown(rate: float | None) -> str:
    return "" if rate is None else f"{rate:g}"


def _end(key: Key) -> str:
    if key.expires_at is None:
        return "never"
    return f"{_day(key.expires_at)}{' (expired)' if key.is_expired else ''}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _console() -> Console:
    made = Console(highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made = Console(highlight=False, markup=False, emoji=False, width=WIDTH_WITHOUT_TERMINAL)
    return made


@contextmanager
def _told_of(what: str, **names: Sequence[str]) -> Iterator[None]:
    """Write to the audit log what was done with keys. If it fails, print one line that says why."""
    with one_line(), audited(settings(), f"keys {what}", **names):
        yield
