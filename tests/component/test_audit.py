"""The audit log: logins, refusals, erasures, exports, replays and changed keys, without names."""

import json
import logging
import os
import pwd
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock, Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from app.access import ring
from app.access.audit import LOGGER, REFUSALS_PER_SECOND, Audit, CommandAudit, require_audit_file
from app.access.files import read_keys, write_keys
from app.cli import keys, recover
from app.cli.main import main
from app.config.settings import Settings
from app.domain.errors import NotReplayedError, SettingsError
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.kafka import topics
from app.web.auth.access import ACCESS
from app.web.auth.auditing import AUDIT
from app.web.routes import application_options, install
from app.web.services import SERVICES, Services
from tests.component.access import ADA, SECRET, add_key, bearer, serving
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer


@pytest.fixture(autouse=True)
def _no_handlers() -> Iterator[None]:
    yield
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.propagate = True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the log goes."""
    return tmp_path / "audit.log"


def asked(tmp_path: Path) -> dict[str, object]:
    """Return the settings of a registry that asks for keys and keeps a log."""
    return {
        "keys_file": tmp_path / "keys.json",
        "email_secret": SECRET,
        "audit_file": tmp_path / "audit.log",
    }


def lines(path: Path) -> list[dict[str, Any]]:
    """Return what was told."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def hashed(client: Client, text: str) -> str:
    """Return what stands for an id or an address."""
    return client.app[AUDIT].hash_of(text)


async def test_who_did_what_with_whom_is_told(
    tmp_path: Path, path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    lookups.add("ada")
    key = add_key(tmp_path / "keys.json", "admin", name="ops")
    async with serving(producer, lookups, **asked(tmp_path)) as client:
        erased = await client.delete("/users/ada", headers=bearer(key))
        position = (await erased.json())["position"]
        lookups.outcome_of_all = Outcome.UNKNOWN_ID
        headers = bearer(key) | {"Prefer": "wait=1"}
        assert (await client.delete("/users?id=bob", headers=headers)).status == 404
        assert (await client.get("/export", headers=bearer(key))).status == 200
        await client.post("/users", json=ADA, headers=bearer(key))
        await client.get("/users/ada", headers=bearer(key))
        told = lines(path)
        assert [(line["what"], line["outcome"], line["status"], line["who"]) for line in told] == [
            ("erasure", "done", 202, "ops"),
            ("erasure", "failed", 404, "ops"),
            ("export", "done", 200, "ops"),
        ]
        assert told[0]["id"] == hashed(client, "ada")
        assert told[0]["position"] == position
        assert told[1]["id"] == hashed(client, "bob")
    assert "ada" not in path.read_text().replace(hashed(client, "ada"), "")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_each_erasure_over_trpc_is_told(
    tmp_path: Path, path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    key = add_key(tmp_path / "keys.json", "erase", name="ops")
    async with serving(producer, lookups, **asked(tmp_path)) as client:
        calls = {"0": {"id": "ada"}, "1": {"id": "bob"}}
        erased = await client.post(
            "/trpc/eraseUser,eraseUser?batch=1", json=calls, headers=bearer(key)
        )
        positions = [each["result"]["data"]["position"] for each in await erased.json()]
        lookups.outcome_of_all = Outcome.VERSION_MISMATCH
        await client.post(
            "/trpc/eraseUser",
            json={"id": "eve", "ifVersion": 2},
            headers=bearer(key) | {"Prefer": "wait=1"},
        )
        told = lines(path)
        assert [(line["what"], line["outcome"], line["status"], line["who"]) for line in told] == [
            ("erasure", "done", 200, "ops"),
            ("erasure", "done", 200, "ops"),
            ("erasure", "failed", 412, "ops"),
        ]
        assert [line["id"] for line in told] == [
            hashed(client, who) for who in ("ada", "bob", "eve")
        ]
        assert [line["position"] for line in told[:2]] == positions


async def test_each_erasure_in_a_batch_is_told(
    tmp_path: Path, path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    key = add_key(tmp_path / "keys.json", "write", name="ops")
    async with serving(producer, lookups, **asked(tmp_path)) as client:
        rows = [ADA, {"type": "erase", "id": "bob"}, {"type": "erase", "id": "eve", "ifVersion": 2}]
        sent = await client.post("/users/batch?receipts=1", json=rows, headers=bearer(key))
        receipts = [json.loads(line) for line in (await sent.read()).splitlines()]
        told = lines(path)
        assert [(line["what"], line["outcome"], line["who"]) for line in told] == [
            ("erasure", "done", "ops")
        ] * 2
        assert [line["id"] for line in told] == [hashed(client, who) for who in ("bob", "eve")]
        assert [line["position"] for line in told] == [each["position"] for each in receipts[1:]]


async def test_refusals_are_told(
    tmp_path: Path, path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    key = add_key(tmp_path / "keys.json", "read", name="reader")
    async with serving(producer, lookups, **asked(tmp_path), allowed_hosts="a.example") as client:
        await client.delete("/users/ada", headers=bearer(key))
        await client.get("/users/ada", headers=bearer("registry_key_unknown"))
        await client.post("/users", json=ADA)
        await client.get("/users/ada", headers={"Host": "evil.example"})
        assert [(line["what"], line["status"], line.get("who")) for line in lines(path)] == [
            ("erasure", 403, "reader"),
            ("GET /users/{id}", 401, None),
            ("POST /users", 401, None),
            ("GET /users/{id}", 421, None),
        ]
        assert {line["outcome"] for line in lines(path)} == {"refused"}
        assert lines(path)[1]["address"] == hashed(client, "127.0.0.1")
        assert "127.0.0.1" not in path.read_text()


class Replays:
    """Replays, or fails, without a broker."""

    async def replay(self, position: Position) -> Position:
        """Return where the original stands now."""
        if position.offset == 8:
            raise NotReplayedError("its id has a later record")
        return Position(3, 99)


async def test_replays_are_told(
    tmp_path: Path, path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    key = add_key(tmp_path / "keys.json", "admin", name="ops")
    settings = Settings.model_validate(asked(tmp_path))
    web_app = web.Application(**application_options(settings))
    written = topics.declare(settings).user_registrations
    install(web_app, Services(settings, written, producer, lookups, replays=Replays()))
    # What was replayed is forgotten by the list of dead letters, which is not there.
    web_app[SERVICES] = replace(web_app[SERVICES], dead_letters=cast(Any, MagicMock()))
    async with TestClient(TestServer(web_app)) as client:
        for offset in (7, 8):
            url = f"/dead-letters/{Position(3, offset).token()}/replay"
            await client.post(url, headers=bearer(key))
    assert [(line["what"], line["outcome"], line["position"]) for line in lines(path)] == [
        ("replay", "done", Position(3, 7).token()),
        ("replay", "failed", Position(3, 8).token()),
    ]
    assert lines(path)[0]["replayed_as"] == Position(3, 99).token()


async def test_logins_are_told(
    tmp_path: Path, path: Path, producer: FakeProducer, lookups: FakeLookups
) -> None:
    key = add_key(tmp_path / "keys.json", "read", name="ada")
    async with serving(producer, lookups, **asked(tmp_path)) as client:
        for given in (key, "registry_key_wrong"):
            await client.post("/login", data={"key": given}, allow_redirects=False)
    assert [(line["what"], line["outcome"], line.get("who")) for line in lines(path)] == [
        ("login", "done", "ada"),
        ("login", "refused", None),
    ]
    assert "registry_key_" not in path.read_text()


async def test_changed_keys_are_told(
    tmp_path: Path,
    path: Path,
    producer: FakeProducer,
    lookups: FakeLookups,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ring, "LOOK_EVERY_SECONDS", 0.0)
    keys_file = tmp_path / "keys.json"
    add_key(keys_file, "read", name="old")
    async with serving(producer, lookups, **asked(tmp_path)) as client:
        client.app[ACCESS].ring._next_look = 0.0
        kept = read_keys(keys_file)
        add_key(keys_file, "read", name="new")
        await client.get("/health/ready")
        write_keys(keys_file, tuple(key for key in read_keys(keys_file) if key not in kept))
        await client.get("/health/ready")
    assert [(line["what"], line["added"], line["removed"]) for line in lines(path)] == [
        ("keys", ["new"], []),
        ("keys", [], ["old"]),
    ]


async def test_strangers_cannot_fill_a_disk(tmp_path: Path, path: Path) -> None:
    now = [1_000.0]
    audit = Audit.of(Settings.model_validate(asked(tmp_path)))
    assert audit is not None
    audit._clock = lambda: now[0]
    for _ in range(1_000):
        audit.note_stranger("GET /users", "refused")
    assert len(lines(path)) <= 2 * REFUSALS_PER_SECOND
    written = len(lines(path))
    audit.note("erasure", "done", who="ops")
    assert lines(path)[-1]["left_out"] == 1_000 - written
    now[0] += 1
    audit.note_stranger("GET /users", "refused")
    assert "left_out" not in lines(path)[-1]


async def test_a_file_may_be_moved_away_and_may_fail(tmp_path: Path, path: Path) -> None:
    audit = Audit.of(Settings.model_validate(asked(tmp_path)))
    assert audit is not None
    audit.note("erasure", "done")
    path.rename(tmp_path / "audit.log.1")
    audit.note("export", "done")
    assert [line["what"] for line in lines(path)] == ["export"]
    path.unlink()
    path.mkdir()
    with capture_logs() as logged:
        audit.note("erasure", "done")
        audit.note("erasure", "done")
    assert [line["event"] for line in logged] == ["AUDIT_FILE cannot be written: lines are lost"]
    path.rmdir()
    audit.note("login", "done")
    assert [line["what"] for line in lines(path)] == ["login"]


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        require_audit_file(tmp_path / "nowhere" / "audit.log")
    assert str(caught.value).startswith("AUDIT_FILE: ")
    assert "\n" not in str(caught.value)


async def test_without_keys_and_a_file_there_is_none(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert AUDIT not in client.app
    with caplog.at_level(logging.INFO, logger="audit"):
        await client.delete("/users/ada")
    assert [record for record in caplog.records if record.name == "audit"] == []


def run_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Return how a command on keys ended."""
    monkeypatch.setattr(keys, "settings", lambda: Settings.model_validate(asked(tmp_path)))
    return CliRunner().invoke(main, ["keys", *arguments])


def test_what_is_done_with_keys_from_the_command_line_is_told(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ("create", "--name", "ci", "--scope", "read")
    done = [create, create, ("list",), ("revoke", "ci"), ("revoke", "ci")]
    results = [run_keys(tmp_path, monkeypatch, *each) for each in done]
    assert [result.exit_code for result in results] == [0, 2, 0, 0, 2]
    told = [(line["what"], line["outcome"], line.get("added"), line.get("removed"))
            for line in lines(path)]  # fmt: skip
    assert told == [
        ("keys create", "done", ["ci"], None),
        ("keys create", "failed", ["ci"], None),
        ("keys list", "done", None, None),
        ("keys revoke", "done", None, ["ci"]),
        ("keys revoke", "failed", None, ["ci"]),
    ]
    assert {line["who"] for line in lines(path)} == {f"os:{pwd.getpwuid(os.getuid()).pw_name}"}
    assert "registry_key_" not in path.read_text()


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (None, 0, "done"),
        (SettingsError("workers run"), 2, "failed"),
        (LookupError("a bug"), 2, "failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_operators_decide_is_told(
    tmp_path: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    status: int,
    outcome: str,
) -> None:
    async def skip(*_: object) -> list[str]:
        if error is not None:
            raise error
        return ["skipped"]

    monkeypatch.setattr(recover, "settings", lambda: Settings.model_validate(asked(tmp_path)))
    monkeypatch.setattr(recover, "skip_record", skip)
    told = CliRunner().invoke(main, ["recover", "skip", "t", "3", "7", "--reason", "bug"])
    assert (told.exit_code, told.stdout) == (status, "" if status else "skipped\n")
    (line,) = lines(path)
    assert (line["what"], line["partition"], line["offset"]) == ("recover skip", 3, 7)
    assert line["outcome"] == outcome


def test_nothing_is_decided_if_it_cannot_be_told(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.mkdir()
    monkeypatch.setattr(recover, "settings", lambda: Settings.model_validate(asked(tmp_path)))
    monkeypatch.setattr(recover, "accept", begun := Mock())
    told = CliRunner().invoke(main, ["recover", "gap", "--yes"])
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("AUDIT_FILE: ")
    assert not begun.called


def test_nothing_is_done_with_keys_if_it_cannot_be_told(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.mkdir()
    result = run_keys(tmp_path, monkeypatch, "create", "--name", "ci", "--scope", "read")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("AUDIT_FILE: ")
    assert read_keys(tmp_path / "keys.json") == ()


def test_commands_write_no_lines_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({**asked(tmp_path), "audit_file": None})
    monkeypatch.setattr(keys, "settings", lambda: settings)
    result = CliRunner().invoke(main, ["keys", "list"])
    assert (result.exit_code, result.output) == (0, "No keys.\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_a_file_that_root_begins_is_its_folders_owners(tmp_path: Path, path: Path) -> None:
    os.chown(tmp_path, 4_711, 4_712)
    CommandAudit(Settings.model_validate(asked(tmp_path))).note("keys list", "done")
    assert (path.stat().st_uid, path.stat().st_gid) == (4_711, 4_712)
    os.chown(path, 0, 0)
    CommandAudit(Settings.model_validate(asked(tmp_path))).note("keys list", "done")
    assert path.stat().st_uid == 0
