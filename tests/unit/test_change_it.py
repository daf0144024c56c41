"""The recipe for a field, done to a copy of the project: it is lost nowhere."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.documents import ROOT

PAGE = ROOT / "docs" / "explanation" / "change-it.md"
LEFT_OUT = shutil.ignore_patterns("__pycache__")

#: Follows the new field from HTTP to the export, in the copy.
FOLLOWS = """
from io import BytesIO
from typing import NamedTuple
import orjson
from aiohttp import web
from app.config.settings import Settings
from app.domain.decisions import Decisions
from app.domain import parsing
from app.domain.records import *
from app.kafka.topics import asyncapi
from app.ops.transfer.rows import READERS
from app.web.api import openapi, typescript
from app.web.api.export import FORMATS
from app.web.pages import pages, rendering

class Read(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple = ()

sent = {"id": "ada", "name": "Ada", "email": "ada@example.com", "country": "NZ"}
topic = encode(read_registration(orjson.dumps(sent)))
assert orjson.loads(topic) == sent
decisions = Decisions(0, str.encode)
command, key = parsing.read(Read(0, 1_000, None, topic))
row = decisions.ask(None, key, Queued(0, 1_000, command))
verdict = {"attempt": row["position"], "verdict": "granted", "email_key": "k", "at": ""}
row = decisions.settle(row, key, verdict)
assert row["country"] == "NZ"

update = encode(read_update(b'{"type": "update", "id": "ada", "country": "AU"}'))
command, key = parsing.read(Read(1, 2_000, None, update))
changed = decisions.ask(row, key, Queued(1, 2_000, command))
assert (changed["country"], changed["name"]) == ("AU", "Ada")
again, key = parsing.read(Read(2, 3_000, None, topic))
decisions.ask(changed, key, Queued(2, 3_000, again))
assert decisions.outcomes[-1].outcome.word == "replayed"

user = public(encode_row(changed))
assert orjson.loads(user.encode())["country"] == "AU"
assert "<dt>Country</dt><dd><bdi>AU" in rendering.user(pages.card(user), None, "http://x", None)
assert 'name="country"' in rendering.register({}, {}, None)
without = public(encode_row({name: value for name, value in changed.items() if name != "country"}))
for name, (_, head, write) in FORMATS.items():
    exported = BytesIO(head + write([user, without]))
    rows = [orjson.loads(each.sent) for each in READERS[name](exported)]
    assert [each.get("country") for each in rows] == ["AU", None], (name, rows)
assert "country" in typescript.declaration()
assert "country" in asyncapi.text()
for told in (Registration, User):
    assert told.__annotations__["country"] is not None
"""


def changed_files(diff: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the files of a diff, and of each what is replaced by what."""
    for part in re.split(r"^--- [^\n]*\n", diff, flags=re.MULTILINE)[1:]:
        first, *hunks = re.split(r"^(?:@@[^\n]*\n)", part, flags=re.MULTILINE)
        lines = [[line for line in hunk.split("\n") if line] for hunk in hunks]
        yield (
            first.removeprefix("+++ ").strip(),
            [
                (
                    "\n".join(line[1:] for line in hunk if line[0] != "+"),
                    "\n".join(line[1:] for line in hunk if line[0] != "-"),
                )
                for hunk in lines
            ],
        )


def test_a_new_field_is_lost_nowhere(tmp_path: Path) -> None:
    for folder in ("app", "tables", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=LEFT_OUT)
    diff = re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    changes = dict(changed_files(diff))
    assert len(changes) <= 5
    for name, replacements in changes.items():
        text = (tmp_path / name).read_text()
        for old, new in replacements:
            assert text.count(old) == 1, f"{name}:\n{old}"
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", FOLLOWS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
