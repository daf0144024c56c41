"""Authors, pure: the header with the name of the key by which a record was written.

The topic is open to other producers, too: one that may write it may name whom it likes.
"""

import re
from functools import lru_cache
from typing import Final

from app.domain.records import Headers

#: Holds the name of a key, as it is: `app.access.keys` has what names are made of.
BY_HEADER: Final = "by"
_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@lru_cache(maxsize=1_024)
def headers_by(name: str) -> list[tuple[str, bytes]]:
    """Return the headers of what the holder of a key writes; nobody may change this list."""
    return [(BY_HEADER, name.encode())]


def author_headers(headers: Headers) -> Headers:
    """Return those of some headers that tell who wrote a record."""
    author = author_of(headers)
    return () if author is None else headers_by(author)


def author_of(headers: Headers) -> str | None:
    """Return the name of the key that a record was written with, None if it names none."""
    for name, value in headers:
        if name == BY_HEADER and _NAME.fullmatch(value or b""):
            return value.decode()
    return None
