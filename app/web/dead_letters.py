"""Dead letters over HTTP, as JSON or as a page: causes and places, nothing that stands in them."""

from datetime import datetime

import orjson
from aiohttp import web

from app.dead_letters.letters import Letter
from app.dead_letters.listing import Cause, cause_members, members
from app.dead_letters.recent import Recent
from app.records import moment
from app.web import rendering
from app.web.negotiation import json, page, wants_page
from app.web.rendering import CauseRow, LetterRow
from app.web.services import services

routes = web.RouteTableDef()


@routes.get("/dead-letters")
async def get_dead_letters(request: web.Request) -> web.Response:
    """Show what could not be applied, by cause, and the newest of it."""
    recent = await services(request).dead_letters.recent()
    return page(_page(recent)) if wants_page(request) else json(_json(recent))


def _json(recent: Recent) -> bytes:
    return orjson.dumps(
        {
            "causes": [cause_members(cause) for cause in recent.causes],
            "letters": [members(letter) for letter in recent.letters],
            "truncated": recent.truncated,
        }
    )


def _page(recent: Recent) -> str:
    return rendering.dead_letters(
        [_cause_row(cause) for cause in recent.causes],
        [_letter_row(letter) for letter in recent.letters],
        recent.truncated,
    )


def _cause_row(cause: Cause) -> CauseRow:
    return CauseRow(cause.cause, cause.count, _time(cause.oldest), _time(cause.newest))


def _letter_row(letter: Letter) -> LetterRow:
    return LetterRow(
        letter.position.token(),
        letter.topic,
        letter.cause,
        letter.detail,
        _time(letter.timestamp),
        letter.size,
    )


def _time(timestamp_ms: int) -> datetime:
    return datetime.fromisoformat(moment(timestamp_ms))
