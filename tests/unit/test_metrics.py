"""Metrics: named as Prometheus wants it, described, and asked for as they are."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import orjson
import promql_parser
import pytest
import yaml
from prometheus_client.core import Metric

from app.telemetry.metrics import REGISTRY
from app.worker.gauges import WorkerGauges

ROOT = Path(__file__).parents[2]
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = orjson.loads((ROOT / "deploy/grafana/dashboard.json").read_bytes())

#: What a metric's samples end in, by its type; a counter's name ends in _total itself.
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}
#: Prometheus wants seconds and bytes (https://prometheus.io/docs/practices/naming/#base-units).
OTHER_UNITS = re.compile("_(ms|us|ns|milliseconds|minutes|hours|days|kib|mib|kilobytes|percent)$")


def metrics() -> list[Metric]:
    """Return all metrics of a worker."""
    gauges = WorkerGauges(cast(Any, None), cast(Any, None), cast(Any, None)).describe()
    return [*REGISTRY.collect(), *gauges]


OURS = [metric for metric in metrics() if metric.name.startswith("registry_")]


def samples() -> set[str]:
    """Return the names of all series."""
    return {m.name + suffix for m in metrics() for suffix in SUFFIXES[m.type]}


def expressions() -> Iterator[str]:
    """Yield what dashboard and alerts ask for."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for alert in ALERTS:
        yield alert["expr"]


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_names_and_texts_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch("registry(_[a-z]+)+", metric.name)
    assert not OTHER_UNITS.search(metric.name)
    assert metric.type in SUFFIXES
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    assert metric.documentation.endswith(".")
    labels = {label for sample in metric.samples for label in sample.labels}
    if metric.type == "histogram":
        labels -= {"le"}
    assert not labels & {"le", "quantile", "job", "instance"}


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_every_metric_is_in_the_documentation(metric: Metric) -> None:
    documented = (ROOT / "docs/reference/metrics.md").read_text()
    assert f"`{metric.name}{SUFFIXES[metric.type][0].removesuffix('_bucket')}" in documented


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_dashboard_and_alerts_ask_for_what_there_is(expression: str) -> None:
    asked = set(re.findall(r"\b(?:registry|process|python)_[a-z_]+", expression))
    assert promql_parser.parse(expression.replace("$__rate_interval", "1m"))
    assert asked <= samples()
    assert asked or "(up{" in expression or expression.startswith("up{")


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    asked = " ".join(expressions())
    assert [m.name for m in OURS if m.name not in asked] == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_row_that_says_what_to_do(alert: Mapping[str, Any]) -> None:
    page, _, section = alert["annotations"]["runbook"].partition("#")
    text = (ROOT / page).read_text().lower().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert f"| `{alert['alert']}` |".lower() in text
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["labels"]["severity"] in {"page", "ticket"}
