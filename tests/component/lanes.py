"""Two servers that should answer alike: with the fast lane, and with it switched off."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.web.fast_lane import FastLane, Runner, _Server
from tests.component.test_fast_lane import Place, serving


class _WithoutFastLane(_Server):
    def __call__(self) -> FastLane:
        lane = super().__call__()
        assert isinstance(lane, FastLane)
        lane._is_ours = False
        return lane


class HandsOver(Runner):
    """Gives everything to aiohttp."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _WithoutFastLane
        return server


@asynccontextmanager
async def both_lanes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Place, Place]]:
    """Serve twice; the second server hands everything to aiohttp."""
    async with serving(Runner, monkeypatch) as fast, serving(HandsOver, monkeypatch) as slow:
        yield fast, slow
