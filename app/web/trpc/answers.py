"""Wraps results in the envelopes of tRPC: one, or an array."""

from collections.abc import Mapping, Sequence

import orjson
from aiohttp import web

from app.web.http.problems import ProblemError, pointers

#: The request headers that an answer depends on.
VARY = "trpc-accept, accept"

#: tRPC's name and JSON-RPC number of an error, by its HTTP status.
_CODES: Mapping[int, tuple[str, int]] = {
    400: ("BAD_REQUEST", -32600),
    401: ("UNAUTHORIZED", -32001),
    403: ("FORBIDDEN", -32003),
    404: ("NOT_FOUND", -32004),
    405: ("METHOD_NOT_SUPPORTED", -32005),
    408: ("TIMEOUT", -32008),
    409: ("CONFLICT", -32009),
    # tRPC has no name for a thing that is gone.
    410: ("NOT_FOUND", -32004),
    412: ("PRECONDITION_FAILED", -32012),
    413: ("PAYLOAD_TOO_LARGE", -32013),
    415: ("UNSUPPORTED_MEDIA_TYPE", -32015),
    422: ("UNPROCESSABLE_CONTENT", -32022),
    429: ("TOO_MANY_REQUESTS", -32029),
    500: ("INTERNAL_SERVER_ERROR", -32603),
    503: ("SERVICE_UNAVAILABLE", -32603),
}


def envelope(told: object, path: str | None) -> Mapping[str, object]:
    """Return the envelope of a result: data, or a `ProblemError`."""
    if not isinstance(told, ProblemError):
        return {"result": {"data": told}}
    code, number = _CODES.get(told.status, _CODES[500])
    data: dict[str, object] = {"code": code, "httpStatus": told.status}
    if path is not None:
        data["path"] = path
    return {"error": {"message": told.detail, "code": number, "data": {**data, **why(told)}}}


def why(problem: ProblemError) -> Mapping[str, object]:
    """Return what an error tells programs beyond tRPC's own members.

    The reason says more than tRPC's code: which conflict it is, and whether a retry is safe.
    """
    told: dict[str, object] = {"reason": problem.name}
    if problem.errors:
        told["errors"] = pointers(problem.errors)
    if (seconds := problem.headers.get("Retry-After")) is not None:
        told["retryAfter"] = int(seconds)
    return told


def single(told: object, path: str) -> web.Response:
    """Return the answer to a single call."""
    return _respond(envelope(told, path), [told])


def batch(told: Sequence[object], paths: Sequence[str]) -> web.Response:
    """Return the answer to a batch: an array, in the order of the calls."""
    return _respond(list(map(envelope, told, paths)), told)


def refused(problem: ProblemError, path: str) -> web.Response:
    """Return the answer to a single call that failed."""
    return single(problem, path)


def refused_whole(problem: ProblemError) -> web.Response:
    """Return the answer to a request that failed before it was split into calls: one error."""
    return web.Response(
        body=orjson.dumps(envelope(problem, None)),
        status=problem.status,
        # As servers of version 11 do it.
        headers={**problem.headers, "Content-Type": "text/plain;charset=UTF-8", "Vary": VARY},
    )


def _respond(body: object, told: Sequence[object]) -> web.Response:
    problems = [each for each in told if isinstance(each, ProblemError)]
    statuses = {problem.status for problem in problems}
    if len(problems) < len(told):
        statuses.add(200)
    headers = {name: value for problem in problems for name, value in problem.headers.items()}
    return web.Response(
        body=orjson.dumps(body),
        status=statuses.pop() if len(statuses) == 1 else 207,
        headers={"Content-Type": "application/json", "Vary": VARY, **headers},
    )
