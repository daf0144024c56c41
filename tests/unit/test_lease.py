"""The lease: what the broker confirmed holds for most of a session, from when it was asked."""

from time import monotonic

from app.engine.lease import Lease


def test_nothing_is_confirmed_at_first() -> None:
    assert not Lease().holds


def test_a_confirmation_counts_from_when_it_was_asked_for() -> None:
    lease = Lease()
    lease.session_seconds = 60
    lease.renew(monotonic() - 46)
    assert not lease.holds
    lease.renew(monotonic() - 44)
    assert lease.holds


def test_a_lease_begins_when_it_was_asked_for_not_when_it_was_answered() -> None:
    lease = Lease()
    before = monotonic()
    asked_at = lease.now()
    assert before <= asked_at <= monotonic()
    lease.session_seconds = 0.0
    lease.renew(asked_at)
    assert not lease.holds


def test_an_answer_that_is_overtaken_takes_nothing_back() -> None:
    lease = Lease()
    now = monotonic()
    lease.renew(now)
    lease.renew(now - 100)
    assert lease.confirmed_at == now
