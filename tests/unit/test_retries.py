"""Retry policies: pauses double, vary, and have a longest; attempts end by time."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from app.kafka.topics import ADMIN_TIMEOUT_SECONDS
from app.system import retries
from app.system.retries import RetryPolicy

ROOT = Path(__file__).parents[2]

QUICK = RetryPolicy("a test", "nothing", 0.001, 0.002, "it ends")


async def fail(errors: list[Exception]) -> int:
    """Raise the errors one after the other; return how many are left."""
    if errors:
        raise errors.pop()
    return len(errors)


@pytest.mark.parametrize("policy", retries.POLICIES.values(), ids=retries.POLICIES)
def test_pauses_double_from_the_first_to_the_longest_and_vary(policy: RetryPolicy) -> None:
    first, longest = policy.first_seconds, policy.longest_seconds
    assert 0 < first <= longest
    for failures in (1, 2, 5, 10_000):
        doubled = min(first * 2.0 ** min(failures - 1, 30), longest)
        pauses = [policy.pause_seconds(failures) for _ in range(20)]
        assert 0.75 * doubled <= min(pauses) < max(pauses) <= doubled


async def test_attempts_end_with_success() -> None:
    assert await QUICK.attempts(OSError)(fail, [OSError(), OSError()]) == 0


async def test_an_error_of_another_kind_is_raised_at_once() -> None:
    left: list[Exception] = [OSError(), ValueError("wrong")]
    with pytest.raises(ValueError, match="wrong"):
        await QUICK.attempts(OSError)(fail, left)
    assert len(left) == 1


async def test_a_limit_ends_attempts_with_the_last_error() -> None:
    limited = replace(QUICK, limit_seconds=0.02)
    with pytest.raises(OSError, match="away"):
        await limited.attempts(OSError)(fail, [OSError("away") for _ in range(10_000)])


def test_the_start_tells_the_last_error_and_not_a_time_out() -> None:
    connecting, start = retries.CONNECTING.limit_seconds, retries.WORKER_START.limit_seconds
    assert start < connecting < ADMIN_TIMEOUT_SECONDS


def test_no_other_module_makes_a_policy() -> None:
    """`local` is a supervisor of its own; all others are here."""
    makes = re.compile(r"AsyncRetrying\(|wait_exponential|@retry\b")
    found = [
        str(path.relative_to(ROOT))
        for folder in ("app", "tables", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if makes.search(path.read_text())
    ]
    assert found == ["app/system/retries.py"]
