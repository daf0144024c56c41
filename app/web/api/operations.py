"""The HTTP operations: what each takes and answers.

Bodies are the types that validate them. Statuses, headers and parameters are only in the code of
the handlers, and are repeated here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from app.domain.positions import PATTERN
from app.domain.records import (
    Email,
    Erasure,
    OutcomeOfWrite,
    PositionToken,
    SentRegistration,
    SentUpdate,
    User,
    UserId,
)
from app.web.api.many import FoundUsers, Wanted
from app.web.api.models import (
    Accepted,
    BatchReport,
    Change,
    DeadLetters,
    Health,
    NewestUsers,
    Overview,
    Receipt,
    ReplayedLetter,
    Sent,
    UserCount,
    UserPage,
)
from app.web.http.conditions import VERSION

Schema = dict[str, Any]

_POSITION = TypeAdapter(PositionToken).json_schema()
_SECONDS = {"type": "integer"}
#: By status: whether every answer has it, or only some problems.
RETRY_AFTER = {
    status: {"Retry-After": {"schema": _SECONDS, "required": always}}
    for status, always in ((409, False), (429, True), (503, True))
}
_LOCATION = {"Location": {"schema": {"type": "string"}}}

DETAILS = {
    400: "Malformed",
    401: "No key, or an unknown one",
    403: "The key may not do this",
    404: "Not found",
    408: "The body did not come in time",
    409: "Rejected: the id or the address is taken, or too many changes of the user wait (then it "
    "has `Retry-After`); or the letter may not be replayed",
    412: "Rejected: the user is not in the state that `If-Match` names",
    413: "Too large",
    415: "Another content type is needed, or another content coding: `Accept-Encoding` has them",
    421: "The request names another host than this worker's",
    422: "Not valid",
    429: "This client has written, or read, more than it may",
    503: "The broker or a table cannot be reached, or too much waits; `outcome-unknown`: the write "
    "may be durable, and can safely be sent again; `outcome-open`: the write may be stored even "
    "later, look before you send it again; `stale-request`: the request waited for too long, and "
    "nothing was written",
}


@dataclass(frozen=True, slots=True)
class Lines:
    """An answer of any length: a value in each line (NDJSON)."""

    of: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operation takes, and what it answers by status. Common errors are added later."""

    answers: Mapping[int, tuple[str, Any]]
    errors: Sequence[int] = ()
    body: Mapping[str, Any] | None = None
    parameters: Sequence[Schema] = ()
    headers: Mapping[str, Any] | None = None
    #: The content types of answers that are text of any length.
    content_types: Sequence[str] = ("application/json",)
    #: What a body may be beside that.
    body_description: str = ""


def _query(name: str, schema: Mapping[str, Any], description: str) -> Schema:
    return {"name": name, "in": "query", "schema": dict(schema), "description": description}


def _header(name: str, schema: Mapping[str, Any], description: str) -> Schema:
    return {"name": name, "in": "header", "schema": dict(schema), "description": description}


_PREFER = _header(
    "Prefer", {"type": "string"}, "`wait=5`: answer once the write is settled, or 5 s are over."
)
_IF_MATCH = _header(
    "If-Match",
    {"type": "string", "pattern": f'^("{VERSION}-{PATTERN}"|[*])$'},
    "The `ETag` of a lookup: nothing changes if the user has changed since.",
)
_IF_NONE_MATCH = _header(
    "If-None-Match", {"type": "string"}, "The `ETag` of an earlier lookup: 304 if it is the same."
)
_ETAG = {"ETag": {"schema": {"type": "string"}}}
_AFTER = _query("after", _POSITION, "As it is once the write at this position is settled.")
_RECEIPTS = _query(
    "receipts", {"type": "string", "enum": ["0", "1"]}, "`1`: answer each row with a line."
)
_PREFIX = _query("prefix", {"type": "string", "maxLength": 128}, "How listed ids begin.")
_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Users in a page.")
_CURSOR = _query("cursor", {"type": "string"}, "`next` of the page before.")
_FORMAT = _query("format", {"type": "string", "enum": ["ndjson", "csv"]}, "`ndjson` if not said.")
_ID = _query("id", TypeAdapter(UserId).json_schema(), "The id, where a path cannot hold it.")
_NEEDED_ID = {**_ID, "required": True}
#: Errors of any request: a repeated parameter, a key, a host, a rate.
ERRORS_OF_ALL = (400, 401, 403, 421, 429)
_WRITTEN = (400, 408, 409, 413, 415, 422, 429, 503)
_CHANGED = (404, 412, *_WRITTEN)
_WIPED = (400, 409, 412, 422, 429, 503)

_WRITE_ANSWERS = {
    200: ("Settled", User | Accepted | Sent),
    201: ("Registered", User | Sent),
    202: ("Durable", Accepted),
}
_CHANGE_ANSWERS = {200: ("Settled", User | Accepted | Sent), 202: ("Durable", Accepted)}
_PATCH_BODY = {"application/json": Change, "application/merge-patch+json": Change}
_ERASED = {200: ("Erased", Accepted), 202: ("Durable", Accepted)}

SentRow = SentRegistration | SentUpdate | Erasure
_UNCHANGED = ("The user is as `If-None-Match` says", None)

#: By method and path. Routes for people, for other workers and for files are not here.
OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/users"): Operation(
        _WRITE_ANSWERS, _WRITTEN, {"application/json": SentRegistration}, (_PREFER,), _LOCATION
    ),
    ("POST", "/users/batch"): Operation(
        {
            200: ("A receipt for each row, if they are asked for", Lines(Receipt)),
            202: ("What became of the rows", BatchReport),
        },
        _WRITTEN,
        {"application/json": list[SentRow], "application/x-ndjson": str},
        (_RECEIPTS,),
        body_description="May be packed: `Content-Encoding: gzip` or `zstd`.",
    ),
    ("POST", "/users/lookup"): Operation(
        {200: ("The users, in order; null for nobody", FoundUsers)},
        (400, 408, 413, 415, 422, 429, 503),
        {"application/json": Wanted},
    ),
    ("PATCH", "/users/{id}"): Operation(
        _CHANGE_ANSWERS, _CHANGED, _PATCH_BODY, (_PREFER, _IF_MATCH), _LOCATION
    ),
    ("PATCH", "/users"): Operation(
        _CHANGE_ANSWERS, _CHANGED, _PATCH_BODY, (_NEEDED_ID, _PREFER, _IF_MATCH), _LOCATION
    ),
    ("DELETE", "/users/{id}"): Operation(_ERASED, _WIPED, None, (_PREFER, _IF_MATCH)),
    ("DELETE", "/users"): Operation(_ERASED, _WIPED, None, (_NEEDED_ID, _PREFER, _IF_MATCH)),
    ("GET", "/users/{id}"): Operation(
        {200: ("The user", User), 304: _UNCHANGED},
        (400, 404, 503),
        None,
        (_AFTER, _IF_NONE_MATCH),
        _ETAG,
    ),
    ("GET", "/users"): Operation(
        {200: ("A page of users, or the one who is named", User | UserPage), 304: _UNCHANGED},
        (400, 404, 422, 503),
        None,
        (
            _ID,
            _query("email", TypeAdapter(Email).json_schema(), "The address of one user."),
            _PREFIX,
            _LIMIT,
            _CURSOR,
            _AFTER,
            _IF_NONE_MATCH,
        ),
        _ETAG,
    ),
    ("GET", "/export"): Operation(
        {200: ("All users, one a line; cut off if it cannot be completed", str)},
        (400, 503),
        None,
        (_FORMAT, _PREFIX),
        content_types=("application/x-ndjson", "text/csv"),
    ),
    ("GET", "/counts"): Operation(
        {200: ("How many users there are", UserCount)}, (400, 503), None, (_AFTER,)
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
IN_PATH = {
    "id": {**TypeAdapter(UserId).json_schema(), "description": "Percent-encoded"},
    "position": _POSITION,
}
