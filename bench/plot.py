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

Bars = Sequence[Mapping[str, Any]]


def main(folder: Path) -> None:
    """Draw what was measured."""
    if told := _load(folder / "apply.json"):
        panels = {workload["label"]: workload["bars"] for workload in told["workloads"].values()}
        _draw(folder / "apply.svg", "records applied a second", panels)
    if told := _load(folder / "recovery.json"):
        panels = {f"{told['users']:,} rows": told["bars"]}
        _draw(folder / "recovery.svg", "rows recovered a second", panels)
    if told := _load(folder / "acknowledge.json"):
        compared = [work for work in told["works"].values() if len(work["bars"]) > 1]
        panels = {work["label"]: work["bars"] for work in compared}
        _draw(folder / "acknowledge.svg", "registrations acknowledged a second", panels)


def _load(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _draw(file: Path, unit: str, panels: Mapping[str, Bars]) -> None:
    longest = max(map(len, panels.values()))
    figure, axes = plt.subplots(
        len(panels),
        figsize=(9, (0.42 * longest + 0.9) * len(panels)),
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, title, [bar for bar in bars if "median" in bar])
    axes[-1, 0].set_xlabel(unit)
    figure.savefig(file, metadata=METADATA)
    plt.close(figure)


def _panel(axis: Any, title: str, bars: Bars) -> None:
    ordered = sorted(bars, key=lambda bar: float(bar["median"]))
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
