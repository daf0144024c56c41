"""Bars with the median of each engine and whiskers from its lowest to its highest run.

Runs in the peers' environment, which has matplotlib: ``python -m bench.plot RESULTS``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

OURS_COLOUR, PEER_COLOUR = "#1f6f8b", "#b8c4cc"
#: The same input gives the same file: no date, no random names.
METADATA = {"Date": None}
mpl.rcParams["svg.hashsalt"] = "bench"

#: Of each rate: what is drawn, and over which panel.
LIVE_PANELS = {
    "ack_p99_ms": "acknowledged, p99",
    "settled_p50_ms": "settled, p50",
    "settled_p99_ms": "settled, p99",
}

Bars = Sequence[Mapping[str, Any]]


def main(folder: Path) -> None:
    """Draw what was measured."""
    if told := _load(folder / "apply.json"):
        panels = {workload["label"]: workload["bars"] for workload in told["workloads"].values()}
        _draw(folder / "apply.svg", "records applied a second", panels)
    if told := _load(folder / "live.json"):
        panels = {
            title: [_bar(rate, name, f"{rate['per_second']:,} a second") for rate in told["rates"]]
            for name, title in LIVE_PANELS.items()
        }
        _draw(folder / "live.svg", "milliseconds", panels, by_median=False)
    if told := _load(folder / "outcomes.json"):
        panels = {
            f"{rate['per_second']:,} registrations a second, {word}": [
                _bar(bar, name, bar["label"]) for bar in rate["bars"]
            ]
            for rate in told["rates"]
            for name, word in (("p50_ms", "p50"), ("p99_ms", "p99"))
        }
        _draw(folder / "outcomes.svg", "milliseconds from produced to outcome", panels)
    if told := _load(folder / "recovery.json"):
        panels = {f"{told['users']:,} rows": told["bars"]}
        _draw(folder / "recovery.svg", "rows recovered a second", panels)
    if told := _load(folder / "acknowledge.json"):
        compared = [work for work in told["works"].values() if len(work["bars"]) > 1]
        panels = {work["label"]: work["bars"] for work in compared}
        _draw(folder / "acknowledge.svg", "registrations acknowledged a second", panels)


def _bar(told: Mapping[str, Any], name: str, label: str) -> Mapping[str, Any]:
    """Return one figure of several as a bar of its own."""
    return {"engine": told.get("engine", "ours"), "label": label, **told.get(name, {})}


def _load(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _draw(file: Path, unit: str, panels: Mapping[str, Bars], *, by_median: bool = True) -> None:
    longest = max(map(len, panels.values()))
    figure, axes = plt.subplots(
        len(panels),
        figsize=(9, (0.42 * longest + 0.9) * len(panels)),
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        measured = [bar for bar in bars if "median" in bar]
        if by_median:
            measured.sort(key=lambda bar: float(bar["median"]))
        _panel(axis, title, measured)
    axes[-1, 0].set_xlabel(unit)
    figure.savefig(file, metadata=METADATA)
    plt.close(figure)


def _panel(axis: Any, title: str, ordered: Bars) -> None:
    medians = [bar["median"] for bar in ordered]
    whiskers = [
        [bar["median"] - bar["min"] for bar in ordered],
        [bar["max"] - bar["median"] for bar in ordered],
    ]
    colours = [OURS_COLOUR if bar["engine"] == "ours" else PEER_COLOUR for bar in ordered]
    labels = [bar["label"] for bar in ordered]
    axis.barh(labels, medians, xerr=whiskers, color=colours, capsize=3, ecolor="#444444")
    for place, bar in enumerate(ordered):
        axis.annotate(
            f" {bar['median']:,.0f}",
            (bar["max"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_title(title, loc="left")
    axis.margins(x=0.14)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
