"""JSON that is kept takes as much as it is long."""

import tracemalloc

import orjson
import pytest

from app.domain.compact import dumps

ROW = {"id": "ada", "attempt": "AQAAAAAAAAAAAAAAAAA0"}
COUNT = 1_000


@pytest.mark.parametrize("value", [ROW, [], "ä", {"names": ["x" * 100] * 50}])
def test_it_is_what_orjson_says(value: object) -> None:
    assert dumps(value) == orjson.dumps(value)


def test_it_takes_what_it_is_long() -> None:
    tracemalloc.start()
    try:
        kept = [dumps(ROW) for _ in range(COUNT)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An object's head and a place in the list beside it.
    assert taken / COUNT < len(kept[0]) + 64
