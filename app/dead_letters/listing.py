"""Selects and counts dead letters; pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from app.dead_letters.letters import Letter
from app.domain.records import moment


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on letters: ``cause=invalid-json``."""

    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the condition in a text, or raise `ValueError` with what is wrong."""
        name, equals, value = text.partition("=")
        if not equals or name not in _ASKED:
            raise ValueError(f"{text!r} is not NAME=VALUE with a NAME of {', '.join(_ASKED)}")
        return cls(name, value)

    def holds(self, letter: Letter) -> bool:
        """Return whether a letter meets the condition."""
        return _ASKED[self.name](letter) == self.value


_ASKED: Mapping[str, Callable[[Letter], str | None]] = {
    "by": lambda letter: letter.by,
    "cause": lambda letter: letter.cause,
    "id": lambda letter: letter.id,
    "partition": lambda letter: str(letter.position.partition),
    "topic": lambda letter: letter.topic,
}


def chosen(
    letters: Iterable[Letter], where: Sequence[Where] = (), *, marked: bool = False
) -> list[Letter]:
    """Return the letters that meet all conditions, newest first: open ones, or ``marked`` ones."""
    found = [
        letter
        for letter in letters
        if letter.is_open is not marked and all(condition.holds(letter) for condition in where)
    ]
    return sorted(found, key=lambda letter: (letter.timestamp, letter.position), reverse=True)


@dataclass(frozen=True, slots=True)
class Cause:
    """The letters of one cause: how many, and the oldest and the newest time in ms since 1970."""

    cause: str
    count: int
    oldest: int
    newest: int


def by_cause(letters: Iterable[Letter]) -> list[Cause]:
    """Return the causes of letters, or the marks of marked letters, most frequent first."""
    times: defaultdict[str, list[int]] = defaultdict(list)
    for letter in letters:
        times[letter.mark or letter.cause].append(letter.timestamp)
    causes = [Cause(cause, len(at), min(at), max(at)) for cause, at in times.items()]
    return sorted(causes, key=lambda cause: (-cause.count, cause.cause))


def members(letter: Letter, *, with_id: bool = False) -> dict[str, Any]:
    """Return a letter as JSON members. Its id may be personal data."""
    told: dict[str, Any] = {
        "position": letter.position.token(),
        "topic": letter.topic,
        "cause": letter.cause,
        "detail": letter.detail,
        "time": moment(letter.timestamp),
        "bytes": letter.size,
    }
    if letter.by is not None:
        told["by"] = letter.by
    if letter.mark is not None:
        told = {name: told[name] for name in ("position", "topic", "time")}
        told["mark"] = letter.mark
        if letter.replayed_as is not None:
            told["replayed_as"] = letter.replayed_as
    if with_id:
        told["id"] = letter.id
    return told


def cause_members(cause: Cause) -> dict[str, Any]:
    """Return a cause as JSON members."""
    return {
        "cause": cause.cause,
        "count": cause.count,
        "oldest": moment(cause.oldest),
        "newest": moment(cause.newest),
    }
