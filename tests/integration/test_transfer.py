"""Everything in one registry, exported, imported into another one, and exported again."""

import csv
import uuid
from pathlib import Path

import orjson
from click.testing import CliRunner

from app.cli.main import main
from tests.support.worker import Registry, Worker, email_of, wait_until

NAMES = ['Ada, "the first"', "two  blanks, a comma", "=1+1", "Ünï 😀", "'; drop", "{}"]
USERS = 2_500

User = dict[str, str]


def test_what_is_exported_can_be_imported(
    registry: Registry, worker: Worker, tmp_path: Path
) -> None:
    prefix = f"{uuid.uuid4().hex[:8]}-"
    users = [
        {"id": user_id, "name": NAMES[n % len(NAMES)], "email": email_of(user_id)}
        for n, user_id in enumerate(f"{prefix}{number:05}" for number in range(USERS))
    ]
    given = tmp_path / "given.ndjson"
    given.write_bytes(b"\n".join(map(orjson.dumps, users)))
    with registry.worker() as first:
        transfer("import", first, given)
        rows = wait_until(lambda: exported(first, tmp_path / "rows.ndjson"), 30, "all are there")
        cells = exported(first, tmp_path / "cells.csv")
    assert [of(row) for row in rows] == users
    assert [of(row) for row in cells or []] == users
    assert [row["updated_at"] for row in cells or []] == [row["updated_at"] for row in rows]

    transfer("import", worker, tmp_path / "cells.csv")
    again = wait_until(
        lambda: exported(worker, tmp_path / "again.csv", "--prefix", prefix), 30, "and there"
    )
    assert [of(row) for row in again] == users
    transfer("import", worker, tmp_path / "rows.ndjson")
    settled = worker.post("/users", json=users[0], headers={"Prefer": "wait=10"})
    assert settled.status_code == 200
    assert exported(worker, tmp_path / "same.csv", "--prefix", prefix) == again


def of(row: User) -> User:
    """Return what a registration has of a user."""
    return {member: row[member] for member in ("id", "name", "email")}


def transfer(command: str, worker: Worker, *arguments: str | Path) -> None:
    """Export or import, which must succeed."""
    done = CliRunner().invoke(main, [command, worker.url, *map(str, arguments)])
    assert done.exit_code == 0, done.output
    if command == "import":
        assert f"accepted {USERS:,}, rejected 0," in done.stdout


def exported(worker: Worker, path: Path, *options: str) -> list[User] | None:
    """Export, and return the users if all are there and registered."""
    transfer("export", worker, path, *options)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file) if path.suffix == ".csv" else map(orjson.loads, file))
    done = len(rows) == USERS and all(row["status"] == "registered" for row in rows)
    return rows if done else None
