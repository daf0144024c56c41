"""Claims of email addresses and their verdicts, pure: the earliest claim wins.

Users wait for emails, never emails for users. The row of the address answers a claim at its place
in ``email-claims``, whatever happened to the users since.
"""

from collections.abc import Callable
from typing import Literal, cast

import orjson
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from app.domain.compact import dumps
from app.domain.records import UserId


@with_config(ConfigDict(strict=True, extra="ignore"))
class Claim(TypedDict):
    """A record of ``email-claims``, under an email key: a claim or a release of an attempt."""

    type: Literal["claim", "release"]
    id: UserId
    #: The position of the record that asked for the address. It is only compared for equality.
    attempt: str


@with_config(ConfigDict(strict=True, extra="ignore"))
class Verdict(TypedDict):
    """A record of ``email-decisions`` under a user's id: the verdict on an attempt."""

    email_key: str
    attempt: str
    verdict: Literal["granted", "taken"]
    #: The position of the claim in ``email-claims``.
    at: str


class Holder(TypedDict):
    """A row of the table ``emails`` under an email key: who holds the address, by which attempt."""

    id: str
    attempt: str


#: Return the content of a record's value, or raise `pydantic.ValidationError`.
read_claim = cast("Callable[[bytes], Claim]", TypeAdapter(Claim).validator.validate_json)
read_verdict = cast("Callable[[bytes], Verdict]", TypeAdapter(Verdict).validator.validate_json)


def encode_claim(kind: Literal["claim", "release"], user_id: str, attempt: str) -> bytes:
    """Return a claim or release as a record's value."""
    return dumps({"type": kind, "id": user_id, "attempt": attempt})


def encode_verdict(email_key: bytes, attempt: str, verdict: str, at: str) -> bytes:
    """Return a verdict as a record's value."""
    return dumps(
        {"email_key": email_key.decode(), "attempt": attempt, "verdict": verdict, "at": at}
    )


def encode_holder(holder: Holder) -> bytes:
    """Return a row of ``emails``."""
    return dumps(holder)


def decode_holder(stored: bytes) -> Holder:
    """Return the holder in a row of ``emails``."""
    return cast(Holder, orjson.loads(stored))


def settle(
    holder: Holder | None, claim: Claim
) -> tuple[Holder | None, Literal["granted", "taken"] | None]:
    """Return the holder of the address after a claim or release, and the verdict on a claim."""
    mine: Holder = {"id": claim["id"], "attempt": claim["attempt"]}
    if claim["type"] == "release":
        return (None if holder == mine else holder), None
    if holder is None or holder["id"] == claim["id"]:
        return mine, "granted"
    return holder, "taken"
