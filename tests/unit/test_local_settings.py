"""The settings of `make run`: one line about the first that is wrong."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from local.cli import local
from local.errors import SettingsError
from local.settings import LocalSettings, load

NAMES = [name.upper() for name in LocalSettings.model_fields]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_settings_there_is_one_worker_on_the_documented_ports() -> None:
    settings = load()
    assert (settings.web_port, list(settings.internal_ports)) == (6066, [6067])
    assert settings.broker_port == 9092
    assert settings.brings_broker


def test_an_empty_setting_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", "")
    monkeypatch.setenv("WORKERS", "")
    assert (load().brings_broker, load().workers) == (True, 1)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("WORKERS", "0", "WORKERS: must be at least 1 (got 0)"),
        ("WORKERS", "two", "WORKERS: must be a whole number (got two)"),
        ("WEB_PORT", "65536", "WEB_PORT: must be at most 65535 (got 65536)"),
        ("PARTITIONS", "0", "PARTITIONS: must be at least 1 (got 0)"),
        ("BROKER_PORT", "6066", "BROKER_PORT: 6066 is a port of the workers"),
        ("BROKER_PORT", "6067", "BROKER_PORT: 6067 is a port of the workers"),
        ("INTERNAL_PORT", "7", "INTERNAL_PORT: unset it, as each worker gets one after WEB_PORT"),
        ("WEB_PORT", "65535", "WEB_PORT: must be at most 65534 for 1 workers"),
        (
            "KAFKA_BROKERS",
            "there",
            "KAFKA_BROKERS: must be host:port, several separated by commas (got there)",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load()
    assert str(raised.value) == line


def test_the_ports_of_all_workers_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_PORT", "65533")
    monkeypatch.setenv("WORKERS", "2")
    assert list(load().internal_ports) == [65534, 65535]
    monkeypatch.setenv("WORKERS", "3")
    with pytest.raises(SettingsError, match=r"^WEB_PORT: must be at most 65532 for 3 workers$"):
        load()


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (6, 6), (96, 64)])
def test_auto_is_a_worker_for_each_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    monkeypatch.setenv("WORKERS", "Auto")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert load().workers == workers
    # macOS has no such thing.
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert load().workers == workers


@pytest.mark.parametrize("name", ["WORKER_ID", "WEB_URL"])
def test_what_names_one_worker_is_refused_for_two(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://here" if name == "WEB_URL" else "here")
    assert load().workers == 1
    monkeypatch.setenv("WORKERS", "2")
    with pytest.raises(SettingsError, match=r"^WORKER_ID, WEB_URL: unset them"):
        load()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("localhost", "http://localhost:1"),
    ],
)
def test_a_worker_is_reached_from_this_machine(host: str, url: str) -> None:
    settings = LocalSettings(web_host=host, web_port=1, allow_open_bind=True)
    assert settings.public_url == url


def test_brokers_take_the_ports_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKERS", "3")
    monkeypatch.setenv("BROKER_PORT", "9000")
    assert list(load().broker_ports) == [9000, 9001, 9002]
    monkeypatch.setenv("WEB_PORT", "9002")
    with pytest.raises(SettingsError, match=r"^BROKER_PORT: 9002 is a port of the workers"):
        load()
    monkeypatch.setenv("BROKER_PORT", "65534")
    with pytest.raises(SettingsError, match=r"^BROKER_PORT: 3 brokers need ports up to 65535"):
        load()


@pytest.mark.parametrize(("command", "status"), [("stop", 0), ("status", 1)])
def test_what_runs_is_stopped_and_told_whatever_other_settings_say(
    tmp_path: Path, command: str, status: int
) -> None:
    given = {"DATA_DIR": str(tmp_path), "PARTITIONS": "many", "WEB_HOST": "0.0.0.0"}
    result = CliRunner().invoke(local, [command], env=given)
    assert (result.exit_code, result.stderr) == (status, "")
    assert "not running" in result.stdout.lower()


def test_a_setting_that_is_none_any_more_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPOOL_MIB", "64")
    with pytest.raises(SettingsError, match=r"^SPOOL_MIB: there is no spool any more"):
        load()
