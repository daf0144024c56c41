"""As many connections as there may be, and who makes room for others."""

import resource
from dataclasses import dataclass, field

import pytest

from app.config.settings import Settings
from app.web.http import connections as module
from app.web.http.connections import (
    LOOK_AGAIN_SECONDS,
    TELL_SECONDS,
    Connections,
    most,
    most_of_client,
)


@dataclass(eq=False)
class Fake:
    """A connection, and whether it was ended."""

    held: Connections
    client: str
    waits_since: float | None = None
    has_ended: bool = field(default=False)

    def make_room(self) -> None:
        """Note it."""
        self.has_ended = True
        self.held.forget(self, self.client)


def opened(held: Connections, client: str, *since: float | None) -> list[Fake]:
    """Return connections of a client that are admitted."""
    made = [Fake(held, client, each) for each in since]
    assert all(held.admit(each, client, 0.0) for each in made)
    return made


def test_whoever_was_kept_waiting_longest_makes_room() -> None:
    held = Connections(3, 3)
    busy, newer, older = opened(held, "a", None, 2.0, 1.0)
    assert held.admit(Fake(held, "b"), "b", 3.0)
    assert [each.has_ended for each in (busy, newer, older)] == [False, False, True]


def test_one_is_refused_while_all_others_wait_for_the_worker() -> None:
    held = Connections(2, 2)
    first, _ = opened(held, "a", None, None)
    assert not held.admit(Fake(held, "b"), "b", 1.0)
    # For a moment nobody is looked for: a crowd that is refused costs little.
    first.waits_since = 1.0
    assert not held.admit(Fake(held, "b"), "b", 1.0)
    assert held.admit(Fake(held, "b"), "b", 1.0 + LOOK_AGAIN_SECONDS)
    assert first.has_ended


def test_a_client_that_has_its_share_makes_room_for_itself_alone() -> None:
    held = Connections(10, 2)
    (other,) = opened(held, "b", 0.0)
    first, second = opened(held, "a", 1.0, 2.0)
    assert held.admit(Fake(held, "a"), "a", 3.0)
    assert [each.has_ended for each in (other, first, second)] == [False, True, False]


def test_who_has_no_address_has_no_share() -> None:
    held = Connections(10, 1)
    opened(held, "", None, None, None)


def test_room_for_many_is_made_at_once() -> None:
    held = Connections(32, 32)
    some = opened(held, "a", *map(float, range(32)))
    assert held.admit(Fake(held, "a"), "a", 100.0)
    assert [each.has_ended for each in some[:3]] == [True, True, False]


def test_what_has_ended_is_counted_out_once() -> None:
    held = Connections(1, 1)
    (one,) = opened(held, "a", None)
    held.forget(one, "a")
    held.forget(one, "a")
    opened(held, "a", None)
    assert not held.admit(Fake(held, "a"), "a", 0.0)


def test_the_log_has_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(module.log, "warning", lambda what, **_: told.append(what))
    held = Connections(1, 1)
    opened(held, "a", None)
    for at in (0.0, 1.0, TELL_SECONDS):
        assert not held.admit(Fake(held, "a"), "a", at)
    assert told == ["connections are refused: there are too many"] * 2


@pytest.mark.parametrize(
    ("files", "asked", "every", "of_client"),
    [
        (100_000, {}, 2_000, 1_000),
        (100_000, {"max_connections": 100, "client_connections": 500}, 100, 100),
        (100_000, {"trusted_proxies": 1}, 2_000, 2_000),
        (100_000, {"trusted_proxies": 1, "client_connections": 7}, 2_000, 7),
        # A process needs files for other things: 64, and 8 for each of 16 stores.
        (512, {}, 320, 160),
        (256, {}, 64, 32),
        (256, {"partitions": 100}, 16, 8),
    ],
)
def test_there_are_fewer_than_open_files(
    monkeypatch: pytest.MonkeyPatch,
    files: int,
    asked: dict[str, int],
    every: int,
    of_client: int,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    settings = Settings.model_validate(asked)
    assert (most(settings), most_of_client(settings)) == (every, of_client)
