"""Errors over HTTP: problem+json (RFC 9457) for programs, a page for people."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic
from typing import Final

import orjson
import structlog
from aiohttp import web

from app.domain.errors import (
    BrokerUnavailableError,
    FencedError,
    InvalidCursorError,
    InvalidPositionError,
    LostOutcomesError,
    NotReadyError,
    NotReplayedError,
    NotSettledError,
    NotWrittenError,
    OutcomeOpenError,
    OutcomeUnknownError,
    OverloadedError,
    RecordTooLargeError,
    RefusedError,
    RegistryError,
    StaleRequestError,
    TooManyRequestsError,
    Unavailable,
    UnknownLetterError,
)
from app.domain.records import FieldError
from app.system import retries
from app.telemetry.metrics import UNAVAILABLE
from app.web.http.negotiation import page, wants_page
from app.web.pages import rendering

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: How often the log tells of a cause that requests cannot be answered for.
LOG_EVERY_SECONDS = 10.0

_TYPE_PREFIX: Final = "urn:user-registry:problem:"


@dataclass(eq=False)
class ProblemError(Exception):
    """An error as a client is told of it; ``name`` is the stable part of its ``type``."""

    status: int
    name: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    #: What else a problem of this type tells (RFC 9457, extension members).
    members: Mapping[str, object] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase

    def body(self) -> bytes:
        """Return the problem as RFC 9457's JSON."""
        members: dict[str, object] = {
            "type": _TYPE_PREFIX + self.name,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            members["errors"] = pointers(self.errors)
        return orjson.dumps({**members, **self.members})


def pointers(errors: Sequence[FieldError]) -> list[dict[str, str]]:
    """Return what is wrong with an input as problems list it."""
    return [{"pointer": error.pointer, "detail": error.detail} for error in errors]


#: How a client is told to wait that long.
RETRY: Final[Mapping[str, str]] = {"Retry-After": f"{retries.CLIENT.first_seconds:g}"}

_KNOWN: Mapping[type[RegistryError], tuple[int, str, Mapping[str, str]]] = {
    BrokerUnavailableError: (503, "broker-unavailable", RETRY),
    OverloadedError: (503, "overloaded", {}),
    StaleRequestError: (503, "stale-request", {}),
    TooManyRequestsError: (429, "too-many-requests", {}),
    OutcomeUnknownError: (503, "outcome-unknown", RETRY),
    OutcomeOpenError: (503, "outcome-open", RETRY),
    NotSettledError: (503, "not-settled", RETRY),
    NotReadyError: (503, "not-ready", RETRY),
    RecordTooLargeError: (413, "too-large", {}),
    InvalidPositionError: (400, "invalid-position", {}),
    InvalidCursorError: (400, "invalid-cursor", {}),
    LostOutcomesError: (410, "outcomes-gone", {}),
    UnknownLetterError: (404, "unknown-letter", {}),
    NotReplayedError: (409, "not-replayed", {}),
    FencedError: (503, "not-ready", RETRY),
    NotWrittenError: (503, "not-ready", RETRY),
}

#: What a client should know before it tries again.
_HINTS: Mapping[type[RegistryError], str] = {
    OutcomeUnknownError: " A retry of the same request is safe.",
    OutcomeOpenError: " The write may still be stored, even later: look before you retry.",
}

_NAMES = {
    400: "malformed",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    417: "expectation-failed",
}


def from_error(error: BaseException) -> ProblemError:
    """Return the problem that tells a client of any error that a handler raised.

    It is not tied to where it was raised: what was at work there would be kept with it, until
    garbage is looked for.
    """
    problem = _from_error(error)
    problem.__traceback__ = problem.__context__ = None
    return problem


def _from_error(error: BaseException) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, web.HTTPException):
        return _from_http(error)
    if isinstance(error, RegistryError) and type(error) in _KNOWN:
        status, name, headers = _KNOWN[type(error)]
        if isinstance(error, RefusedError):
            headers = {"Retry-After": str(math.ceil(error.retry_after_seconds))}
        members = {"cause": _cause_of(error)} if name == "not-ready" else {}
        return ProblemError(status, name, _sentence(error), headers=headers, members=members)
    log.exception("unexpected error in a handler", exc_info=error)
    return ProblemError(500, "internal", "Something went wrong here; it has been logged.")


#: When a cause was logged last: many requests may meet it at once.
_logged_at: dict[Unavailable, float] = {}


def _cause_of(error: RegistryError) -> Unavailable:
    """Return why nobody can answer; count and log it under the same word."""
    if isinstance(error, NotReadyError):
        cause = error.cause
    else:
        is_fenced = isinstance(error, FencedError)
        cause = Unavailable.REBALANCING if is_fenced else Unavailable.BROKER_SLOW
    UNAVAILABLE.labels(cause).inc()
    if monotonic() - _logged_at.get(cause, -math.inf) > LOG_EVERY_SECONDS:
        _logged_at[cause] = monotonic()
        log.warning("requests cannot be answered", cause=cause)
    return cause


def _from_http(error: web.HTTPException) -> ProblemError:
    allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    name = _NAMES.get(error.status, "error")
    return ProblemError(error.status, name, error.text or error.reason, headers=allowed)


def _sentence(error: RegistryError) -> str:
    text = str(error)
    hint = _HINTS.get(type(error), "")
    return f"{text[:1].upper()}{text[1:]}.{hint}"


#: How problems are told on paths that begin so, where a protocol has a form of its own for them.
TOLD_OTHERWISE = web.AppKey(
    "told_otherwise", Mapping[str, Callable[[web.Request, ProblemError], web.Response]]
)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem, as JSON or as a page."""
    try:
        return await handler(request)
    except web.HTTPRedirection:
        raise
    except Exception as error:
        if isinstance(error, ConnectionError) and _is_gone(request):
            raise  # nobody is to be answered, and nothing is wrong
        problem = from_error(error)
    for prefix, told in request.app.get(TOLD_OTHERWISE, {}).items():
        if request.path.startswith(prefix):
            return told(request, problem)
    if wants_page(request):
        shown = rendering.problem(problem.status, problem.title, problem.detail, problem.name)
        return page(shown, problem.status, problem.headers)
    return as_json(problem)


def _is_gone(request: web.Request) -> bool:
    """Return whether the client of a request has closed the connection."""
    return request.transport is None or request.transport.is_closing()


async def tell_status(
    request: web.Request, handler: Handler, tell: Callable[[int], None]
) -> web.StreamResponse:
    """Answer a request, and tell the status of the answer; 500 of what fails in any other way."""
    status = 500
    try:
        answer = await handler(request)
        status = answer.status
        return answer
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        tell(status)


def as_json(problem: ProblemError) -> web.Response:
    """Return the answer for programs."""
    return web.Response(
        body=problem.body(),
        status=problem.status,
        content_type="application/problem+json",
        headers=problem.headers,
    )
