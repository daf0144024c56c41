"""The tRPC procedures: inputs, outputs, and what they do.

A procedure gets all its calls of a request at once, by their index, so that many registrations are
one write. It answers each call as soon as it can.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, NotRequired

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field, SkipValidation, TypeAdapter, with_config
from typing_extensions import TypedDict

from app.domain.errors import RegistryError
from app.domain.positions import Position
from app.domain.records import (
    CHANGEABLE,
    NOTHING_CHANGES,
    SOMETHING_CHANGES,
    CommandValue,
    Condition,
    Email,
    Erasure,
    OutcomeOfWrite,
    PositionToken,
    SentName,
    SentRegistration,
    Update,
    User,
    UserId,
    Whole,
    read_commands,
)
from app.query.listing import MAX_PREFIX, Wanted, id_before
from app.web.api.models import UserCount, WrongField
from app.web.auth.auditing import audited
from app.web.http.preferences import after, wait_seconds
from app.web.http.problems import ProblemError, from_error
from app.web.http.room import SHOWN, USER_BYTES, hold, turn
from app.web.http.tracing import note_acknowledged
from app.web.outcomes import rejected, unknown_position, unknown_user
from app.web.services import services
from app.web.trpc.answers import why

Kind = Literal["query", "mutation"]

#: Takes the index of a call and its result: data that `orjson` encodes, or a `ProblemError`.
Tell = Callable[[int, object], None]

#: Answers calls with valid inputs, by index. It may raise only before the first answer.
Resolve = Callable[[web.Request, Mapping[int, Any], Tell], Awaitable[None]]

#: Answers one call.
ResolveOne = Callable[[web.Request, Any], Awaitable[object]]

#: How many users `listUsers` returns by default.
PAGE_USERS = 50
#: The most users that the calls of one request may list together.
MAX_LISTED_USERS = 1_000
#: The most users that one call registers.
MAX_ROWS = 1_000

_STRICT = ConfigDict(strict=True, extra="ignore")


@with_config(_STRICT)
class ById(TypedDict):
    """Which user: the one with an id."""

    id: UserId


@with_config(_STRICT)
class ByEmail(TypedDict):
    """Which user: the one who holds an address."""

    email: Email


@with_config(_STRICT)
class Page(TypedDict):
    """Which users: those whose ids begin with a prefix, the next ones after a cursor."""

    prefix: NotRequired[Annotated[str, Field(max_length=MAX_PREFIX)]]
    limit: NotRequired[Annotated[int, Field(ge=1, le=100), Whole]]
    cursor: NotRequired[str | None]
    #: Infinite queries send it. Only forward is possible.
    direction: NotRequired[Literal["forward"]]


class Registered(TypedDict):
    """What a registration came to; ``outcome`` is there if the client wanted to wait for it."""

    status: Literal["success"]
    id: str
    position: str
    outcome: NotRequired[Literal["pending", "registered", "replayed", "moved"]]


#: Rows, each of which is validated by itself.
Registrations = Annotated[
    list[SkipValidation[SentRegistration]], Field(min_length=1, max_length=MAX_ROWS)
]


class WhyNot(TypedDict):
    """Why a row was not written, as the error of a call says it."""

    reason: str
    message: str
    errors: NotRequired[list[WrongField]]
    retryAfter: NotRequired[int]


class Receipt(TypedDict):
    """What came of a row: its position, or why it was not written."""

    id: NotRequired[str]
    position: NotRequired[str]
    error: NotRequired[WhyNot]


@with_config(ConfigDict(**_STRICT, json_schema_extra=SOMETHING_CHANGES))
class UserChange(Condition):
    """A new name, a new address or both; with a version, only of a user who has it."""

    id: UserId
    name: NotRequired[SentName]
    email: NotRequired[Email]


@with_config(_STRICT)
class UserErasure(Condition):
    """Who is erased; with a version, only if the user has it."""

    id: UserId


class Changed(TypedDict):
    """What a change came to; ``outcome`` is there if the client wanted to wait for it."""

    status: Literal["success"]
    id: str
    position: str
    outcome: NotRequired[Literal["pending", "updated", "erased", "moved"]]


@with_config(_STRICT)
class AtPosition(TypedDict):
    """Which write: the one at a position."""

    position: PositionToken


class Users(TypedDict):
    """Users in the order of their ids; the last page has no cursor."""

    items: list[User]
    nextCursor: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Procedure:
    """A procedure: whether it reads or writes, what it takes, what it returns, what it does."""

    kind: Kind
    resolve: Resolve
    #: None if it takes no input. An input is ignored then.
    input: TypeAdapter[Any] | None
    output: TypeAdapter[Any]
    #: Validates the inputs of many calls at once.
    inputs: TypeAdapter[Any] | None
    #: Whether a call needs an input. If all its members are optional, it does not.
    needs_input: bool = False


def each(resolve: ResolveOne) -> Resolve:
    """Return a function that answers many calls at once, from one that answers one call."""

    async def answer(request: web.Request, index: int, given: Any, tell: Tell) -> None:
        try:
            tell(index, await resolve(request, given))
        except Exception as error:
            tell(index, from_error(error))

    @wraps(resolve)
    async def resolve_all(request: web.Request, calls: Mapping[int, Any], tell: Tell) -> None:
        await together(answer(request, index, given, tell) for index, given in calls.items())

    return resolve_all


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines at the same time. A single one needs no task."""
    coroutines = list(work)
    if len(coroutines) == 1:
        await coroutines[0]
    else:
        await asyncio.gather(*coroutines)


async def hello(_: web.Request, calls: Mapping[int, Any], tell: Tell) -> None:
    """Say hello."""
    for index in calls:
        tell(index, "Hello tRPC!")


async def register_user(request: web.Request, calls: Mapping[int, Any], tell: Tell) -> None:
    """Register users: each answer comes after the broker's acknowledgement.

    With ``Prefer: wait=`` it comes once the registration is settled, and says so.
    """
    seconds = wait_seconds(request)
    told = (await services(request).write_all([*calls.values()])).told()
    note_acknowledged(request, *(one for one in told if isinstance(one, str)))
    waiting: dict[int, tuple[str, Position]] = {}
    for (index, command), position in zip(calls.items(), told, strict=True):
        if isinstance(position, RegistryError):
            tell(index, from_error(position))
        elif seconds:
            waiting[index] = command["id"], Position.parse(position)
        else:
            tell(index, {"status": "success", "id": command["id"], "position": position})
    if waiting:
        await _settle_each(request, waiting, tell)


async def update_user(request: web.Request, change: UserChange) -> object:
    """Change a user: the answer comes after the broker's acknowledgement.

    With ``Prefer: wait=`` it comes once the change is settled, and says so.
    """
    if change.keys().isdisjoint(CHANGEABLE):
        raise ProblemError(400, "invalid", NOTHING_CHANGES[0].detail, NOTHING_CHANGES)
    user_id = change["id"]
    position = await _written(request, user_id, Update(type="update", **change))
    return await _changed(request, user_id, position)


async def erase_user(request: web.Request, wanted: UserErasure) -> object:
    """Erase a user: the answer comes after the broker's acknowledgement.

    With ``Prefer: wait=`` it comes once the erasure is settled, and says so.
    """
    user_id = wanted["id"]
    with audited(request, "erasure", user_id) as noted:
        position = await _written(request, user_id, Erasure(type="erase", **wanted))
        noted["position"] = position.token()
        return await _changed(request, user_id, position)


async def _written(request: web.Request, user_id: str, command: CommandValue) -> Position:
    position = await services(request).write(user_id, command)
    note_acknowledged(request, position.token())
    return position


async def _changed(request: web.Request, user_id: str, position: Position) -> object:
    if wait_seconds(request):
        return await _settled(request, (user_id, position))
    return {"status": "success", "id": user_id, "position": position.token()}


async def register_users(request: web.Request, rows: list[object]) -> object:
    """Register up to 1,000 users: a receipt for each, after the broker's acknowledgement.

    A bad row costs only itself.
    """
    async with turn(request):
        good, wrong = read_commands(rows, only_registrations=True)
    told = iter((await services(request).write_all(good, len(wrong))).told())
    commands = iter(good)
    return [
        _why_not(ProblemError(400, "invalid", "The row is not valid.", wrong[index]))
        if index in wrong
        else _receipt(next(commands)["id"], next(told))
        for index in range(len(rows))
    ]


def _receipt(user_id: str, came: str | RegistryError) -> Mapping[str, object]:
    if isinstance(came, RegistryError):
        return {"id": user_id, **_why_not(from_error(came))}
    return {"id": user_id, "position": came}


def _why_not(problem: ProblemError) -> Mapping[str, object]:
    return {"error": {"message": problem.detail, **why(problem)}}


async def _settled(request: web.Request, write: tuple[str, Position]) -> object:
    user_id, position = write
    told = await services(request).wait(position, wait_seconds(request))
    if told.outcome.reason is not None:
        raise rejected(told.outcome)
    return {
        "status": "success",
        "id": user_id,
        "position": position.token(),
        "outcome": told.outcome.word,
    }


_settle_each = each(_settled)


async def user_by_id(request: web.Request, wanted: ById) -> object:
    """Return the user under an id."""
    return _found(await services(request).lookups.find(wanted["id"], after=after(request)))


async def user_by_email(request: web.Request, wanted: ByEmail) -> object:
    """Return the user who holds an address."""
    lookups = services(request).lookups
    return _found(await lookups.find_by_email(wanted["email"], after=after(request)))


async def registration(request: web.Request, wanted: AtPosition) -> object:
    """Return what became of the write at a position.

    With ``Prefer: wait=`` the answer comes once that is settled.
    """
    position = Position.parse(wanted["position"])
    told = await services(request).lookups.outcome(position, wait_seconds(request))
    if told is None:
        raise unknown_position()
    return told.members()


def _found(user: User | None) -> object:
    if user is None:
        raise unknown_user("No such user is registered.")
    return orjson.Fragment(user.encode())


async def list_users(request: web.Request, calls: Mapping[int, Page], tell: Tell) -> None:
    """Return pages of users in the order of their ids, over all workers."""
    users, within = 0, {}
    for index, wanted in calls.items():
        users += wanted.get("limit", PAGE_USERS)
        if users <= MAX_LISTED_USERS:
            within[index] = wanted
        else:
            told = f"The calls of a request may list at most {MAX_LISTED_USERS} users together."
            tell(index, ProblemError(413, "too-large", told))
    await hold(request, SHOWN, min(users, MAX_LISTED_USERS) * USER_BYTES)
    await _list_each(request, within, tell)


async def _list(request: web.Request, wanted: Page) -> object:
    page = await services(request).lookups.page(
        Wanted(
            wanted.get("prefix", ""),
            wanted.get("limit", PAGE_USERS),
            id_before(wanted.get("cursor")),
        ),
        after=after(request),
    )
    items = [orjson.Fragment(user.encode()) for user in page.users]
    return {"items": items, "nextCursor": page.cursor()} if page.has_more else {"items": items}


_list_each = each(_list)


async def count_users(request: web.Request, calls: Mapping[int, Any], tell: Tell) -> None:
    """Return how many users there are, in all and by day: one count for all calls."""
    told: object
    try:
        told = (await services(request).lookups.count(after=after(request))).members()
    except RegistryError as error:
        told = from_error(error)
    for index in calls:
        tell(index, told)


def _procedure(kind: Kind, resolve: Resolve, takes: Any, returns: Any) -> Procedure:
    given = TypeAdapter(takes)
    schema = given.json_schema()
    needs_input = schema["type"] != "object" or "required" in schema
    several = TypeAdapter(list[takes])
    return Procedure(kind, resolve, given, TypeAdapter(returns), several, needs_input)


PROCEDURES: Mapping[str, Procedure] = {
    "hello": Procedure("query", hello, None, TypeAdapter(str), None),
    "userById": _procedure("query", each(user_by_id), ById, User),
    "userByEmail": _procedure("query", each(user_by_email), ByEmail, User),
    "listUsers": _procedure("query", list_users, Page, Users),
    "countUsers": Procedure("query", count_users, None, TypeAdapter(UserCount), None),
    "registration": _procedure("query", each(registration), AtPosition, OutcomeOfWrite),
    "registerUser": _procedure("mutation", register_user, SentRegistration, Registered),
    "registerUsers": _procedure("mutation", each(register_users), Registrations, list[Receipt]),
    "updateUser": _procedure("mutation", each(update_user), UserChange, Changed),
    "eraseUser": _procedure("mutation", each(erase_user), UserErasure, Changed),
}
