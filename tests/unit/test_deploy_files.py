"""Deployment files name settings, routes and times that exist, and pass others' validators."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from app import health
from app.config.settings import Settings

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "deploy" / "systemd" / "user-registry-worker@.service").read_text()
#: The version whose schemas the manifests must fit.
KUBERNETES = "1.34"

MANIFESTS = (ROOT / "deploy" / "kubernetes" / "registry.yaml").read_text()


def manifest(kind: str) -> dict[str, Any]:
    """Return the first manifest of a kind."""
    return next(one for one in yaml.safe_load_all(MANIFESTS) if one["kind"] == kind)


@pytest.fixture
def pod() -> dict[str, Any]:
    """Return what a worker's pod is made of."""
    found: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return found


def test_kubernetes_gives_settings_that_exist_and_fit(pod: dict[str, Any]) -> None:
    own = {one["name"]: one.get("value", "registry-0") for one in pod["containers"][0]["env"]}
    own["EMAIL_SECRET"] = "x" * 16
    given = {name.lower(): value for name, value in (manifest("ConfigMap")["data"] | own).items()}
    assert set(given) <= set(Settings.model_fields)
    settings = Settings.model_validate(given, strict=False)
    assert settings.stop_grace_seconds + 30 <= pod["terminationGracePeriodSeconds"]


def test_probes_ask_routes_that_exist(pod: dict[str, Any]) -> None:
    health = (ROOT / "app" / "web" / "api" / "health.py").read_text()
    paths = re.findall(r"path: (/health/\w+)", MANIFESTS)
    assert len(paths) == 3
    assert [path for path in paths if f'"{path}"' not in health] == []


def test_pods_are_restricted(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    container = pod["containers"][0]["securityContext"]
    assert container["readOnlyRootFilesystem"]
    assert not container["allowPrivilegeEscalation"]
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_the_unit_gives_settings_that_exist_and_time_to_stop() -> None:
    line = next(line for line in UNIT.splitlines() if line.startswith("Environment="))
    names = {word.split("=")[0].lower() for word in line.removeprefix("Environment=").split()}
    assert names - {"pythondontwritebytecode"} <= set(Settings.model_fields)
    # The address that all workers share comes from a socket unit, and lets nobody in by mistake.
    socket = (ROOT / "deploy" / "systemd" / "user-registry.socket").read_text()
    assert "\nSockets=user-registry.socket\n" in UNIT
    assert "\nRequires=user-registry.socket\n" in UNIT
    assert f"\nListenStream=127.0.0.1:{Settings().web_port}\n" in socket
    assert "\nService=user-registry-worker@" in socket
    assert "internal_port" in names
    assert "\nRestartPreventExitStatus=2\n" in UNIT
    assert "\nProtectSystem=strict\n" in UNIT


def test_each_worker_of_the_cluster_has_settings_that_fit_and_a_name_of_its_own() -> None:
    text = re.sub(r"\$\{PARTITIONS:-(\d+)\}", r"\1", (ROOT / "compose.cluster.yaml").read_text())
    services = yaml.safe_load(text)["services"]
    workers = {name: one for name, one in services.items() if name.startswith("worker-")}
    assert len(workers) == len(services) - 3 == 3
    for name, worker in workers.items():
        given = {key.lower(): value for key, value in worker["environment"].items()}
        assert set(given) <= set(Settings.model_fields)
        settings = Settings.model_validate(given, strict=False)
        assert settings.url == f"http://{name}:6066"
        assert settings.stop_grace_seconds + 30 <= int(worker["stop_grace_period"].rstrip("s"))
        assert worker["read_only"]
        assert worker["volumes"] == [f"{name}-data:/data"]
        assert [port for port in worker["ports"] if not port.startswith("127.0.0.1:")] == []


# -- by the validators of others


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cluster.yaml"])
def test_compose_files_are_as_the_specification_wants_them(name: str) -> None:
    folder = ROOT / "tests" / "fixtures" / "compose-spec"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, file = line.split()
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest
    schema = jsonschema_rs.validator_for(json.loads((folder / "compose-spec.json").read_text()))
    assert not schema.is_valid({"services": {"one": {"imagine": "nothing"}}})
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text())
    assert [error.message for error in schema.iter_errors(yaml.safe_load(text))] == []


def test_manifests_are_as_kubernetes_wants_them() -> None:
    for manifest in yaml.safe_load_all(MANIFESTS):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_image_checks_its_health_as_its_settings_say() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'CMD ["python", "-m", "app.health"]' in dockerfile
    asked, settings = health.connection({}), Settings()
    assert (asked.host, asked.port) == (settings.web_host, settings.web_port)
    everywhere = health.connection({"WEB_HOST": "0.0.0.0", "WEB_PORT": "7"})
    assert (everywhere.host, everywhere.port) == ("127.0.0.1", 7)
    own = health.connection({"WEB_HOST": "10.0.0.1", "WEB_PORT": "7", "INTERNAL_PORT": "8"})
    assert (own.host, own.port) == ("127.0.0.1", 8)
