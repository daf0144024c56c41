"""Secrets from files, as orchestrators mount them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from app.domain.texts import shown


def revealed(secret: SecretStr | None) -> str | None:
    """Return a secret as text; None if it is not set."""
    return None if secret is None else secret.get_secret_value()


def read_text(setting: str, path: object) -> str:
    """Return the text of the file that a setting names; raise `ValueError`."""
    try:
        return Path(str(path)).expanduser().read_text()
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it holds no text"
        raise ValueError(f"{setting.upper()}: {shown(path)} cannot be read: {why}") from None


def read_secrets(given: Mapping[str, object], names: Sequence[str]) -> dict[str, str]:
    """Return the secrets that files hold, by the names of their settings; raise `ValueError`."""
    found = {}
    for name in names:
        path = given.get(f"{name}_file")
        if path is None:
            continue
        if given.get(name) is not None:
            raise ValueError(f"{name.upper()}, {name.upper()}_FILE: set one of them")
        found[name] = read_text(f"{name}_file", path).strip()
    return found
