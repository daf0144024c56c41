"""The systemd unit and the Kubernetes manifests name settings, routes and times that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "deploy" / "systemd" / "user-registry-worker@.service").read_text()
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
    health = (ROOT / "app" / "web" / "health.py").read_text()
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
