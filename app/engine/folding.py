"""A fold: the records that one fetch returned for one partition, as one event of an agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faust
from faust.types import TP

from app.arrivals import Arrival

#: The most records in one fold, and so in one transaction.
MAX_FOLD_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class Fold:
    """What lies from ``start`` up to, without, ``next``; control records leave gaps."""

    tp: TP
    start: int
    next: int
    records: Sequence[Arrival]


class FoldSchema(faust.Schema[None, Fold]):
    """Lets a fold through as it is: the agent decodes its records together."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Return no key: each record has its own."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        """Return the fold."""
        return message.value
