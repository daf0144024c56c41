"""Describes the HTTP interface as an OpenAPI 3.1 document.

Summaries are the first lines of the handlers' docstrings, bodies the types that validate them. What
stands in `OPERATIONS` is what only the handlers' code knows: which statuses, which headers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from typing import Annotated, Any, Literal, NotRequired

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from app.domain.errors import Unavailable
from app.domain.outcomes import Outcome
from app.domain.records import Email, Name, SentName, SentRegistration, User, UserId
from app.query.overview.numbers import PartitionLag
from app.web.http.negotiation import json, page
from app.web.http.proxies import base_url
from app.web.pages import rendering
from app.web.trpc.procedures import PROCEDURES, Procedure

routes = web.RouteTableDef()

_REF = "#/components/schemas/{model}"

# -- what is answered, where no handler has a model of it


class Accepted(TypedDict):
    """A write that is durable: in Kafka, at a position."""

    status: Literal["accepted", "replayed", "updated", "erased"]
    id: UserId
    position: str


class Sent(TypedDict):
    """A write that is settled, as a key without the scope lookup is told: with what was sent."""

    status: Literal["registered", "replayed", "updated"]
    id: UserId
    position: str
    name: NotRequired[Name]
    email: NotRequired[Email]


@with_config(ConfigDict(json_schema_extra={"minProperties": 1}))
class Change(TypedDict):
    """What PATCH takes: a new name, a new address or both."""

    name: NotRequired[SentName]
    email: NotRequired[Email]


class UserPage(TypedDict):
    """Users in the order of their ids; without ``next`` it is the last page."""

    users: list[User]
    next: NotRequired[str]
    stale_seconds: NotRequired[float]


class NewestUsers(TypedDict):
    """Users, newest first; without ``next`` no more of them are remembered."""

    users: list[User]
    next: NotRequired[str]
    #: Partitions that nobody told of, because they are moving or recovering.
    missing_partitions: NotRequired[list[int]]


class OutcomeOfWrite(TypedDict):
    """What became of a write."""

    position: str
    outcome: Literal[tuple(sorted({outcome.word for outcome in Outcome}))]  # type: ignore[valid-type]
    reason: NotRequired[Literal[tuple(o.reason for o in Outcome if o.reason)]]  # type: ignore[valid-type]
    moved_to: NotRequired[str]


class WrongField(TypedDict):
    """What is wrong with an input, and where: a JSON pointer (RFC 6901)."""

    pointer: str
    detail: str


class WrongRow(TypedDict):
    """A row of a batch that is no registration."""

    index: Annotated[int, Field(ge=0)]
    errors: list[WrongField]


class BatchReport(TypedDict):
    """What became of the rows of a batch; of many wrong rows, the first ones are listed."""

    accepted: Annotated[int, Field(ge=0)]
    rejected: list[WrongRow]


class Health(TypedDict):
    """How a worker is."""

    status: Literal["live", "ready", "not ready"]
    reasons: NotRequired[list[str]]


class DeadLetters(TypedDict):
    """What could not be applied: causes, and the newest letters."""

    causes: list[dict[str, Any]]
    letters: list[dict[str, Any]]
    truncated: bool


class ReplayedLetter(TypedDict):
    """A dead letter that was replayed: where its record came in, and where it stands now."""

    position: str
    replayed_as: str


class Latencies(TypedDict):
    """How long acknowledgements took, in milliseconds."""

    p50: float
    p99: float


class OwnedPartitions(TypedDict):
    """A worker, and which partitions it owns, recovers, or keeps copies of."""

    url: str
    owned: list[int]
    recovering: list[int]
    standby: list[int]


class NewestUser(TypedDict):
    """A user as the overview has it; ``url`` is a path of this interface."""

    id: UserId
    name: Name
    status: Literal["pending", "registered"]
    registered_at: datetime
    url: str


class Overview(TypedDict):
    """What the registry is doing; rates and latencies are those of the last seconds."""

    seconds: float
    writes_per_second: dict[str, float]
    outcomes_per_second: dict[str, float]
    #: Null if nothing was written.
    acknowledgement_ms: Latencies | None
    #: Since each worker started.
    outcomes: dict[str, float]
    partitions: int
    lag: list[PartitionLag]
    workers: list[OwnedPartitions]
    #: Addresses of workers that did not answer.
    unavailable: list[str]
    newest: list[NewestUser]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(pattern="^urn:user-registry:problem:")]
    title: str
    status: int
    detail: str
    errors: list[WrongField] = []
    #: Why nobody can answer, of `not-ready`.
    cause: Unavailable | None = None


class TrpcError(TypedDict):
    """An error as tRPC's clients read it."""

    error: dict[str, Any]


# -- how operations are described

_Schema = dict[str, Any]

_POSITION = {"type": "string", "pattern": "^[A-Za-z0-9_-]{20}$"}
_SECONDS = {"type": "integer"}
#: By status: always, or of some problems.
_RETRY_AFTER = {
    status: {"Retry-After": {"schema": _SECONDS, "required": always}}
    for status, always in ((409, False), (429, True), (503, True))
}
_LOCATION = {"Location": {"schema": {"type": "string"}}}

_DETAILS = {
    400: "Malformed",
    401: "No key, or an unknown one",
    403: "The key may not do this",
    404: "Not found",
    408: "The body did not come in time",
    409: "Rejected: the id or the address is taken, or too many changes of the user wait (then it "
    "has `Retry-After`); or the letter may not be replayed",
    413: "Too large",
    415: "Another content type is needed",
    421: "The request names another host than this worker's",
    422: "Not valid",
    429: "This client has written, or read, more than it may",
    503: "The broker or a table cannot be reached, or too much waits; `outcome-unknown`: the write "
    "may be durable, and can safely be sent again; `outcome-open`: the write may be stored even "
    "later, look before you send it again; `stale-request`: the request waited for too long, and "
    "nothing was written",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation takes and answers, by status; errors of all operations are added."""

    answers: Mapping[int, tuple[str, Any]]
    errors: Sequence[int] = ()
    body: Mapping[str, Any] | None = None
    parameters: Sequence[_Schema] = ()
    headers: Mapping[str, Any] | None = None
    #: Of what is answered as text, of any length.
    content_types: Sequence[str] = ("application/json",)


def _query(name: str, schema: Mapping[str, Any], description: str) -> _Schema:
    return {"name": name, "in": "query", "schema": dict(schema), "description": description}


def _header(name: str, schema: Mapping[str, Any], description: str) -> _Schema:
    return {"name": name, "in": "header", "schema": dict(schema), "description": description}


_PREFER = _header(
    "Prefer", {"type": "string"}, "`wait=5`: answer once the write is settled, or 5 s are over."
)
_AFTER = _query("after", _POSITION, "As it is once the write at this position is settled.")
_PREFIX = _query("prefix", {"type": "string", "maxLength": 128}, "How listed ids begin.")
_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Users in a page.")
_CURSOR = _query("cursor", {"type": "string"}, "`next` of the page before.")
_FORMAT = _query("format", {"type": "string", "enum": ["ndjson", "csv"]}, "`ndjson` if not said.")
_ID = _query("id", TypeAdapter(UserId).json_schema(), "The id, where a path cannot hold it.")
_NEEDED_ID = {**_ID, "required": True}
#: What may be wrong with any request: a parameter that is there twice, a key, a host, a rate.
_ERRORS_OF_ALL = (400, 401, 403, 421, 429)
_WRITTEN = (400, 408, 409, 413, 415, 422, 429, 503)

_WRITE_ANSWERS = {
    200: ("Settled", User | Accepted | Sent),
    201: ("Registered", User | Sent),
    202: ("Durable", Accepted),
}
_CHANGE_ANSWERS = {200: ("Settled", User | Accepted | Sent), 202: ("Durable", Accepted)}
_PATCH_BODY = {"application/json": Change, "application/merge-patch+json": Change}
_ERASED = {200: ("Erased", Accepted), 202: ("Durable", Accepted)}

#: By method and path; what is not here is for people, for other workers, or a file.
OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/users"): Operation(
        _WRITE_ANSWERS, _WRITTEN, {"application/json": SentRegistration}, (_PREFER,), _LOCATION
    ),
    ("POST", "/users/batch"): Operation(
        {202: ("What became of the rows", BatchReport)},
        _WRITTEN,
        {"application/json": list[SentRegistration], "application/x-ndjson": str},
    ),
    ("PATCH", "/users/{id}"): Operation(
        _CHANGE_ANSWERS, (404, *_WRITTEN), _PATCH_BODY, (_PREFER,), _LOCATION
    ),
    ("PATCH", "/users"): Operation(
        _CHANGE_ANSWERS, (404, *_WRITTEN), _PATCH_BODY, (_NEEDED_ID, _PREFER), _LOCATION
    ),
    ("DELETE", "/users/{id}"): Operation(_ERASED, (400, 409, 422, 429, 503), None, (_PREFER,)),
    ("DELETE", "/users"): Operation(
        _ERASED, (400, 409, 422, 429, 503), None, (_NEEDED_ID, _PREFER)
    ),
    ("GET", "/users/{id}"): Operation({200: ("The user", User)}, (400, 404, 503), None, (_AFTER,)),
    ("GET", "/users"): Operation(
        {200: ("A page of users, or the one who is named", User | UserPage)},
        (400, 404, 422, 503),
        None,
        (
            _ID,
            _query("email", TypeAdapter(Email).json_schema(), "The address of one user."),
            _PREFIX,
            _LIMIT,
            _CURSOR,
            _AFTER,
        ),
    ),
    ("GET", "/export"): Operation(
        {200: ("All users, one a line; cut off if it cannot be completed", str)},
        (400, 503),
        None,
        (_FORMAT, _PREFIX),
        content_types=("application/x-ndjson", "text/csv"),
    ),
    ("GET", "/registrations"): Operation(
        {200: ("The newest users", NewestUsers)}, (400, 503), None, (_LIMIT, _CURSOR)
    ),
    ("GET", "/registrations/{position}"): Operation(
        {200: ("What became of it", OutcomeOfWrite)}, (400, 404, 503), None, (_PREFER,)
    ),
    ("GET", "/dead-letters"): Operation({200: ("What could not be applied", DeadLetters)}, (503,)),
    ("POST", "/dead-letters/{position}/replay"): Operation(
        {200: ("Replayed", ReplayedLetter)}, (400, 404, 409, 503)
    ),
    ("GET", "/overview"): Operation({200: ("What the registry is doing", Overview)}, (503,)),
    ("GET", "/health/live"): Operation({200: ("It lives", Health)}),
    ("GET", "/health/ready"): Operation({200: ("It is ready", Health), 503: ("Not yet", Health)}),
}

#: Parameters in paths.
_IN_PATH = {
    "id": {**TypeAdapter(UserId).json_schema(), "description": "Percent-encoded"},
    "position": _POSITION,
}


# -- the document


class _Schemas:
    """Schemas of types, and those of the models that they name."""

    def __init__(self) -> None:
        self.named: dict[str, _Schema] = {}

    def of(self, type_: Any, mode: Literal["validation", "serialization"]) -> _Schema:
        """Return a type's schema."""
        schema = TypeAdapter(type_).json_schema(ref_template=_REF, mode=mode)
        self.named |= schema.pop("$defs", {})
        return schema


def document(app: web.Application) -> dict[str, Any]:
    """Return the document of an application's routes."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), summary in _described(app):
        operation = _operation(OPERATIONS[method, path], path, summary, schemas)
        paths.setdefault(path, {})[method.lower()] = operation
    for name, procedure in PROCEDURES.items():
        paths[f"/trpc/{name}"] = _procedure(name, procedure, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "User registry",
            "version": version("user-registry"),
            "description": "Writes are acknowledged once they are durable, and applied after it.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.named,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # Keys are needed where the setting KEYS_FILE is; none is, too.
        "security": [{}, {"key": []}],
    }


def _described(app: web.Application) -> Iterable[tuple[tuple[str, str], str]]:
    """Yield the routes of an application that are described, each with its summary."""
    for route in app.router.routes():
        path = (route.resource.canonical if route.resource else "").replace(":.+}", "}")
        if (route.method, path) in OPERATIONS:
            yield (route.method, path), (route.handler.__doc__ or "").partition("\n")[0]


def _operation(given: Operation, path: str, summary: str, schemas: _Schemas) -> _Schema:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in _IN_PATH.items()
        if f"{{{name}}}" in path
    ]
    described: _Schema = {
        "summary": summary,
        "parameters": [*in_path, *given.parameters],
        "responses": _responses(given, schemas),
    }
    if given.body is not None:
        content = {kind: {"schema": schemas.of(t, "validation")} for kind, t in given.body.items()}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _responses(given: Operation, schemas: _Schemas) -> _Schema:
    told = {
        str(status): {
            "description": description,
            "content": {
                kind: {"schema": schemas.of(type_, "serialization")} for kind in given.content_types
            },
            **({"headers": given.headers} if given.headers else {}),
        }
        for status, (description, type_) in given.answers.items()
    }
    # A model is named only where it stands in another type.
    schemas.of(list[Problem], "serialization")
    problem = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
    for status in sorted({*given.errors, *_ERRORS_OF_ALL}):
        told[str(status)] = {"description": _DETAILS[status], "content": problem}
        if status in _RETRY_AFTER:
            told[str(status)]["headers"] = _RETRY_AFTER[status]
    return told


def _procedure(name: str, procedure: Procedure, schemas: _Schemas) -> _Schema:
    data = procedure.output.json_schema(ref_template=_REF, mode="serialization")
    schemas.named |= data.pop("$defs", {})
    result = {"type": "object", "properties": {"result": {"properties": {"data": data}}}}
    schemas.of(list[TrpcError], "serialization")
    # What fails before it is split into calls is text/plain, as tRPC's own servers have it.
    form = {"schema": {"$ref": _REF.format(model="TrpcError")}}
    error = {"application/json": form, "text/plain": form}
    described: _Schema = {
        "summary": (procedure.resolve.__doc__ or name).partition("\n")[0],
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": result}}},
            "default": {"description": "An error, by its `httpStatus`", "content": error},
        },
    }
    given = procedure.input
    if given is not None and procedure.kind == "mutation":
        body = {"application/json": {"schema": given.json_schema(ref_template=_REF)}}
        described["requestBody"] = {"required": True, "content": body}
    elif given is not None:
        content = {"application/json": {"schema": given.json_schema(ref_template=_REF)}}
        described["parameters"] = [
            {"name": "input", "in": "query", "required": procedure.needs_input, "content": content}
        ]
    return {"post" if procedure.kind == "mutation" else "get": described}


class _Described:
    """The document of an application, which is made once."""

    def __init__(self, web_app: web.Application) -> None:
        self._web_app = web_app

    @cached_property
    def document(self) -> bytes:
        """The document as JSON; where it is served is told with each answer."""
        return orjson.dumps(document(self._web_app))


_DESCRIBED = web.AppKey("described", _Described)


def install(web_app: web.Application) -> None:
    """Let the routes of an application be described, once somebody asks."""
    web_app[_DESCRIBED] = _Described(web_app)


@routes.get("/openapi.json")
async def get_openapi(request: web.Request) -> web.Response:
    """Describe this interface."""
    servers = orjson.dumps({"servers": [{"url": base_url(request)}]})
    return json(servers[:-1] + b"," + request.app[_DESCRIBED].document[1:])


#: Swagger UI writes styles into its elements, and shows icons that stand in its stylesheet.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@routes.get("/docs")
async def get_docs(_: web.Request) -> web.Response:
    """Show the description of this interface, to be read and tried out."""
    return page(rendering.docs(), headers={"Content-Security-Policy": _DOCS_POLICY})
