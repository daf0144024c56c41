"""The decisions: pure, complete, and the same at every replay."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import decisions
from app.domain.addresses import EmailKeys
from app.domain.decisions import MAX_QUEUE, Claiming, Decisions, Rows, attempt_of, is_open
from app.domain.email_claims import Verdict
from app.domain.outcomes import Outcome
from app.domain.parsing import Sorted, sort
from app.domain.positions import token
from app.domain.records import (
    Command,
    Erasure,
    Queued,
    Registration,
    Update,
    UserRow,
    decode_row,
    encode,
    encode_row,
    moment,
)
from tests.support.strategies import Record

PARTITION = 3
EMAIL_KEY = EmailKeys(b"a secret of tests").key

ADA = Registration(id="ada", name="Ada", email="ada@example.com")
NEW_NAME = Update(type="update", id="ada", name="Ada L.")
NEW_EMAIL = Update(type="update", id="ada", email="love@example.com")
#: Another spelling of the address that she has.
SAME_EMAIL = Update(type="update", id="ada", email=" ADA@Example.com")
ERASURE = None


def at(offset: int) -> int:
    """Return the time of the record at an offset."""
    return 1_700_000_000_000 + offset * 1000


def attempt(offset: int) -> str:
    """Return the attempt of the record at an offset."""
    return token(PARTITION, offset)


def claim(offset: int, email: str = ADA["email"]) -> Claiming:
    """Return the claim of the record at an offset."""
    return Claiming("claim", EMAIL_KEY(email), "ada", attempt(offset))


def release(offset: int, email: str = ADA["email"]) -> Claiming:
    """Return the release of what the record at an offset had claimed."""
    return Claiming("release", EMAIL_KEY(email), "ada", attempt(offset))


class Story:
    """What happens to one id, record by record; its row is stored between two of them."""

    def __init__(self) -> None:
        self._stored: bytes | None = None
        self._next = 0
        self._decisions = Decisions(PARTITION, EMAIL_KEY)
        #: Of every record, the last that was said of it.
        self.outcomes: dict[int, Outcome] = {}
        #: What the last step sent.
        self.sent: list[Claiming] = []

    @property
    def row(self) -> UserRow | None:
        """The row as it is stored."""
        return None if self._stored is None else decode_row(self._stored)

    @property
    def there(self) -> UserRow:
        """The row, which must be there."""
        assert self.row is not None
        return self.row

    def asks(self, *commands: Command) -> None:
        """Let records come, one a step."""
        for command in commands:
            asked = Queued(self._next, at(self._next), command)
            self._next += 1
            self._keep(self._decisions.ask(self.row, b"ada", asked))

    def hears(self, word: Literal["granted", "taken"], offset: int, email: str = "") -> None:
        """Let the verdict on a record come."""
        email_key = EMAIL_KEY(email or ADA["email"]).decode()
        verdict = Verdict(email_key=email_key, attempt=attempt(offset), verdict=word, at="")
        self._keep(self._decisions.settle(self.row, b"ada", verdict))

    def _keep(self, row: UserRow | None) -> None:
        self._stored = None if row is None else encode_row(row)
        self.outcomes.update((offset, outcome) for offset, _, outcome in self._decisions.outcomes)
        assert {user_id for _, user_id, _ in self._decisions.outcomes} <= {"ada"}
        self.sent = self._decisions.claims
        self._decisions = Decisions(PARTITION, EMAIL_KEY)


@pytest.fixture
def story() -> Story:
    """Return the story of an id that nobody has."""
    return Story()


@pytest.fixture
def registered() -> Story:
    """Return the story of a user who was registered by the record at offset 0."""
    story = Story()
    story.asks(ADA)
    story.hears("granted", 0)
    assert story.outcomes == {0: Outcome.REGISTERED}
    return story


# -- a registration


def test_a_free_id_waits_for_its_address(story: Story) -> None:
    story.asks(ADA)
    assert story.row == {
        **ADA,
        "status": "pending",
        "registered_at": moment(at(0)),
        "updated_at": moment(at(0)),
        "version": 1,
        "position": attempt(0),
    }
    assert story.sent == [claim(0)]
    assert story.outcomes == {0: Outcome.PENDING}


def test_with_its_address_granted_it_is_registered_at_the_records_time_and_position(
    story: Story,
) -> None:
    story.asks(ADA)
    pending = story.there
    story.hears("granted", 0)
    assert story.row == {**pending, "status": "registered"}
    assert story.sent == []
    assert story.outcomes == {0: Outcome.REGISTERED}


def test_with_its_address_taken_it_is_rejected_and_leaves_no_row(story: Story) -> None:
    story.asks(ADA)
    story.hears("taken", 0)
    assert story.row is None
    assert story.sent == []
    assert story.outcomes == {0: Outcome.EMAIL_TAKEN}


def test_after_a_rejection_the_id_may_register_anew(story: Story) -> None:
    story.asks(ADA)
    story.hears("taken", 0)
    story.asks({**ADA, "name": "Eve"})
    assert story.sent == [claim(1)]
    story.hears("granted", 1)
    assert (story.there["name"], story.there["position"]) == ("Eve", attempt(1))
    assert story.outcomes == {0: Outcome.EMAIL_TAKEN, 1: Outcome.REGISTERED}


def test_the_same_registration_again_is_replayed(registered: Story) -> None:
    before = registered.row
    registered.asks(ADA, {**ADA, "type": "registration"})
    assert registered.row == before
    assert registered.sent == []
    assert registered.outcomes[1] == registered.outcomes[2] == Outcome.REPLAYED


@pytest.mark.parametrize("change", [{"name": "Eve"}, {"email": "eve@example.com"}])
def test_other_data_under_a_taken_id_is_rejected(registered: Story, change: Any) -> None:
    before = registered.row
    registered.asks({**ADA, **change})
    assert registered.row == before
    assert registered.sent == []
    assert registered.outcomes[1] is Outcome.ID_TAKEN


def test_another_spelling_of_the_address_is_other_data(registered: Story) -> None:
    registered.asks({**ADA, "email": "ADA@example.com"})
    assert registered.outcomes[1] is Outcome.ID_TAKEN


# -- a replay after updates


@pytest.mark.parametrize("update", [NEW_NAME, SAME_EMAIL])
def test_after_an_update_the_first_registration_is_replayed_still(
    registered: Story, update: Update
) -> None:
    registered.asks(update, update)
    before = registered.row
    registered.asks(ADA)
    assert registered.outcomes[3] is Outcome.REPLAYED
    assert registered.row == before


def test_after_an_update_what_the_row_says_now_is_not_the_first_registration(
    registered: Story,
) -> None:
    registered.asks(NEW_NAME, {**ADA, "name": "Ada L."})
    assert registered.outcomes[2] is Outcome.ID_TAKEN


def test_after_a_move_to_another_address_the_first_registration_is_replayed_still(
    registered: Story,
) -> None:
    registered.asks(NEW_EMAIL)
    registered.hears("granted", 1, "love@example.com")
    registered.asks(ADA)
    assert registered.outcomes[2] is Outcome.REPLAYED
    assert registered.sent == []


def test_name_and_address_are_told_apart_in_the_first_registration(registered: Story) -> None:
    registered.asks(NEW_NAME, {**ADA, "name": "Adaa", "email": "da@example.com"})
    assert registered.outcomes[2] is Outcome.ID_TAKEN


def test_registered_anew_an_id_has_another_first_registration(registered: Story) -> None:
    other: Registration = {**ADA, "name": "Eve"}
    registered.asks(NEW_NAME, ERASURE, other)
    registered.hears("granted", 3)
    registered.asks(NEW_NAME, other, ADA)
    assert registered.outcomes[5] is Outcome.REPLAYED
    assert registered.outcomes[6] is Outcome.ID_TAKEN


# -- an update


def test_a_new_name_is_applied_at_once(registered: Story) -> None:
    before = registered.there
    registered.asks(NEW_NAME)
    row = registered.there
    assert (row["name"], row["email"], row["status"]) == ("Ada L.", ADA["email"], "registered")
    assert (row["version"], row["position"]) == (2, attempt(1))
    assert row["registered_at"] == before["registered_at"]
    assert row["updated_at"] == moment(at(1))
    assert attempt_of(row) == attempt(0)
    assert registered.sent == []
    assert registered.outcomes[1] is Outcome.UPDATED


def test_an_update_of_nobody_is_rejected(story: Story) -> None:
    story.asks(NEW_NAME)
    assert story.row is None
    assert story.sent == []
    assert story.outcomes == {0: Outcome.UNKNOWN_ID}


def test_the_own_address_in_another_spelling_is_shown_as_typed_and_held_as_before(
    registered: Story,
) -> None:
    registered.asks(SAME_EMAIL)
    assert registered.there["email"] == " ADA@Example.com"
    assert attempt_of(registered.there) == attempt(0)
    assert registered.sent == []
    assert registered.outcomes[1] is Outcome.UPDATED
    registered.asks(ERASURE)
    assert registered.sent == [release(0)]


def test_a_new_address_waits_and_the_old_values_stay_meanwhile(registered: Story) -> None:
    before = registered.there
    registered.asks({**NEW_EMAIL, "name": "Ada L."})
    row = registered.there
    assert is_open(row)
    assert row == {**before, "open": row["open"]}
    assert registered.sent == [claim(1, "love@example.com")]
    assert registered.outcomes[1] is Outcome.PENDING


def test_a_new_address_granted_is_applied_and_the_old_one_released(registered: Story) -> None:
    registered.asks({**NEW_EMAIL, "name": "Ada L."})
    registered.hears("granted", 1, "love@example.com")
    row = registered.there
    assert (row["name"], row["email"]) == ("Ada L.", "love@example.com")
    assert (row["version"], row["updated_at"]) == (2, moment(at(1)))
    assert row["position"] == attempt_of(row) == attempt(1)
    assert not is_open(row)
    assert registered.sent == [release(0)]
    assert registered.outcomes[1] is Outcome.UPDATED


def test_a_new_address_taken_leaves_everything_as_it_was(registered: Story) -> None:
    before = registered.row
    registered.asks({**NEW_EMAIL, "name": "Ada L."})
    registered.hears("taken", 1, "love@example.com")
    assert registered.row == before
    assert registered.sent == []
    assert registered.outcomes[1] is Outcome.EMAIL_TAKEN


def test_an_address_is_released_by_the_attempt_that_holds_it(registered: Story) -> None:
    registered.asks(NEW_EMAIL)
    registered.hears("granted", 1, "love@example.com")
    # Neither a new name nor another spelling holds an address.
    registered.asks(NEW_NAME, {**NEW_EMAIL, "email": "LOVE@example.com"})
    registered.asks({**NEW_EMAIL, "email": "third@example.com"})
    registered.hears("granted", 4, "third@example.com")
    assert registered.sent == [release(1, "love@example.com")]


# -- an erasure


def test_an_erasure_removes_the_row_and_releases_the_address(registered: Story) -> None:
    registered.asks(ERASURE)
    assert registered.row is None
    assert registered.sent == [release(0)]
    assert registered.outcomes[1] is Outcome.ERASED


def test_an_erasure_of_nobody_is_told_as_well(story: Story) -> None:
    story.asks(ERASURE)
    assert story.row is None
    assert story.sent == []
    assert story.outcomes == {0: Outcome.ERASED}


def test_after_an_erasure_the_id_may_register_anew(registered: Story) -> None:
    registered.asks(NEW_NAME, ERASURE, ADA)
    assert registered.sent == [claim(3)]
    registered.hears("granted", 3)
    assert registered.row == {
        **ADA,
        "status": "registered",
        "registered_at": moment(at(3)),
        "updated_at": moment(at(3)),
        "version": 1,
        "position": attempt(3),
    }


# -- changes of one state only


def erase(**condition: Any) -> Erasure:
    """Return an erasure that depends on the state of the user."""
    return cast(Erasure, {"type": "erase", "id": "ada", **condition})


@pytest.mark.parametrize(
    "condition",
    [
        {"ifVersion": 1},
        {"ifPosition": attempt(0)},
        {"ifVersion": 1, "ifPosition": attempt(0)},
    ],
)
def test_a_change_of_the_state_that_the_user_is_in_is_made(condition: Any) -> None:
    for command, outcome in (
        (cast(Update, {**NEW_NAME, **condition}), Outcome.UPDATED),
        (erase(**condition), Outcome.ERASED),
    ):
        story = Story()
        story.asks(ADA)
        story.hears("granted", 0)
        story.asks(command)
        assert story.outcomes[1] is outcome


@pytest.mark.parametrize(
    "condition",
    [
        {"ifVersion": 2},
        {"ifPosition": attempt(1)},
        {"ifVersion": 2, "ifPosition": attempt(0)},
        {"ifVersion": 1, "ifPosition": attempt(1)},
    ],
)
def test_a_change_of_another_state_is_rejected_and_changes_nothing(
    registered: Story, condition: Any
) -> None:
    before = registered.row
    for command in ({**NEW_NAME, **condition}, {**NEW_EMAIL, **condition}, erase(**condition)):
        registered.asks(cast(Command, command))
        assert (registered.row, registered.sent) == (before, [])
    assert set(list(registered.outcomes.values())[1:]) == {Outcome.VERSION_MISMATCH}


def test_of_two_who_saw_the_same_version_the_second_is_told(registered: Story) -> None:
    registered.asks({**NEW_NAME, "ifVersion": 1}, {**NEW_NAME, "name": "Eve", "ifVersion": 1})
    assert registered.there["name"] == NEW_NAME["name"]
    assert registered.outcomes[2] is Outcome.VERSION_MISMATCH
    registered.asks({**NEW_NAME, "name": "Eve", "ifVersion": 2})
    assert (registered.there["name"], registered.there["version"]) == ("Eve", 3)


def test_after_an_erasure_the_same_version_is_another_state(registered: Story) -> None:
    registered.asks(ERASURE, ADA)
    registered.hears("granted", 2)
    assert registered.there["version"] == 1
    registered.asks({**NEW_NAME, "ifVersion": 1, "ifPosition": attempt(0)})
    assert registered.outcomes[3] is Outcome.VERSION_MISMATCH


def test_a_change_of_one_state_of_nobody_is_decided_as_any_other(story: Story) -> None:
    story.asks({**NEW_NAME, "ifVersion": 1}, erase(ifVersion=1))
    assert list(story.outcomes.values()) == [Outcome.UNKNOWN_ID, Outcome.ERASED]


def test_a_state_is_looked_at_once_what_came_before_is_settled(registered: Story) -> None:
    registered.asks(NEW_EMAIL, {**NEW_NAME, "ifVersion": 2}, erase(ifVersion=2))
    assert offsets_of(registered, Outcome.PENDING) == [1, 2, 3]
    registered.hears("granted", 1, NEW_EMAIL["email"])
    assert offsets_of(registered, Outcome.UPDATED) == [1, 2]
    assert offsets_of(registered, Outcome.VERSION_MISMATCH) == [3]


def test_an_erasure_without_a_condition_is_the_same_as_a_tombstone(registered: Story) -> None:
    registered.asks(erase())
    assert (registered.row, registered.sent) == (None, [release(0)])
    story = waits_for_a_verdict(erase(ifVersion=1), erase())
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == [FIRST_TOO_MANY]


# -- what comes while an attempt is open


@pytest.mark.parametrize("command", [ADA, {**ADA, "name": "Eve"}, NEW_NAME, NEW_EMAIL, ERASURE])
def test_while_an_attempt_is_open_every_record_of_the_id_waits(
    story: Story, command: Command
) -> None:
    story.asks(ADA)
    pending = story.there
    story.asks(command)
    assert story.row == {**pending, "queue": [[1, at(1), command]]}
    assert story.sent == []
    assert story.outcomes[1] is Outcome.PENDING


def test_while_an_update_is_open_records_wait_too(registered: Story) -> None:
    registered.asks(NEW_EMAIL, NEW_NAME, ERASURE)
    assert [offset for offset, *_ in registered.there["queue"]] == [2, 3]


def test_with_the_verdict_what_has_waited_is_decided_in_its_order(story: Story) -> None:
    story.asks(ADA, ADA, {**ADA, "name": "Eve"}, NEW_NAME, SAME_EMAIL)
    story.hears("granted", 0)
    assert story.outcomes == {
        0: Outcome.REGISTERED,
        1: Outcome.REPLAYED,
        2: Outcome.ID_TAKEN,
        3: Outcome.UPDATED,
        4: Outcome.UPDATED,
    }
    assert (story.there["name"], story.there["version"]) == ("Ada L.", 3)
    assert story.there["updated_at"] == moment(at(4))
    assert story.there.keys().isdisjoint({"open", "queue"})


def test_what_waited_for_a_rejected_registration_meets_no_row(story: Story) -> None:
    story.asks(ADA, NEW_NAME, ERASURE)
    story.hears("taken", 0)
    assert story.row is None
    assert story.sent == []
    assert story.outcomes == {
        0: Outcome.EMAIL_TAKEN,
        1: Outcome.UNKNOWN_ID,
        2: Outcome.ERASED,
    }


def test_an_erasure_that_waited_releases_what_was_just_granted(story: Story) -> None:
    story.asks(ADA, ERASURE)
    story.hears("granted", 0)
    assert story.row is None
    assert story.sent == [release(0)]
    assert story.outcomes == {0: Outcome.REGISTERED, 1: Outcome.ERASED}


def test_the_queue_is_decided_up_to_the_next_attempt_which_inherits_the_rest(
    story: Story,
) -> None:
    story.asks(ADA, NEW_NAME, NEW_EMAIL, NEW_NAME, ERASURE)
    story.hears("granted", 0)
    row = story.there
    assert row["open"]["position"] == attempt(2)
    assert [tuple(waiting) for waiting in row["queue"]] == [
        (3, at(3), NEW_NAME),
        (4, at(4), None),
    ]
    assert story.sent == [claim(2, "love@example.com")]
    assert [story.outcomes[offset] for offset in range(5)] == [
        Outcome.REGISTERED,
        Outcome.UPDATED,
        Outcome.PENDING,
        Outcome.PENDING,
        Outcome.PENDING,
    ]
    story.hears("granted", 2, "love@example.com")
    assert story.row is None
    assert story.sent == [release(0), release(2, "love@example.com")]
    assert [story.outcomes[offset] for offset in (2, 3, 4)] == [
        Outcome.UPDATED,
        Outcome.UPDATED,
        Outcome.ERASED,
    ]


def test_a_registration_that_waited_opens_an_attempt_once_there_is_no_row(story: Story) -> None:
    story.asks(ADA, ERASURE, ADA, NEW_NAME)
    story.hears("granted", 0)
    assert story.sent == [release(0), claim(2)]
    assert (story.there["status"], story.there["position"]) == ("pending", attempt(2))
    assert [tuple(waiting) for waiting in story.there["queue"]] == [(3, at(3), NEW_NAME)]
    story.hears("granted", 2)
    assert story.outcomes[2] is Outcome.REGISTERED
    assert story.outcomes[3] is Outcome.UPDATED


def test_the_last_that_waits_leaves_no_empty_queue(story: Story) -> None:
    story.asks(ADA, NEW_EMAIL)
    story.hears("granted", 0)
    assert "queue" not in story.there


def test_back_and_forth_is_claimed_anew_after_it_was_released(registered: Story) -> None:
    registered.asks(NEW_EMAIL, SAME_EMAIL)
    registered.hears("granted", 1, "love@example.com")
    # In this order: both are of the same address, and so in one partition.
    assert registered.sent == [release(0), claim(2, " ADA@Example.com")]


# -- verdicts that nobody waits for


@pytest.mark.parametrize("word", ["granted", "taken"])
@pytest.mark.parametrize("state", ["no row", "registered", "pending", "open"])
def test_a_verdict_nobody_waits_for_changes_nothing_and_lets_go_of_what_it_granted(
    word: Any, state: str
) -> None:
    story = Story()
    if state != "no row":
        story.asks(ADA)
    if state in ("registered", "open"):
        story.hears("granted", 0)
    if state == "open":
        story.asks(NEW_EMAIL, NEW_NAME)
    row, outcomes = story.row, dict(story.outcomes)
    story.hears(word, 99, "old@example.com")
    assert story.row == row
    assert story.outcomes == outcomes
    assert story.sent == ([release(99, "old@example.com")] if word == "granted" else [])


def test_a_verdict_is_not_taken_for_that_of_the_attempt_which_a_row_holds(
    registered: Story,
) -> None:
    registered.asks(NEW_EMAIL)
    before = registered.row
    registered.hears("taken", 0)
    assert registered.row == before
    assert registered.outcomes[1] is Outcome.PENDING


# -- a batch


def batch_of(*commands: Command, start: int = 0) -> Sorted:
    """Return a batch as it was sorted."""
    return Sorted(
        [
            (Record(None, start + n, timestamp=at(start + n)), command)
            for n, command in enumerate(commands)
        ],
        [b"ada" if command is None else command["id"].encode() for command in commands],
    )


def test_a_batch_is_decided_record_by_record() -> None:
    decisions = Decisions(PARTITION, EMAIL_KEY)
    eve: Registration = {**ADA, "id": "eve", "email": "eve@example.com"}
    changed = decisions.ask_all(batch_of(ADA, eve, NEW_NAME), {})
    assert set(changed) == {b"ada", b"eve"}
    ada = changed[b"ada"]
    assert ada is not None
    assert len(ada["queue"]) == 1
    assert [user_id for _, user_id, _ in decisions.outcomes] == ["ada", "eve", "ada"]


def test_rows_that_do_not_change_are_not_written() -> None:
    registered = _row_of("registered")
    decisions = Decisions(PARTITION, EMAIL_KEY)
    unknown = Update(type="update", id="eve", name="Eve")
    changed = decisions.ask_all(batch_of(ADA, unknown, start=1), {b"ada": registered})
    assert changed == {}
    assert [outcome for *_, outcome in decisions.outcomes] == [
        Outcome.REPLAYED,
        Outcome.UNKNOWN_ID,
    ]


def test_an_erased_row_is_told_as_none() -> None:
    decisions = Decisions(PARTITION, EMAIL_KEY)
    changed = decisions.ask_all(batch_of(None, start=1), {b"ada": _row_of("registered")})
    assert changed == {b"ada": None}


def _row_of(status: Literal["pending", "registered"]) -> UserRow:
    decisions = Decisions(PARTITION, EMAIL_KEY)
    row = decisions.ask(None, b"ada", Queued(0, at(0), ADA))
    assert row is not None
    return {**row, "status": status}


# -- a full queue


def waits_for_a_verdict(*more: Command) -> Story:
    """Return a story in which all places of the queue are taken, and then more is asked."""
    story = Story()
    story.asks(ADA, *[NEW_NAME] * MAX_QUEUE, *more)
    return story


def offsets_of(story: Story, outcome: Outcome) -> list[int]:
    """Return the records that had an outcome."""
    return [offset for offset, told in story.outcomes.items() if told is outcome]


FIRST_TOO_MANY = 1 + MAX_QUEUE


def test_sixteen_may_wait() -> None:
    story = waits_for_a_verdict()
    assert len(story.there["queue"]) == MAX_QUEUE == 16
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == []


@pytest.mark.parametrize("command", [ADA, {**ADA, "name": "Eve"}, NEW_NAME, NEW_EMAIL, SAME_EMAIL])
def test_whatever_meets_a_full_queue_is_rejected_and_changes_nothing(command: Command) -> None:
    story = waits_for_a_verdict()
    before = story.row
    story.asks(command, command)
    assert story.row == before
    assert story.sent == []
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == [FIRST_TOO_MANY, FIRST_TOO_MANY + 1]
    assert Outcome.TOO_MANY_PENDING.is_terminal


def test_an_erasure_takes_one_place_more_and_nothing_does_after_it() -> None:
    story = waits_for_a_verdict(NEW_NAME, ERASURE, NEW_NAME, ERASURE, ADA, ERASURE)
    erased = FIRST_TOO_MANY + 1
    assert [offset for offset, *_ in story.there["queue"]] == [*range(1, FIRST_TOO_MANY), erased]
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == [
        FIRST_TOO_MANY,
        *range(erased + 1, erased + 5),
    ]
    story.hears("granted", 0)
    assert story.row is None
    assert story.outcomes[erased] is Outcome.ERASED


def test_an_erasure_that_waits_as_one_of_sixteen_takes_a_place_like_any_other() -> None:
    story = Story()
    story.asks(ADA, ERASURE, *[ADA] * (MAX_QUEUE - 1), NEW_NAME, ERASURE, ERASURE)
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == [FIRST_TOO_MANY, FIRST_TOO_MANY + 2]


def test_what_waits_is_drained_in_order_up_to_the_next_attempt_and_makes_room() -> None:
    story = Story()
    names: list[Command] = [Update(type="update", id="ada", name=f"n{n}") for n in range(4)]
    moves: list[Command] = [
        Update(type="update", id="ada", email=f"{n}@example.com") for n in range(MAX_QUEUE - 4)
    ]
    story.asks(ADA, *names, *moves, ERASURE, NEW_NAME)
    too_late = 2 + MAX_QUEUE
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == [too_late]
    story.hears("granted", 0)
    assert story.there["name"] == "n3"
    assert story.there["open"]["position"] == attempt(5)
    # Four were decided, and the fifth is asked for: the rest, and the erasure, wait.
    left = [*range(6, 2 + MAX_QUEUE)]
    assert [offset for offset, *_ in story.there["queue"]] == left
    room = MAX_QUEUE - len(left)
    story.asks(*[NEW_NAME] * (room + 1), ERASURE, ERASURE)
    first = too_late + 1
    assert offsets_of(story, Outcome.TOO_MANY_PENDING) == [too_late, first + room, first + room + 2]
    for offset in range(5, 1 + MAX_QUEUE):
        story.hears("granted", offset, f"{offset - 5}@example.com")
    assert story.row is None
    assert story.outcomes[1 + MAX_QUEUE] is Outcome.ERASED
    assert story.outcomes[first] is Outcome.UNKNOWN_ID
    assert Outcome.PENDING not in story.outcomes.values()


def test_a_full_queue_holds_up_no_other_id() -> None:
    eve: Registration = {**ADA, "id": "eve"}
    decisions = Decisions(PARTITION, EMAIL_KEY)
    changed = decisions.ask_all(
        batch_of(NEW_NAME, eve, NEW_NAME, start=50), {b"ada": encoded_full()}
    )
    assert set(changed) == {b"eve"}
    assert decisions.outcomes == [
        (50, "ada", Outcome.TOO_MANY_PENDING),
        (51, "eve", Outcome.PENDING),
        (52, "ada", Outcome.TOO_MANY_PENDING),
    ]


def test_a_verdict_makes_room() -> None:
    decisions = Decisions(PARTITION, EMAIL_KEY)
    verdict = Verdict(email_key="", attempt=attempt(0), verdict="granted", at="")
    row = decisions.settle(encoded_full(), b"ada", verdict)
    assert row is not None
    assert row["version"] == 1 + MAX_QUEUE
    changed = decisions.ask_all(batch_of(NEW_NAME, start=50), {b"ada": row})[b"ada"]
    assert changed is not None
    assert changed["version"] == 2 + MAX_QUEUE


def encoded_full() -> UserRow:
    """Return a row in whose queue all places are taken, as it is stored."""
    return waits_for_a_verdict().there


def test_a_replay_that_takes_rejections_as_told_comes_to_the_same_bytes() -> None:
    """It knows the verdicts at once, so that nothing waits: only what was told tells it."""
    story = waits_for_a_verdict(NEW_EMAIL, ERASURE, ADA, NEW_NAME)
    story.hears("granted", 0)
    again: Registration = {**ADA, "name": "Again"}
    story.asks(again, NEW_EMAIL)
    asked = [ADA, *[NEW_NAME] * MAX_QUEUE, NEW_EMAIL, ERASURE, ADA, NEW_NAME, again, NEW_EMAIL]
    story.hears("granted", len(asked) - 2)
    story.hears("granted", len(asked) - 1, NEW_EMAIL["email"])
    rejected = offsets_of(story, Outcome.TOO_MANY_PENDING)
    assert len(rejected) == 3
    row, told = replayed(asked, rejected)
    assert (row, told) == (encode_row(story.there), story.outcomes)
    assert replayed(asked, rejected[1:]) != (row, told)


def replayed(asked: Sequence[Command], rejected: Sequence[int]) -> tuple[bytes, dict[int, Outcome]]:
    """Return the row and the outcomes of records if each attempt is granted at once."""
    replay = Decisions(PARTITION, EMAIL_KEY)
    row: UserRow | None = None
    for offset, command in enumerate(asked):
        queued = Queued(offset, at(offset), command)
        if offset in rejected:
            replay.reject(b"ada", queued)
            continue
        row = replay.accept(row, b"ada", queued)
        if row is not None and is_open(row):
            verdict = Verdict(email_key="", attempt=attempt(offset), verdict="granted", at="")
            row = replay.settle(row, b"ada", verdict)
    assert row is not None
    return encode_row(row), {offset: outcome for offset, _, outcome in replay.outcomes}


# -- any history

_IDS = st.sampled_from(["a", "b"])
_EMAILS = st.sampled_from(["e@example.com", "E@example.com", "f@example.com"])
few_wishes = st.one_of(
    st.builds(Registration, id=_IDS, name=st.sampled_from("xy"), email=_EMAILS),
    st.builds(Update, type=st.just("update"), id=_IDS, name=st.sampled_from("xy")),
    st.builds(Update, type=st.just("update"), id=_IDS, email=_EMAILS),
)
histories = st.lists(st.one_of(few_wishes, st.sampled_from([b"a", b"b"])), max_size=12)


def _came(history: list[Any]) -> list[Record]:
    """Return a history as records; bytes are the keys of tombstones."""
    return [
        Record(None, offset, command, at(offset))
        if isinstance(command, bytes)
        else Record(encode(command), offset, timestamp=at(offset))
        for offset, command in enumerate(history)
    ]


@given(histories, st.lists(st.integers(0, 12), max_size=4), st.sampled_from([1, 2, MAX_QUEUE]))
def test_any_cut_into_batches_comes_to_the_same(
    history: list[Any], cuts: list[int], places: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "MAX_QUEUE", places)
        cut_into_batches(_came(history), cuts)


def cut_into_batches(records: list[Record], cuts: list[int]) -> None:
    """Decide records at once and in batches; it must come to the same."""
    whole = Decisions(0, EMAIL_KEY)
    at_once = whole.ask_all(sort(0, records, 1), {})
    parts = Decisions(0, EMAIL_KEY)
    stored: dict[bytes, bytes | None] = {}
    edges = sorted({0, *[cut for cut in cuts if cut < len(records)], len(records)})
    for start, end in pairwise(edges):
        rows = {key: decode_row(row) for key, row in stored.items() if row is not None}
        changed = parts.ask_all(sort(0, records[start:end], 1), rows)
        stored.update(_encoded(changed))
    # A row that came and went within one batch is told as gone.
    assert {key: row for key, row in stored.items() if row} == {
        key: row for key, row in _encoded(at_once).items() if row
    }
    assert (parts.claims, parts.outcomes) == (whole.claims, whole.outcomes)


@given(histories)
def test_the_rows_that_were_given_are_not_changed(history: list[Any]) -> None:
    rows: dict[bytes, UserRow | None] = {}
    for record in _came(history):
        before = _encoded(rows)
        changed = Decisions(0, EMAIL_KEY).ask_all(sort(0, [record], 1), rows)
        assert _encoded(rows) == before
        rows.update(changed)
        for key, row in changed.items():
            if row is not None and is_open(row) and record.offset % 2:
                unsettled = encode_row(row)
                rows[key] = _settled(row, key)
                assert encode_row(row) == unsettled


def _encoded(rows: Rows) -> dict[bytes, bytes | None]:
    return {key: None if row is None else encode_row(row) for key, row in rows.items()}


def _settled(row: UserRow, key: bytes) -> UserRow | None:
    asking = row["open"]["position"] if "open" in row else row["position"]
    verdict = Verdict(email_key="", attempt=asking, verdict="granted", at="")
    return Decisions(0, EMAIL_KEY).settle(row, key, verdict)
