"""Transactions that stand still where a test wants it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.kafka import protocol
from app.kafka.transactional_ids import TransactionalId


@contextmanager
def held_before_end(goes_on: asyncio.Event, reached: Callable[[], None]) -> Iterator[None]:
    """Let transactions wait before their end."""
    coordinate = TransactionalId.coordinate

    async def waiting(self: TransactionalId, request: Any) -> Any:
        if getattr(request, "struct", None) is protocol.EndTxn:
            reached()
            await goes_on.wait()
        return await coordinate(self, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionalId, "coordinate", waiting)
        yield
