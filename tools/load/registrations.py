"""The registrations to send: each number gives an id, a name and an address."""

import random
from collections.abc import Sequence

#: Digits of a number. So all requests with as many registrations have the same length.
DIGITS = 12


class Numbers:
    """The numbers of the next registrations. Each is new, or repeats an earlier one."""

    def __init__(self, duplicates: float, seed: int) -> None:
        self._next = 0
        self._duplicates = duplicates
        self._random = random.Random(seed)  # noqa: S311  it chooses what to repeat, no secret

    def take(self, count: int) -> Sequence[int]:
        """Return the next numbers."""
        if self._duplicates:
            return [self._one() for _ in range(count)]
        first = self._next
        self._next += count
        return range(first, self._next)

    def _one(self) -> int:
        draw = self._random.random
        if draw() < self._duplicates and self._next:
            return int(draw() * self._next)
        self._next += 1
        return self._next - 1


def template(prefix: str, name_bytes: int) -> bytes:
    """Return a registration as JSON with two places for the number.

    It depends only on the number: to repeat a number is to repeat the registration.
    """
    name = "Ada King".ljust(name_bytes, "x")[:name_bytes]
    number = f"%0{DIGITS}d"
    user_id = f"{prefix}-{number}"
    return f'{{"id":"{user_id}","name":"{name}","email":"{user_id}@example.com"}}'.encode()


def id_of(prefix: str, number: int) -> str:
    """Return the id of a registration."""
    return f"{prefix}-{number:0{DIGITS}d}"
