"""Chaos must see what it should: its model of lookups, and the faults that it plans."""

from collections import Counter

import pytest

from app.domain.positions import token
from tests.chaos.model import Model, Record, Shown
from tests.chaos.readers import Claim, Known
from tests.chaos.schedule import Kind, schedule, wanted

FIRST = {"id": "ada", "name": "Ada", "email": "Ada@example.com"}
RENAMED = {"type": "update", "id": "ada", "name": "King"}
MOVED = {"type": "update", "id": "ada", "email": "king@example.com"}


@pytest.fixture
def model() -> Model:
    """Return a user's life: registered at 1, renamed at 3, moved at 5, erased at 7."""
    life = [
        (1, FIRST, "registered"),
        (3, RENAMED, "updated"),
        (5, MOVED, "updated"),
        (7, None, "erased"),
    ]
    model = Model()
    for offset, command, outcome in life:
        model.take(Record(token(0, offset), "ada", command), outcome)
    return model


def shown(offset: int, name: str = "Ada", email: str = "Ada@example.com") -> Shown:
    """Return what a lookup shows of a settled user."""
    return Shown("registered", token(0, offset), name, email)


@pytest.mark.parametrize(
    ("since", "says", "holds"),
    [
        (-1, None, True),
        (0, Shown("pending", token(0, 1), "Ada", "Ada@example.com"), True),
        (1, Shown("pending", token(0, 1), "Ada", "Ada@example.com"), False),
        (1, shown(1), True),
        (2, shown(1), True),
        (1, shown(3, "King"), True),
        (3, shown(1), False),
        (5, shown(5, "King", "king@example.com"), True),
        (5, shown(5), False),
        (7, shown(5, "King", "king@example.com"), False),
        (7, None, True),
    ],
)
def test_an_answer_is_true_if_the_user_was_so_then_or_later(
    model: Model, since: int, says: Shown | None, holds: bool
) -> None:
    assert Claim("an answer", "ada", since, says).holds(model) is holds


def test_nobody_is_missed_before_the_user_is_erased() -> None:
    model = Model()
    model.take(Record(token(0, 1), "ada", FIRST), "registered")
    assert not Claim("an answer", "ada", 1, None).holds(model)
    assert Claim("an answer", "ada", 0, None).holds(model)


@pytest.mark.parametrize(
    ("since", "address", "holds"),
    [
        (1, "ada@example.com", True),
        (1, "king@example.com", True),
        (5, "king@example.com", True),
        (5, "ada@example.com", True),
    ],
)
def test_an_address_may_be_nobodys_once_the_user_has_another_or_is_gone(
    model: Model, since: int, address: str, holds: bool
) -> None:
    assert Claim("an answer", "ada", since, None, without=address).holds(model) is holds


def test_an_address_that_its_user_keeps_is_not_nobodys() -> None:
    model = Model()
    model.take(Record(token(0, 1), "ada", FIRST), "registered")
    assert not Claim("an answer", "ada", 1, None, without="ada@example.com").holds(model)
    assert Claim("an answer", "ada", 1, None, without="king@example.com").holds(model)


def test_a_loser_is_shown_until_its_address_is_settled() -> None:
    model = Model()
    model.take(Record(token(0, 1), "bob", FIRST | {"id": "bob"}), "email-taken")
    pending = Shown("pending", token(0, 1), "Ada", "Ada@example.com")
    assert Claim("an answer", "bob", -1, pending).holds(model)
    assert not Claim("an answer", "bob", 1, pending).holds(model)
    assert Claim("an answer", "bob", 1, None).holds(model)


def test_what_is_known_is_known_from_then_on() -> None:
    known = Known()
    known.learn("ada", 3)
    known.learn("ada", 1)
    assert known.at("ada", float("inf")) == 3
    assert known.at("ada", 0) == -1
    assert known.at("bob", float("inf")) == -1
    assert known.ids("a") == ["ada"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("workers", [2, 3])
def test_each_kind_of_fault_happens_as_often_as_wanted_and_once_in_a_rebalance(
    seed: int, workers: int
) -> None:
    counts = wanted(faults=3, suspensions=1, deletions=1)
    steps = schedule(seed, workers, counts, 4.0, rebalances=len(Kind))
    assert Counter(step.kind for step in steps) == counts
    assert Counter(step.kind for step in steps if step.rebalance) == dict.fromkeys(Kind, 1)
    none = schedule(seed, workers, counts, 4.0, rebalances=0)
    assert not any(step.rebalance for step in none)
