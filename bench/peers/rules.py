"""What a record does to the row of its id: one set of rules for all peers that run Python."""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum, auto
from functools import lru_cache
from typing import Annotated, cast

import orjson
from pydantic import ConfigDict, StringConstraints, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic cannot use typing's before Python 3.12

from app.domain.addresses import EMAIL_PATTERN

_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]*$"


@with_config(ConfigDict(strict=True))
class Registration(TypedDict):
    """A registration; a dictionary costs less than a model."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_NO_CONTROLS)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_CONTROLS)]
    email: Annotated[str, StringConstraints(max_length=254, pattern=EMAIL_PATTERN)]


class Unchanged(Enum):
    """Why a record leaves its row as it is."""

    REPLAYED = auto()
    REJECTED = auto()


#: Parses and validates a record's value; raises pydantic's ``ValidationError``.
read = cast("Callable[[bytes], Registration]", TypeAdapter(Registration).validator.validate_json)


def decide(
    row: bytes | None, registration: Registration, timestamp_ms: int, partition: int, offset: int
) -> bytes | Unchanged:
    """Return the new row of an id that has none, or why the one that it has stays."""
    if row is None:
        return new_row(registration, timestamp_ms, f"{partition:04x}{offset:016x}")
    stored = orjson.loads(row)
    same = all(stored[name] == registration[name] for name in ("name", "email"))
    return Unchanged.REPLAYED if same else Unchanged.REJECTED


def new_row(registration: Registration, timestamp_ms: int, position: str) -> bytes:
    """Return the row of a first registration, as it stands in the store and in the changelog."""
    at = _moment(timestamp_ms)
    row = {
        **registration,
        "status": "registered",
        "registered_at": at,
        "updated_at": at,
        "version": 1,
        "position": position,
    }
    return orjson.dumps(row)


@lru_cache(1024)
def _moment(timestamp_ms: int) -> str:
    # Records that follow each other often have the same timestamp.
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat()
