"""Checks texts in settings: forbidden characters, and how much of a text is shown."""

import re

#: Control characters, and bytes that are not UTF-8.
STRAY = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHOWN_CHARACTERS = 80


def shown(given: object) -> str:
    """Return a value as text for one line, cut if it is long."""
    text = str(given)
    more = "…" if len(text) > _SHOWN_CHARACTERS else ""
    return STRAY.sub(lambda found: ascii(found[0])[1:-1], text[:_SHOWN_CHARACTERS]) + more
