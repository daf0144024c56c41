"""What was measured: medians and extremes of each engine's runs, as JSON files."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from app.system.files import write_whole

FOLDER = Path(__file__).parent / "results"


@dataclass(slots=True)
class Bar:
    """One engine's runs of one work; ``note`` says why there are none, or fewer."""

    engine: str
    label: str
    runs: list[Any] = field(default_factory=list)
    note: str = ""

    def as_json(self, main: str, beside: Sequence[str] = ()) -> dict[str, Any]:
        """Return the spread of the main figure, the medians of others, and the runs."""
        told: dict[str, Any] = {"engine": self.engine, "label": self.label, "note": self.note}
        if self.runs:
            told |= spread([getattr(run, main) for run in self.runs])
            told |= {name: self._median(name) for name in beside}
            told["finished"] = all(getattr(run, "finished", True) for run in self.runs)
        told["runs"] = [asdict(run) for run in self.runs]
        return told

    def _median(self, name: str) -> float:
        return float(statistics.median(getattr(run, name) for run in self.runs))


def spread(figures: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}


def machine() -> str:
    """Return what the machine is, by cores and memory only."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB; broker, engine and client share them"


def save(folder: Path, name: str, told: Mapping[str, Any]) -> None:
    """Write one work's results beside what they were measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    with_surroundings = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **told,
    }
    file = folder / f"{name}.json"
    write_whole(file, orjson.dumps(with_surroundings, option=orjson.OPT_INDENT_2) + b"\n")


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """Return one work's results; None if they were never measured."""
    file = folder / f"{name}.json"
    return orjson.loads(file.read_bytes()) if file.exists() else None
