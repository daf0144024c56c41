"""Lag: how many records wait, and since when."""

from app.worker.lag import MAX_ENDS, Ends, Lag


def test_what_is_applied_does_not_lag() -> None:
    ends = Ends()
    assert ends.lag(0, now=5) == Lag(0, 0)
    ends.see(10, at=1)
    assert ends.lag(10, now=5) == Lag(0, 0)


def test_seconds_are_those_since_the_first_waiting_record_was_seen() -> None:
    ends = Ends()
    for end, at in ((10, 1), (20, 2), (20, 3), (30, 4)):
        ends.see(end, at)
    assert ends.lag(5, now=5) == Lag(25, 4)
    assert ends.lag(10, now=5) == Lag(20, 3)
    assert ends.lag(29, now=5) == Lag(1, 1)


def test_an_idle_log_does_not_count_as_waiting() -> None:
    ends = Ends()
    ends.see(10, at=1)
    assert ends.lag(10, now=2) == Lag(0, 0)
    ends.see(10, at=50)
    ends.see(11, at=60)
    assert ends.lag(10, now=61) == Lag(1, 1)


def test_a_long_lag_is_remembered_in_bounded_memory() -> None:
    ends = Ends()
    for second in range(10 * MAX_ENDS):
        ends.see(second + 1, at=second)
    assert ends.lag(0, now=10 * MAX_ENDS) == Lag(10 * MAX_ENDS, 10 * MAX_ENDS)
    assert len(ends._seen) <= MAX_ENDS
