"""Hypothesis strategies for what the registry takes."""

from hypothesis import strategies as st

from app.positions import Position
from app.records import Registration
from app.registration import Arrival

#: Any character that JSON text in UTF-8 can carry.
characters = st.characters(codec="utf-8")

user_ids = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=128
)
names = st.text(characters, min_size=1, max_size=256)
emails = st.from_regex(
    r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20})?@[a-z0-9]{1,20}\.[a-z]{2,8}", fullmatch=True
)
registrations = st.builds(Registration, id=user_ids, name=names, email=emails)


def arrivals(value: bytes | None, partition: int = 0, offset: int = 0, **more: object) -> Arrival:
    """Return a record as it may have come."""
    given = {"key": None, "timestamp_ms": 1_700_000_000_000} | more
    return Arrival(position=Position(partition, offset), value=value, **given)  # type: ignore[arg-type]
