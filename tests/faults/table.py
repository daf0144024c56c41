"""What happened in each cell: kept as JSON, shown in docs/faults.md."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import orjson

from tests.faults.steps import STEPS, Kind, Part, Step

RESULTS = Path("bench/results/faults.json")
PAGE = Path("docs/faults.md")
#: Behind this line the page is generated.
MARK = "<!-- made by `python -m tests.faults` -->\n"

Happened = dict[str, dict[str, str]]


def read() -> Happened:
    """Return what happened, by step and kind."""
    found: Happened = orjson.loads(RESULTS.read_bytes())
    return found


def note(step: Step, kind: Kind, what: str) -> None:
    """Write down what happened in a cell."""
    with RESULTS.open("r+b") as results:
        fcntl.flock(results, fcntl.LOCK_EX)  # parts run at the same time
        found: Happened = orjson.loads(results.read())
        found.setdefault(step.name, {})[kind.value] = what
        results.seek(0)
        results.truncate()
        results.write(_encode(found))


def _encode(found: Happened) -> bytes:
    # In the order of the table, and without steps that are gone.
    kept: Happened = {
        name: {k.value: found[name][k] for k in each.kinds if k in found[name]}
        for name, each in STEPS.items()
        if name in found
    }
    return orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n"


def render(happened: Happened) -> str:
    """Return the tables, one for each part."""
    return "\n".join(line for part in Part for line in _lines(part, happened))


def _lines(part: Part, happened: Happened) -> Iterator[str]:
    yield f"## {part}\n"
    yield f"| step | {' | '.join(Kind)} |"
    yield f"| --- {'| --- ' * len(Kind)}|"
    for step in STEPS.values():
        if step.part is part:
            cells = (_cell(step, kind, happened) for kind in Kind)
            yield f"| {step.name} | {' | '.join(cells)} |"
    yield ""


def _cell(step: Step, kind: Kind, happened: Happened) -> str:
    if (why := step.why_not(kind)) is not None:
        return f"({why})"
    return happened.get(step.name, {}).get(kind, "not tried")


def write() -> None:
    """Write the tables into the page."""
    above, mark, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(above + mark + "\n" + render(read()))
