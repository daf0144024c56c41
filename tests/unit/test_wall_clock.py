"""The wall clock may jump: only what others read goes by it, see docs/decisions/record-times.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Who asks what time it is, and what for.
MAY_ASK = {
    "app/access/keys.py": "when a key ends",
    "app/access/proofs.py": "proofs of the minute",
    "app/system/clocks.py": "whether it was set, which ends a lease",
    "app/ops/doctor/access.py": "when keys and certificates end",
    "app/ops/doctor/worker.py": "comparing clocks",
    "tools/load/driving.py": "the date of a report",
    "app/kafka/client_errors.py": "whether a certificate has ended",
    "app/web/fast_lane.py": "the header Date",
    "app/web/pages/pages.py": "which day is the last one of a plot",
    "tables/store.py": "the age of files",
}
WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}


def asks(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield which clocks of the standard library a module asks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (("time", name.name) for name in node.names)


def test_only_what_others_read_goes_by_the_wall_clock() -> None:
    sources = (
        path for folder in ("app", "tables", "tools") for path in (ROOT / folder).rglob("*.py")
    )
    asking = {
        str(path.relative_to(ROOT))
        for path in sources
        if WALL & set(asks(ast.parse(path.read_text())))
    }
    assert asking == set(MAY_ASK)
