"""Memory that a burst has freed goes back to the system."""

import asyncio
import random

import pytest

from app.system import memory
from app.system.memory import WORTH_BYTES, Memory, give_back, resident_bytes


def test_what_was_freed_between_what_is_kept_goes_back() -> None:
    give_back()  # what other tests have left
    before = resident_bytes()
    kept = [bytes(random.randrange(600, 3_000)) for _ in range(50_000)]
    random.shuffle(kept)
    grown = resident_bytes() - before
    del kept[:45_000]
    give_back()
    assert resident_bytes() - before < 0.7 * grown
    assert len(kept) == 5_000


async def test_it_is_done_only_if_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100, 100 + WORTH_BYTES - 1, 100 + WORTH_BYTES, 50, 50 + WORTH_BYTES, 60])
    trims: list[None] = []
    told = asyncio.Event()

    def size() -> int:
        found = next(sizes, None)
        if found is None:
            told.set()
            return 0
        return found

    monkeypatch.setattr(memory, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(memory, "resident_bytes", size)
    monkeypatch.setattr(memory, "give_back", lambda: trims.append(None))
    async with Memory():
        async with asyncio.timeout(30):
            await told.wait()
    assert len(trims) == 2
