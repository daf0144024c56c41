"""Hypothesis strategies for what the registry takes."""

from dataclasses import dataclass

from hypothesis import strategies as st

from app.domain.records import Erasure, Headers, Registration, Update

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
versions = st.integers(1, 2**53 - 1)
updates = st.one_of(
    st.builds(Update, type=st.just("update"), id=user_ids, name=names),
    st.builds(Update, type=st.just("update"), id=user_ids, email=emails),
    st.builds(Update, type=st.just("update"), id=user_ids, name=names, email=emails),
    st.builds(Update, type=st.just("update"), id=user_ids, name=names, ifVersion=versions),
)
#: With a condition: another erasure is a tombstone.
erasures = st.builds(Erasure, type=st.just("erase"), id=user_ids, ifVersion=versions)


@dataclass(frozen=True)
class Record:
    """A record as it may have come."""

    value: bytes | None
    offset: int = 0
    key: bytes | None = None
    timestamp: int = 1_700_000_000_000
    headers: Headers = ()
