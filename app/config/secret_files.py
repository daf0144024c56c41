"""Secrets from files, as orchestrators mount them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from app.domain.texts import shown


def read_secrets(given: Mapping[str, object], names: Sequence[str]) -> dict[str, str]:
    """Return the secrets that stand in files, by their settings' names; raise `ValueError`."""
    found = {}
    for name in names:
        path = given.get(f"{name}_file")
        if path is None:
            continue
        upper = name.upper()
        if given.get(name) is not None:
            raise ValueError(f"{upper}, {upper}_FILE: set one of them")
        try:
            found[name] = Path(str(path)).expanduser().read_text().strip()
        except (OSError, RuntimeError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it holds no text"
            raise ValueError(f"{upper}_FILE: {shown(path)} cannot be read: {why}") from None
    return found
