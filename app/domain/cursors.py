"""Cursors: where the next page of a list begins, as one opaque URL-safe token."""

import base64
import binascii

from app.domain.errors import InvalidCursorError


def encode(place: bytes) -> str:
    """Return the cursor of a place in a list."""
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def decode(cursor: str) -> bytes:
    """Return the place that a cursor names, or raise `InvalidCursorError`."""
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeError):
        raise invalid() from None


def invalid() -> InvalidCursorError:
    """Return the error for a cursor that no list has returned."""
    return InvalidCursorError("not a cursor that a list returned")
