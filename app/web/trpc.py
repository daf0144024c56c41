"""The tRPC protocol over HTTP, as servers of version 11 speak it, for single and batched calls.

The order of the checks is that of @trpc/server 11: content type, shape of the request, then call
by call: unknown path, wrong method, body, input.
"""

import asyncio
import json as stdlib_json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import orjson
from aiohttp import web
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from app.positions import Position
from app.records import Email, FieldError, User, UserId, field_errors, registrations
from app.web.preferences import after, wait_seconds
from app.web.problems import ProblemError, from_error
from app.web.services import Services, services
from app.web.urls import rest_of_path
from app.web.writes import rejected

routes = web.RouteTableDef()

Kind = Literal["query", "mutation"]

T = TypeVar("T")

#: tRPC's name and JSON-RPC number of an error, by the HTTP status that it stands for.
_CODES: Mapping[int, tuple[str, int]] = {
    400: ("BAD_REQUEST", -32600),
    404: ("NOT_FOUND", -32004),
    409: ("CONFLICT", -32009),
    405: ("METHOD_NOT_SUPPORTED", -32005),
    413: ("PAYLOAD_TOO_LARGE", -32013),
    415: ("UNSUPPORTED_MEDIA_TYPE", -32015),
    500: ("INTERNAL_SERVER_ERROR", -32603),
    503: ("SERVICE_UNAVAILABLE", -32603),
}

#: What a call without input has: tRPC's ``undefined``, which is not ``null``.
_UNDEFINED: Any = object()

_REQUIRED = FieldError((), "Required", "missing")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call came to: its HTTP status, its envelope, and headers of the response."""

    status: int
    envelope: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """What a procedure works with: its input, and what the request's headers ask for."""

    given: Services
    input: Any
    wait_seconds: float
    after: Position | None


@dataclass(frozen=True, slots=True)
class Procedure:
    """A procedure: whether it reads or writes, whether it takes input, and what it does."""

    kind: Kind
    resolve: Callable[[Call], Awaitable[object]]
    takes_input: bool = True


class _ById(TypedDict):
    id: UserId


class _ByEmail(TypedDict):
    email: Email


_by_id = TypeAdapter(_ById)
_by_email = TypeAdapter(_ByEmail)


async def hello(_: Call) -> object:
    """Say hello."""
    return "Hello tRPC!"


async def register_user(call: Call) -> object:
    """Register a user: the answer comes after the broker's acknowledgement.

    With ``Prefer: wait=`` it comes once the registration is settled, and says so.
    """
    registration = _validate(registrations, call.input)
    position = await call.given.write(registration["id"], registration)
    told = await call.given.wait(position, call.wait_seconds)
    if told.outcome.reason is not None:
        raise rejected(told.outcome)
    answer = {"status": "success", "id": registration["id"], "position": position.token()}
    return answer | ({"outcome": told.outcome.word} if call.wait_seconds else {})


async def user_by_id(call: Call) -> object:
    """Return the user under an id."""
    wanted = _validate(_by_id, call.input)
    return _found(await call.given.lookups.find(wanted["id"], after=call.after))


async def user_by_email(call: Call) -> object:
    """Return the user who holds an address."""
    wanted = _validate(_by_email, call.input)
    return _found(await call.given.lookups.find_by_email(wanted["email"], after=call.after))


def _found(user: User | None) -> object:
    if user is None:
        raise ProblemError(404, "unknown-user", "No such user is registered.")
    return user.model_dump(mode="json")


PROCEDURES: Mapping[str, Procedure] = {
    "hello": Procedure("query", hello, takes_input=False),
    "userById": Procedure("query", user_by_id),
    "userByEmail": Procedure("query", user_by_email),
    "registerUser": Procedure("mutation", register_user),
}


@routes.route("*", "/trpc/{path:.*}")
async def serve(request: web.Request) -> web.Response:
    """Answer a tRPC request, single (`httpLink`) or batched (`httpBatchLink`)."""
    if request.method == "HEAD":
        return web.Response(status=204)
    try:
        calls = _calls(request)
    except ProblemError as problem:
        return _respond([_failed(problem, None)], batched=False)
    inputs = _Inputs(request)
    answers = await asyncio.gather(
        *(_answer(request, inputs, index, path) for index, path in enumerate(calls))
    )
    return _respond(answers, batched=_is_batch(request))


def _is_batch(request: web.Request) -> bool:
    return request.query.get("batch") == "1"


def _calls(request: web.Request) -> list[str]:
    """Return the paths of the calls, or raise the problem that concerns all of them."""
    if request.method != "GET" and request.content_type != "application/json":
        given = request.headers.get("Content-Type", "")
        raise ProblemError(415, "media-type", f'Unsupported content-type "{given}"')
    path = rest_of_path(request, "/trpc/").removesuffix("/")
    calls = path.split(",") if _is_batch(request) else [path]
    if len(calls) > services(request).settings.max_batch_calls:
        raise ProblemError(400, "malformed", f"Too many calls in one batch: {len(calls)}")
    kinds = {PROCEDURES[call].kind for call in calls if call in PROCEDURES}
    if len(kinds) > 1:
        raise ProblemError(
            400, "malformed", f"Cannot mix procedure types in call: {', '.join(sorted(kinds))}"
        )
    return calls


class _Inputs:
    """The inputs of a request's calls, read at the first procedure that wants one."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._reading: asyncio.Task[Any] | None = None

    async def of(self, index: int) -> Any:
        """Return the input of a call, or raise the problem that reading it met."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        read = await asyncio.shield(self._reading)
        return read.get(str(index), _UNDEFINED) if _is_batch(self._request) else read

    async def _read(self) -> Any:
        encoded = await self._encoded()
        if not encoded:
            return {} if _is_batch(self._request) else _UNDEFINED
        try:
            read = orjson.loads(encoded)
        except orjson.JSONDecodeError as error:
            raise ProblemError(400, "malformed", str(error)) from None
        if _is_batch(self._request) and not isinstance(read, dict):
            raise ProblemError(
                400, "malformed", '"input" needs to be an object when doing a batch call'
            )
        return read

    async def _encoded(self) -> bytes:
        if self._request.method == "GET":
            return self._request.query.get("input", "").encode()
        return await self._request.read()


async def _answer(request: web.Request, inputs: _Inputs, index: int, path: str) -> Answer:
    try:
        procedure = _procedure(path, request.method)
        call_input = await inputs.of(index) if procedure.takes_input else None
        call = Call(services(request), call_input, wait_seconds(request), after(request))
        data = await procedure.resolve(call)
    except Exception as error:
        return _failed(from_error(error), path)
    return Answer(200, {"result": {"data": data}})


def _procedure(path: str, method: str) -> Procedure:
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


def _validate(wanted: TypeAdapter[T], call_input: Any) -> T:
    if call_input is _UNDEFINED:
        raise ProblemError(400, "invalid", _issues([_REQUIRED]))
    try:
        return wanted.validate_python(call_input)
    except ValidationError as error:
        raise ProblemError(400, "invalid", _issues(field_errors(error))) from None


def _issues(found: Sequence[FieldError]) -> str:
    """Return what is wrong as zod's issues come over tRPC: indented JSON in the message."""
    issues = [
        {"code": error.type, "path": list(error.location), "message": error.detail}
        for error in found
    ]
    return stdlib_json.dumps(issues, indent=2)


def _failed(problem: ProblemError, path: str | None) -> Answer:
    code, number = _CODES.get(problem.status, _CODES[500])
    data: dict[str, object] = {"code": code, "httpStatus": problem.status}
    if path is not None:
        data["path"] = path
    error = {"message": problem.detail, "code": number, "data": data}
    return Answer(problem.status, {"error": error}, problem.headers)


def _respond(answers: Sequence[Answer], *, batched: bool) -> web.Response:
    statuses = {answer.status for answer in answers}
    body = [answer.envelope for answer in answers] if batched else answers[0].envelope
    return web.Response(
        body=orjson.dumps(body),
        status=statuses.pop() if len(statuses) == 1 else 207,
        content_type="application/json",
        headers={"Vary": "trpc-accept, accept", **_common_headers(answers)},
    )


def _common_headers(answers: Sequence[Answer]) -> dict[str, str]:
    return {name: value for answer in answers for name, value in answer.headers.items()}
