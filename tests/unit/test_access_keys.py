"""Keys: their file, the commands that change it, and how a worker keeps up with it."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from app.access.files import read_keys, write_keys
from app.access.keys import hash_of, new_key
from app.access.proofs import Proofs
from app.access.ring import KeyRing
from app.access.scopes import Scope
from app.access.sessions import Sessions
from app.cli.main import main
from app.config import settings as app_settings
from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.worker.preflight import checked
from local.machine import free_port

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that KEYS_FILE names; it is not there yet."""
    named = tmp_path / "access" / "keys.json"
    monkeypatch.setenv("KEYS_FILE", str(named))
    return named


@pytest.fixture
def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs ``keys`` with some arguments."""

    def invoke(*arguments: str) -> Result:
        app_settings.settings.cache_clear()
        result = CliRunner().invoke(main, ["keys", *arguments])
        app_settings.settings.cache_clear()
        return result

    return invoke


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_created_key_is_shown_once_and_kept_as_a_hash(run: Run, path: Path) -> None:
    created = run("create", "--name", "ci", "--scope", "write", "--scope", "read")
    assert created.exit_code == 0
    text = created.stdout.strip()
    assert re.fullmatch(r"registry_key_[A-Za-z0-9_-]{43}", text)
    assert path.stat().st_mode & 0o777 == 0o600
    kept = path.read_text()
    assert text not in kept
    assert "\n" in kept.strip()
    (key,) = json.loads(kept)["keys"]
    assert key["sha256"] == hash_of(text)
    assert key["scopes"] == ["read", "write"]
    assert "expires_at" not in key


def test_a_file_of_the_version_before_is_read(path: Path) -> None:
    path.parent.mkdir()
    member = (
        '{"name": "ci", "id": "0123456789abcdef", "sha256": "%s", "scopes": ["read", "write"], '
        '"created_at": "2026-01-01T00:00:00Z"}'
    )
    path.write_text('{"keys": [%s]}' % (member % ("0" * 64)))
    (key,) = read_keys(path)
    assert (key.name, key.writes_per_second, key.is_expired) == ("ci", None, False)
    assert key.allows(Scope.EXPORT)
    assert key.allows(Scope.ERASE)
    assert not key.allows(Scope.ADMIN)


def test_a_key_has_a_rate_if_it_is_given_one(run: Run, path: Path) -> None:
    rates = ("--writes-per-second", "2.5", "--reads-per-second", "7.25")
    run("create", "--name", "ci", "--scope", "write", *rates)
    (key,) = read_keys(path)
    assert (key.writes_per_second, key.reads_per_second) == (2.5, 7.25)
    assert {"2.5", "7.25"} <= set(run("list").stdout.split())
    for rate in rates[::2]:
        for wrong in ("0", "-1", "nan", "inf", "x"):
            result = run("create", "--name", "b", "--scope", "write", rate, wrong)
            assert (result.exit_code, result.stdout) == (2, ""), wrong


def test_a_list_shows_neither_keys_nor_hashes(run: Run) -> None:
    assert run("list").stdout == "No keys.\n"
    text = run("create", "--name", "ci", "--scope", "admin", "--expires-in", "30").stdout.strip()
    listed = run("list").stdout
    assert "ci" in listed
    assert "admin" in listed
    assert text not in listed
    assert hash_of(text)[:12] not in listed


def test_a_revoked_key_is_gone(run: Run, path: Path) -> None:
    for name in ("one", "two"):
        run("create", "--name", name, "--scope", "read")
    assert run("revoke", "one").exit_code == 0
    assert [key.name for key in read_keys(path)] == ["two"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "--name", "a b", "--scope", "read"], "--name: must be 1 to 64"),
        (["create", "--name", "ci", "--scope", "read"], "there is a key named ci already"),
        (["revoke", "nobody"], "there is no key named 'nobody'"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    run: Run, path: Path, arguments: list[str], told: str
) -> None:
    run("create", "--name", "ci", "--scope", "read")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(told)
    assert result.stderr.count("\n") == 1


def test_the_commands_need_to_know_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYS_FILE")
    result = run("list")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("KEYS_FILE: must be set")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"keys": [{"name": "x"}]}', '{"keys": [], "more": 1}', '{"keys": null}'],
)
def test_a_broken_file_is_told_in_one_line(run: Run, path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    for arguments in (["list"], ["create", "--name", "x", "--scope", "read"], ["revoke", "x"]):
        result = run(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert "is not a file of keys" in result.stderr
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written_is_told_in_one_line(run: Run, path: Path) -> None:
    path.parent.write_text("a file where the folder should be")
    result = run("create", "--name", "x", "--scope", "read")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    (_, one), (_, two) = (new_key("same", frozenset({Scope.READ}), None) for _ in range(2))
    write_keys(path, (one, two))
    with pytest.raises(SettingsError, match="two keys with the same name"):
        read_keys(path)


def test_an_expired_key_is_none(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text, key = new_key("old", frozenset({Scope.READ}), timedelta(seconds=-1))
    write_keys(path, (key,))
    ring = KeyRing(path)
    assert (ring.find(text), ring.find_id(key.id)) == (None, None)


def test_a_changed_file_is_noticed_after_a_second_and_not_asked_before(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    ring = KeyRing(path, clock)
    text, key = new_key("new", frozenset({Scope.READ}), None)
    write_keys(path, (key,))
    clock.now += 0.9
    assert ring.find(text) is None
    clock.now += 0.1
    assert ring.find(text) == key


def as_directory(path: Path) -> None:
    """Put a directory where a file was: nobody can read it, not even root."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("breaks", [Path.unlink, lambda path: path.write_text("{"), as_directory])
def test_a_broken_or_vanished_file_keeps_the_last_good_keys_for_a_minute(
    tmp_path: Path, breaks: Callable[[Path], object]
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    text, key = new_key("good", frozenset({Scope.READ}), None)
    write_keys(path, (key,))
    ring = KeyRing(path, clock)
    breaks(path)
    with capture_logs() as logged:
        for _ in range(3):
            clock.now += 1
            assert ring.find(text) == key
            assert str(ring.trouble).startswith(f"KEYS_FILE: {path} ")
        clock.now += 57
        assert ring.find(text) == key
        clock.now += 1
        assert (ring.find(text), ring.find_id(key.id)) == (None, None)
    assert [line["log_level"] for line in logged] == ["error"]
    assert key.sha256 not in str(logged)
    if path.is_dir():
        path.rmdir()
    write_keys(path, (key,))
    clock.now += 1
    assert (ring.find(text), ring.trouble) == (key, None)


def test_a_file_that_cannot_be_read_is_tried_again_though_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    text, key = new_key("good", frozenset({Scope.READ}), None)
    write_keys(path, (key,))
    ring = KeyRing(path, clock)

    def fails(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    path.chmod(0o640)  # neither its time nor its size changes
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fails)
        clock.now += 1
        assert str(ring.trouble).endswith("cannot be read: Input/output error")
        clock.now += 60
        assert ring.find(text) is None
    clock.now += 1
    assert (ring.find(text), ring.trouble) == (key, None)


HERE, THERE = "http://here:6066", "http://there:6066"


def test_a_proof_is_good_for_about_a_minute() -> None:
    clock = Clock()
    proofs, other = Proofs(b"secret", clock), Proofs(b"other", clock)
    proof = proofs.make(HERE, "/users/a%2Fb?x=1")
    assert proofs.holds(HERE, "/users/a%2Fb?x=1", proof)
    assert not proofs.holds(HERE, "/users/a/b?x=1", proof)
    assert not other.holds(HERE, "/users/a%2Fb?x=1", proof)
    clock.now += 60
    assert proofs.holds(HERE, "/users/a%2Fb?x=1", proof)
    clock.now += 60
    assert not proofs.holds(HERE, "/users/a%2Fb?x=1", proof)


def test_a_proof_for_one_worker_is_of_no_use_at_another() -> None:
    proofs = Proofs(b"secret", Clock())
    assert not proofs.holds(THERE, "/users", proofs.make(HERE, "/users"))


def test_a_new_secret_signs_while_the_one_before_is_accepted() -> None:
    clock = Clock()
    before, both, after = (
        Proofs(b"old", clock),
        Proofs(b"new", clock, others=[b"old"]),
        Proofs(b"new", clock),
    )
    assert both.holds(HERE, "/users", before.make(HERE, "/users"))
    assert after.holds(HERE, "/users", both.make(HERE, "/users"))
    assert not before.holds(HERE, "/users", both.make(HERE, "/users"))
    old, new = Sessions(b"old", 1), Sessions(b"new", 1, [b"old"])
    session = old.begin("an id")
    assert new.key_id(session) == "an id"
    assert new.has_token(session, old.token(session))
    assert (old.key_id(new.begin("an id")), old.has_token(session, new.token(session))) == (
        None,
        False,
    )


def refused(tmp_path: Path, **settings: object) -> str:
    """Return why a worker with such settings does not start."""
    given = {"web_port": free_port(), "data_dir": tmp_path / "data", **settings}
    with pytest.raises(SettingsError) as caught, checked(Settings.model_validate(given)):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_open_door_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    asks = {"keys_file": path, "email_secret": "x" * 16, "web_host": "0.0.0.0"}
    assert "python -m app keys create" in refused(tmp_path, **asks)
    _, expired = new_key("old", frozenset({Scope.READ}), timedelta(seconds=-1))
    write_keys(path, (expired,))
    assert "python -m app keys create" in refused(tmp_path, **asks)
    _, key = new_key("new", frozenset({Scope.READ}), None)
    write_keys(path, (expired, key))
    given = asks | {"web_port": free_port(), "data_dir": tmp_path / "data"}
    with checked(Settings.model_validate(given)):
        pass


def test_keys_need_a_secret_to_sign_with(tmp_path: Path) -> None:
    told = refused(tmp_path, keys_file=tmp_path / "keys.json")
    assert told.startswith("EMAIL_SECRET: must be set if KEYS_FILE is")


def test_a_worker_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{")
    told = refused(tmp_path, keys_file=path, email_secret="x" * 16)
    assert told.startswith("KEYS_FILE: ")
