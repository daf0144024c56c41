"""Says what is wrong with settings: one line for each mistake."""

import os

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.domain.errors import SettingsError
from app.domain.texts import shown

#: pydantic's errors in the words of this project.
_WORDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "too_short": "must have at least {min_length} characters",
    "bool_parsing": "must be 1 or 0",
    "literal_error": "must be {expected}",
}
#: What the pattern of a setting allows. All other patterns are the alphabet of topics.
_PATTERNS = {
    "web_url": "must be http://host:port",
    "cors_origins": "must be origins such as https://example.com separated by commas, or *",
}


def describe(error: ValidationError) -> str:
    """Return what is wrong with settings, a line each: ``PARTITIONS: must be … (got 0)``."""
    return "\n".join(map(_line, error.errors(include_url=False)))


def _line(mistake: ErrorDetails) -> str:
    if not mistake["loc"]:
        return mistake["msg"].removeprefix("Value error, ")
    name = str(mistake["loc"][0])
    given = "" if "secret" in name or "password" in name else f" (got {shown(mistake['input'])})"
    return f"{name.upper()}: {_in_words(name, mistake)}{given}"


def _in_words(name: str, mistake: ErrorDetails) -> str:
    if mistake["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(name, "must be letters, digits, '.', '_' and '-'")
    words = _WORDS.get(mistake["type"])
    # pydantic's own text is not a template: it may contain braces of the input.
    if words is None:
        return mistake["msg"].removeprefix("Value error, ")
    return words.format(**mistake.get("ctx", {}))


#: Settings whose promise is not kept any more.
_REMOVED = {
    "SPOOL_MIB": "there is no spool any more: writes are refused while the broker is away; see "
    "CHANGELOG.md, and remove the setting"
}


def refuse_removed() -> None:
    """Raise `SettingsError` for a setting that was removed."""
    for name, why in _REMOVED.items():
        if os.environ.get(name, "").strip() not in ("", "0"):
            raise SettingsError(f"{name}: {why}")
