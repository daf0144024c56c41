"""Hands records to aiokafka's compiled code without a Python call for each.

Uses private names of aiokafka, whose version is pinned. tests/unit/test_fast_records.py fails when
one of them changes.
"""

from collections.abc import Iterator
from typing import Any

#: A record to be written: its time in ms since 1970 (None: now), key, value and headers.
ToWrite = tuple[int | None, bytes | None, bytes | None, list[tuple[str, bytes]]]

#: aiokafka's compiled code needs a list. Do not change it.
NO_HEADERS: list[tuple[str, bytes]] = []


def fill(batch: Any, first: ToWrite, others: Iterator[ToWrite]) -> ToWrite | None:
    """Fill an empty batch of a producer; return the first record that did not fit, if any.

    A batch takes one record of any size.
    """
    append = batch._builder.append
    record: ToWrite | None = first
    count = 0
    while record is not None and append(count, *record) is not None:
        count += 1
        record = next(others, None)
    batch._relative_offset = count
    batch.close()
    return record
