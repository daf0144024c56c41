"""Reads which procedures a request calls, and with which inputs.

The checks have the order of @trpc/server 11: escapes in the path, content type, size and kinds of
the batch, then for each call: unknown path, wrong method, body, input.
"""

import json as stdlib_json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from app.domain.records import FieldError, field_errors
from app.web.http.bodies import body_of
from app.web.http.problems import ProblemError, from_error
from app.web.http.urls import rest_of_path
from app.web.services import services
from app.web.trpc.procedures import PROCEDURES, Procedure, Tell, together
from app.web.trpc.subscriptions import SUBSCRIPTIONS

#: The input of a call without input: tRPC's ``undefined``, which is not ``null``.
_UNDEFINED: Any = object()

_REQUIRED = FieldError((), "Required", "missing")
_TRANSFORMED = (
    "Inputs are plain JSON here: take the transformer (superjson) off the client's links."
)


@dataclass(frozen=True, slots=True)
class Calls:
    """The paths that a request calls, and whether it is a batch."""

    paths: Sequence[str]
    is_batch: bool

    @classmethod
    def of(cls, request: web.Request) -> "Calls":
        """Return the calls of a request, or raise the problem of all of them."""
        path = rest_of_path(request, "/trpc/").rstrip("/")
        _require_json(request)
        is_batch = request.query.get("batch") == "1"
        if is_batch and path.count(",") >= services(request).settings.max_batch_calls:
            raise ProblemError(400, "malformed", "Batch call exceeds maximum size")
        calls = cls(path.split(",") if is_batch else [path], is_batch)
        if is_batch and not SUBSCRIPTIONS.keys().isdisjoint(calls.paths):
            raise ProblemError(400, "malformed", "Cannot batch subscription calls")
        called = (PROCEDURES[path] for path in dict.fromkeys(calls.paths) if path in PROCEDURES)
        kinds = dict.fromkeys(procedure.kind for procedure in called)
        if len(kinds) > 1:
            mixed = ", ".join(kinds)
            raise ProblemError(400, "malformed", f"Cannot mix procedure types in call: {mixed}")
        return calls

    @property
    def subscription(self) -> str | None:
        """The path of a subscription, if that is what is called."""
        (path, *_) = self.paths
        return path if path in SUBSCRIPTIONS else None

    def by_path(self) -> Mapping[str, Sequence[int]]:
        """Return the indices of the calls, by path."""
        found: dict[str, list[int]] = {}
        for index, path in enumerate(self.paths):
            found.setdefault(path, []).append(index)
        return found


def _method(request: web.Request) -> str:
    """Return the method. HEAD has the answer of GET."""
    return "GET" if request.method == "HEAD" else request.method


def _require_json(request: web.Request) -> None:
    if _method(request) == "GET" or request.content_type == "application/json":
        return
    given = request.headers.get("Content-Type")
    told = "Missing content-type header" if given is None else f'Unsupported content-type "{given}"'
    raise ProblemError(415, "unsupported-media-type", told)


async def answer(request: web.Request, calls: Calls, tell: Tell) -> None:
    """Answer all calls, each once and as soon as possible."""
    inputs = _Inputs(request, calls.is_batch)
    valid: list[tuple[Procedure, Mapping[int, Any]]] = []
    for path, indices in calls.by_path().items():
        with _told_to(indices, tell):
            procedure = _find(path, _method(request))
            given = await inputs.of(procedure, indices)
            if good := _valid(procedure, given, tell):
                valid.append((procedure, good))
    await together(_resolve(request, *one, tell) for one in valid)


async def _resolve(
    request: web.Request, procedure: Procedure, given: Mapping[int, Any], tell: Tell
) -> None:
    with _told_to(given, tell):
        await procedure.resolve(request, given, tell)


@contextmanager
def _told_to(indices: Collection[int], tell: Tell) -> Iterator[None]:
    """If the block raises, give the error to all these calls."""
    try:
        yield
    except Exception as error:
        problem = from_error(error)
        for index in indices:
            tell(index, problem)


def methods_of(path: str) -> Sequence[str]:
    """Return the methods for the calls in a path; all methods if no procedure is known."""
    if path in SUBSCRIPTIONS:
        return ("GET", "HEAD")
    kinds = {PROCEDURES[each].kind for each in path.split(",") if each in PROCEDURES}
    reading = () if kinds == {"mutation"} else ("GET", "HEAD")
    return (*reading, *(() if kinds == {"query"} else ("POST",)))


def _find(path: str, method: str) -> Procedure:
    procedure = PROCEDURES.get(path)
    if procedure is None:
        raise ProblemError(404, "not-found", f'No procedure found on path "{path}"')
    wanted = "GET" if procedure.kind == "query" else "POST"
    if method != wanted:
        raise ProblemError(
            405,
            "method-not-allowed",
            f'Unsupported {method}-request to {procedure.kind} procedure at path "{path}"',
            headers={"Allow": wanted},
        )
    return procedure


def input_of(request: web.Request, path: str) -> Any:
    """Return the valid input of a subscription, with the id of the last event of its client."""
    if _method(request) != "GET":
        told = f'Unsupported {request.method}-request to subscription procedure at path "{path}"'
        raise ProblemError(405, "method-not-allowed", told, headers={"Allow": "GET, HEAD"})
    encoded = request.query.get("input", "")
    try:
        given = orjson.loads(encoded) if encoded else {}
    except orjson.JSONDecodeError as error:
        raise ProblemError(400, "malformed", str(error)) from None
    last = request.headers.get("Last-Event-ID") or request.query.get("lastEventId")
    if last and isinstance(given, dict):
        given = {**given, "lastEventId": last}
    return _validated(SUBSCRIPTIONS[path].input, given)


class _Inputs:
    """The inputs of a request's calls, read when a procedure needs the first one."""

    def __init__(self, request: web.Request, is_batch: bool) -> None:
        self._request = request
        self._is_batch = is_batch
        self._parsed: Any = None

    async def of(self, procedure: Procedure, indices: Sequence[int]) -> Mapping[int, Any]:
        """Return the inputs of a procedure's calls, or raise the problem with reading them."""
        if procedure.input is None:
            return dict.fromkeys(indices)
        if self._parsed is None:
            self._parsed = await self._read()
        if isinstance(self._parsed, ProblemError):
            raise self._parsed
        missing = _UNDEFINED if procedure.needs_input else {}
        return {index: self._parsed.get(str(index), missing) for index in indices}

    async def _read(self) -> Mapping[str, Any] | ProblemError:
        try:
            encoded = await self._encoded()
            parsed = orjson.loads(encoded) if encoded else _UNDEFINED
        except orjson.JSONDecodeError as error:
            return ProblemError(400, "malformed", str(error))
        except (ProblemError, web.HTTPException) as error:
            return from_error(error)
        if parsed is _UNDEFINED:
            return {}
        if not self._is_batch:
            return {"0": parsed}
        if not isinstance(parsed, dict):
            told = '"input" needs to be an object when doing a batch call'
            return ProblemError(400, "malformed", told)
        return parsed

    async def _encoded(self) -> str | bytes:
        if _method(self._request) == "GET":
            return self._request.query.get("input", "")
        return await body_of(self._request, may_be_packed=self._is_batch)


def _valid(procedure: Procedure, given: Mapping[int, Any], tell: Tell) -> Mapping[int, Any]:
    """Return the valid inputs; answer the others with what is wrong."""
    if procedure.input is None or procedure.inputs is None:
        return given
    try:
        return dict(zip(given, procedure.inputs.validate_python([*given.values()]), strict=True))
    except ValidationError:
        pass
    valid = {}
    for index, one in given.items():
        with _told_to((index,), tell):
            valid[index] = _validated(procedure.input, one)
    return valid


def _validated(wanted: TypeAdapter[Any], given: Any) -> Any:
    if given is _UNDEFINED:
        raise _invalid([_REQUIRED])
    try:
        return wanted.validate_python(given)
    except ValidationError as error:
        if _is_transformed(given):
            raise ProblemError(400, "malformed", _TRANSFORMED) from None
        raise _invalid(field_errors(error)) from None


def _is_transformed(given: Any) -> bool:
    """Return whether an input is in the envelope of superjson, a transformer of tRPC's clients."""
    return isinstance(given, dict) and "json" in given and given.keys() <= {"json", "meta"}


def _invalid(found: Sequence[FieldError]) -> ProblemError:
    return ProblemError(400, "invalid", _issues(found), found)


def _issues(found: Sequence[FieldError]) -> str:
    """Return mistakes as tRPC sends the issues of zod: indented JSON in the message."""
    issues = [
        {"code": error.type, "path": list(error.location), "message": error.detail}
        for error in found
    ]
    return stdlib_json.dumps(issues, indent=2)
