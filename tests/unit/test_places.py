"""Places for those who follow something: too many are refused, and one client leaves room."""

from contextlib import ExitStack

import pytest

from app.domain.errors import OverloadedError, TooManyRequestsError
from app.web.http.places import Places


def test_who_comes_when_too_many_follow_is_refused() -> None:
    places = Places(3, 3, 1.0)
    with ExitStack() as held:
        for number in range(3):
            held.enter_context(places.take(f"client-{number}"))
        with pytest.raises(OverloadedError), places.take("client"):
            pass
    with places.take("client"):
        pass


def test_one_client_leaves_room_for_others() -> None:
    places = Places(10, 2, 1.0)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(places.take("greedy"))
        with pytest.raises(TooManyRequestsError) as refused, places.take("greedy"):
            pass
        assert refused.value.retry_after_seconds == 1.0
        with places.take("other"):
            pass
    with places.take("greedy"):
        pass


def test_who_fails_gives_the_place_back_and_is_forgotten() -> None:
    places = Places(1, 1, 1.0)
    with pytest.raises(LookupError), places.take("client"):
        raise LookupError
    assert not places.taken
