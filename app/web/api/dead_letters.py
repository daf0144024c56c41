"""Dead letters over HTTP: causes and positions, never their content."""

from datetime import datetime

import orjson
from aiohttp import web

from app.dead_letters.letters import Letter
from app.dead_letters.listing import Cause, cause_members, members
from app.dead_letters.recent import Recent
from app.domain.errors import NotReplayedError, UnknownLetterError
from app.domain.positions import Position
from app.domain.records import moment
from app.web.auth.access import require_same_site
from app.web.auth.auditing import note
from app.web.http.negotiation import json, page, wants_page
from app.web.http.problems import from_error
from app.web.pages import rendering
from app.web.pages.rendering import CauseRow, LetterRow, Replayed
from app.web.services import services

routes = web.RouteTableDef()


@routes.get("/dead-letters")
async def get_dead_letters(request: web.Request) -> web.Response:
    """Show what could not be applied, by cause, and the newest of it."""
    recent = await services(request).dead_letters.recent()
    if wants_page(request):
        return page(_page(recent, _replayed(request)))
    return json(_json(recent))


@routes.post("/dead-letters/{position}/replay")
async def replay_dead_letter(request: web.Request) -> web.Response:
    """Send the original of a dead letter to its topic again, unless its id has a later record."""
    require_same_site(request)
    given = services(request)
    position = Position.parse(request.match_info["position"])
    note(request, position=position.token())
    try:
        replayed_as = await given.replays.replay(position)
    except (UnknownLetterError, NotReplayedError) as error:
        if not wants_page(request):
            raise
        refused = Replayed(position.token(), refused=str(error))
        # Another caller may have replayed it. Then it must not be shown any more.
        given.dead_letters.forget()
        return page(_page(await given.dead_letters.recent(), refused), from_error(error).status)
    given.dead_letters.forget()
    told = {"position": position.token(), "replayed_as": replayed_as.token()}
    note(request, replayed_as=replayed_as.token())
    if wants_page(request):
        raise web.HTTPSeeOther(
            f"/dead-letters?replayed={position.token()}&as={told['replayed_as']}"
        )
    return json(orjson.dumps(told))


def _replayed(request: web.Request) -> Replayed | None:
    """Return the letter that was replayed before this page was shown, or None."""
    letter, record = request.query.get("replayed"), request.query.get("as")
    if letter is None or record is None:
        return None
    return Replayed(Position.parse(letter).token(), Position.parse(record).token())


def _json(recent: Recent) -> bytes:
    return orjson.dumps(
        {
            "causes": [cause_members(cause) for cause in recent.causes],
            "letters": [members(letter) for letter in recent.letters],
            "truncated": recent.truncated,
        }
    )


def _page(recent: Recent, replayed: Replayed | None) -> str:
    return rendering.dead_letters(
        [_cause_row(cause) for cause in recent.causes],
        [_letter_row(letter) for letter in recent.letters],
        recent.truncated,
        replayed,
    )


def _cause_row(cause: Cause) -> CauseRow:
    return CauseRow(cause.cause, cause.count, _time(cause.oldest), _time(cause.newest))


def _letter_row(letter: Letter) -> LetterRow:
    return LetterRow(
        letter.position.token(),
        letter.topic,
        letter.cause,
        # An error about the whole record has no pointer.
        letter.detail.removeprefix(": "),
        _time(letter.timestamp),
        letter.size,
        letter.by,
    )


def _time(timestamp_ms: int) -> datetime:
    return datetime.fromisoformat(moment(timestamp_ms))
