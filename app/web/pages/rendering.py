"""Renders the pages as HTML. It knows no web framework."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.domain.counts import MAX_DAYS, Count
from app.domain.records import CHANGEABLE, REQUIRED

#: The default address in the commands on the pages.
DEFAULT_BASE_URL: Final = "http://127.0.0.1:6066"

_EXAMPLE: Final = {"id": "ada", "name": "Ada Lovelace", "email": "ada@example.com"}


@dataclass(frozen=True, slots=True)
class UserCard:
    """A user as the pages show it; ``url`` is the user's own page."""

    id: str
    name: str
    email: str
    status: str
    registered_at: datetime
    updated_at: datetime
    version: int
    position: str
    url: str
    #: The other members of the user, by label.
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CauseRow:
    """A cause of dead letters: how many, and when the oldest and the newest came."""

    cause: str
    count: int
    oldest: datetime
    newest: datetime

    @property
    def replay_command(self) -> str:
        """The command that replays all of them. Any producer may have named the cause."""
        where = shlex.quote(f"cause={self.cause}")
        return f"python -m app dead-letters replay --where {where}"


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A dead letter as its page shows it, without the content."""

    position: str
    topic: str
    cause: str
    detail: str
    time: datetime
    bytes: int
    #: The name of the access key that it was written with.
    by: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a replay on the page: the new record, or why it was refused."""

    position: str
    replayed_as: str | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class LastWrite:
    """The last write of a user; ``outcome`` is None if it is not kept any more."""

    position: str
    outcome: str | None


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of the form, and what the browser must know about it."""

    name: str
    label: str
    hint: str
    max_characters: int
    autocomplete: str
    # Not `type=email`: browsers refuse international addresses, which are legal here.
    input_mode: Literal["text", "email"] = "text"

    @property
    def is_required(self) -> bool:
        """Whether every registration has it."""
        return self.name in REQUIRED

    @property
    def max_length(self) -> int:
        """The longest legal value in UTF-16 units, as browsers count: an emoji has two.

        A tighter limit would cut legal values silently. The server reports values that are too
        long.
        """
        return 2 * self.max_characters


#: One field for each member of a registration.
FIELDS: Final = (
    _Field("id", "Id", "Up to 128 characters. It is permanent: choose with care.", 128, "username"),
    _Field("name", "Name", "As it should be shown, in any script.", 256, "name"),
    _Field(
        "email", "Email", "Such as ada@example.com; international ones too.", 254, "email", "email"
    ),
)

#: Those that an update may change.
CHANGEABLE_FIELDS: Final = tuple(each for each in FIELDS if each.name in CHANGEABLE)

_NEXT_STEPS: Final[Mapping[int, str]] = {
    400: "Check the address, or look the user up from the home page.",
    403: "Open the form on this site and send it from there.",
    404: "Check the address, or start again from the home page.",
    413: "Go back, shorten what you entered, and send it again.",
    422: "Go back, correct what you entered, and send it again.",
    429: "Wait a moment, then go back and try again.",
    500: "Go back and try again; if it keeps happening, tell the people who run this registry.",
    503: "Wait a moment, then go back and try again.",
}
_NEXT_STEPS_BY_NAME: Final[Mapping[str, str]] = {
    "forbidden": "Log out, and log in with a key that may do this.",
    "too-many-pending": "Wait a moment, then go back and try again.",
}
_NEXT_STEP: Final = "Go back and try again, or start from the home page."


def _utc(moment: datetime) -> str:
    """Return a time for people, independent of the locale of the process."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"


#: The path below which proxies show the pages. It is put before all our addresses.
PREFIX: ContextVar[str] = ContextVar("prefix", default="")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["utc"] = _utc
    environment.globals["at"] = PREFIX.get
    return environment


_PAGES: Final = _environment()

#: The token that forms carry if a person is logged in.
FORM_TOKEN: ContextVar[str | None] = ContextVar("form_token", default=None)


def _page(template: str, **shown: object) -> str:
    return _PAGES.get_template(template).render(shown, form_token=FORM_TOKEN.get())


@dataclass(frozen=True, slots=True)
class UsersPlot:
    """How many users there are, and those of the last days: each a day, users, a share of top."""

    users: int
    top: int
    bars: Sequence[tuple[date, int, float]]

    @classmethod
    def of(cls, count: Count, today: date) -> Self:
        """Return the plot of the days up to today."""
        days = [today - timedelta(days=back) for back in reversed(range(MAX_DAYS))]
        users = [count.days.get(day.isoformat(), 0) for day in days]
        top = max(*users, 1)
        bars = [(day, some, some / top) for day, some in zip(days, users, strict=True)]
        return cls(count.users, top, bars)


def home(
    latest: Sequence[UserCard],
    unavailable: Sequence[str] = (),
    base_url: str = DEFAULT_BASE_URL,
    plot: UsersPlot | None = None,
) -> str:
    """Return the first page: a search, the latest registrations, or how to make the first one.

    ``unavailable`` names the workers that did not answer: the list may lack their users. Without a
    plot it is not known now how many users there are.
    """
    command = _registering_command(base_url)
    return _page("home.html", latest=latest, unavailable=unavailable, command=command, users=plot)


def register(values: Mapping[str, str], errors: Mapping[str, str], problem: str | None) -> str:
    """Return the form with the values that were entered, and the mistakes."""
    return _page("register.html", fields=FIELDS, values=values, errors=errors, problem=problem)


def users(
    found: Sequence[UserCard],
    prefix: str,
    next_url: str | None,
    *,
    is_first: bool = True,
    base_url: str = DEFAULT_BASE_URL,
) -> str:
    """Return a page of the list of users whose ids begin with a prefix; "" lists all."""
    return _page(
        "users.html",
        found=found,
        prefix=prefix,
        next_url=next_url,
        is_first=is_first,
        command=_registering_command(base_url),
    )


def user(
    user: UserCard,
    banner: str | None,
    base_url: str = DEFAULT_BASE_URL,
    last: LastWrite | None = None,
    *,
    may_edit: bool = False,
    may_erase: bool = False,
) -> str:
    """Return the page of a user, below a banner if there is one.

    ``last`` is None if the last write is unknown now. The page leads to what its reader may do.
    """
    headers = " ".join(["-H 'Accept: application/json'", *_authorization()])
    command = f"curl {headers} {shlex.quote(base_url + user.url)}"
    return _page(
        "user.html",
        user=user,
        banner=banner,
        command=command,
        last=last,
        may_edit=may_edit,
        may_erase=may_erase,
    )


def edit(user: UserCard, values: Mapping[str, str], errors: Mapping[str, str]) -> str:
    """Return the form that changes a user, with the values that were entered, and the mistakes."""
    return _page("edit.html", user=user, fields=CHANGEABLE_FIELDS, values=values, errors=errors)


def erase(user: UserCard) -> str:
    """Return the page that asks whether a user is to be erased."""
    return _page("erase.html", user=user)


def erased(id: str) -> str:
    """Return the page that says that a user is erased."""
    return _page("erased.html", id=id)


def accepted(id: str, position: str, refresh_url: str, refreshes: bool = True) -> str:
    """Return the page that waits for a write to be settled, and then shows the user."""
    return _page(
        "accepted.html", id=id, position=position, refresh_url=refresh_url, refreshes=refreshes
    )


def login(next: str, problem: str | None) -> str:
    """Return the login form. It leads to the address ``next``."""
    return _page("login.html", next=next, problem=problem)


def not_found(id: str | None, banner: str | None = None) -> str:
    """Return the page for an unknown id, perhaps with a reason."""
    return _page("not_found.html", id=id, banner=banner)


def dead_letters(
    causes: Sequence[CauseRow],
    letters: Sequence[LetterRow],
    truncated: bool,
    replayed: Replayed | None = None,
) -> str:
    """Return the page of dead letters: the number of each cause, and the newest letters.

    At the top it shows the result of a replay, if there was one.
    """
    return _page(
        "dead_letters.html",
        causes=causes,
        letters=letters,
        truncated=truncated,
        replayed=replayed,
    )


def docs() -> str:
    """Return the page that shows the description of the interface."""
    return _page("docs.html")


def problem(status: int, title: str, detail: str, name: str = "") -> str:
    """Return the page of an error, with what to do next."""
    next_step = _NEXT_STEPS_BY_NAME.get(name) or _NEXT_STEPS.get(status, _NEXT_STEP)
    return _page("problem.html", status=status, title=title, detail=detail, next_step=next_step)


def _registering_command(base_url: str) -> str:
    return " \\\n  ".join(
        [
            f"curl -X POST {shlex.quote(base_url + '/users')}",
            *_authorization(),
            "-H 'Content-Type: application/json'",
            f"-d {shlex.quote(json.dumps(_EXAMPLE))}",
        ]
    )


def _authorization() -> list[str]:
    """Return what a command line needs if callers need keys."""
    return [] if FORM_TOKEN.get() is None else ['-H "Authorization: Bearer $REGISTRY_KEY"']
