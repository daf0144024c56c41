"""How rejections are told: to programs as a problem, to people as the first line of a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.domain.outcomes import Outcome
from app.web.http.problems import RETRY, ProblemError

#: How it is told that there is no such user.
NOBODY_UNDER_ID = "No user is registered under this id."
NOBODY_WITH_EMAIL = "No user has this email address."


@dataclass(frozen=True, slots=True)
class Rejection:
    """A status of HTTP, and the reason in words."""

    status: int
    detail: str
    #: What the page of the user says first: it may show what others have registered.
    on_page: str
    #: Whether the same write may succeed a moment later.
    passes: bool = False


#: Of every outcome that has a reason: `tests/unit/test_outcomes.py` misses none.
REJECTIONS: Final[Mapping[Outcome, Rejection]] = {
    Outcome.ID_TAKEN: Rejection(
        409,
        "This id is registered with other data.",
        "This id was registered before your request: what you see is the registration that stands.",
    ),
    Outcome.EMAIL_TAKEN: Rejection(
        409,
        "This email address belongs to another user.",
        "This email address belongs to another user, so your request was rejected.",
    ),
    Outcome.UNKNOWN_ID: Rejection(
        404,
        NOBODY_UNDER_ID,
        "There was nobody to change under this id.",
    ),
    Outcome.TOO_MANY_PENDING: Rejection(
        409,
        "Too many changes of this user wait already, so this one was not made. Send it again in a "
        "moment.",
        "Too many changes of this user were waiting, so your request was rejected. Send it again.",
        passes=True,
    ),
    Outcome.VERSION_MISMATCH: Rejection(
        412,
        "The user is not in the state that this change was for. Look it up, and decide again.",
        "The user had changed before your request, so it was rejected: what you see is the user as "
        "it is now.",
    ),
}


def unknown_user(detail: str = NOBODY_UNDER_ID) -> ProblemError:
    """Return the problem that tells that there is no such user."""
    return ProblemError(404, "unknown-user", detail)


def unknown_position() -> ProblemError:
    """Return the problem that tells that no write stands at a position."""
    return ProblemError(404, "unknown-position", "No write is known at this position.")


def rejected(outcome: Outcome) -> ProblemError:
    """Return the problem that tells why a write was rejected."""
    told = REJECTIONS[outcome]
    headers = RETRY if told.passes else {}
    return ProblemError(told.status, str(outcome.reason), told.detail, headers=headers)
