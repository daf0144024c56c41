"""README, Procfile, compose.yaml and CI say what `make run` and `make test` do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config.settings import Settings
from local.kafka import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


@pytest.fixture
def services() -> dict[str, Any]:
    """Return the services of compose.yaml, its variables at their defaults."""
    text = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", (ROOT / "compose.yaml").read_text())
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def test_the_readme_begins_with_the_two_commands() -> None:
    beginning = "\n".join(README.splitlines()[:15])
    assert "    make run " in beginning
    assert "    make test " in beginning


def test_ci_runs_the_readmes_test_command_and_the_checks() -> None:
    commands = [line for line in CI.splitlines() if line.startswith("make ")]
    assert commands == ["make lint types imports", "make test", "make docs"]
    assert "set -euo pipefail" in CI


def test_pre_commit_runs_the_projects_own_tools_and_fetches_nothing() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {each["repo"] for each in repositories} == {"local"}
    for hook in (hook for each in repositories for hook in each["hooks"]):
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_the_image_and_the_package_have_the_licence() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
    assert "LICENSE" in (ROOT / "Dockerfile").read_text()
    assert "!LICENSE" in (ROOT / ".dockerignore").read_text().splitlines()


def test_compose_runs_the_same_kafka(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_compose_gives_the_worker_settings_that_exist_and_fit(services: dict[str, Any]) -> None:
    given = {name.lower(): value for name, value in services["worker"]["environment"].items()}
    assert set(given) <= set(Settings.model_fields)
    assert "openssl rand" in given["email_secret"]
    settings = Settings.model_validate(given, strict=False)
    assert settings.partitions == Settings.model_fields["partitions"].default
    assert (
        settings.kafka_brokers.removeprefix("kafka")
        in services["kafka"]["environment"]["KAFKA_LISTENERS"]
    )


def test_compose_publishes_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:6066:6066", "127.0.0.1:9092:9092"]


def test_every_service_of_compose_or_its_image_has_a_health_check(
    services: dict[str, Any],
) -> None:
    assert "healthcheck" in services["kafka"]
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_the_image_is_locked_and_not_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r locks/worker.txt" in dockerfile
    assert "\nUSER 10001\n" in dockerfile


def test_the_procfile_names_the_processes_of_make_run() -> None:
    lines = (ROOT / "Procfile").read_text().splitlines()
    commands = dict(line.split(": ", 1) for line in lines)
    assert set(commands) == {"broker", "worker"}
    assert "-m local.broker run " in commands["broker"]
    assert commands["worker"].endswith("-m app worker")


def test_locks_hold_hashes_and_no_addresses() -> None:
    for lock in (ROOT / "locks").iterdir():
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text
