"""Authors, pure: a header with the name of the access key that a record was written with.

Other producers may write to the topic, too, and name any key they like.
"""

import re
from functools import lru_cache
from typing import Final

from app.domain.records import Headers

#: The header holds the name of a key. `app.access.keys` says what a name may be.
BY_HEADER: Final = "by"
_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@lru_cache(maxsize=1_024)
def headers_by(name: str) -> list[tuple[str, bytes]]:
    """Return the headers for records that the holder of a key writes. Do not change this list."""
    return [(BY_HEADER, name.encode())]


def author_headers(headers: Headers) -> Headers:
    """Return the headers that say who wrote a record."""
    author = author_of(headers)
    return () if author is None else headers_by(author)


def author_of(headers: Headers) -> str | None:
    """Return the name of the key that a record was written with; None if there is none."""
    for name, value in headers:
        if name == BY_HEADER and _NAME.fullmatch(value or b""):
            return value.decode()
    return None
