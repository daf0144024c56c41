"""Batches of `registerUser` as clients send them, read and answered in one go.

What is not as plain in any way is none: `calls` reads it, and tells what is wrong with it.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import orjson
from aiohttp import web
from pydantic import ValidationError

from app.domain.errors import RegistryError
from app.domain.records import Registration, validated
from app.web.http.problems import from_error
from app.web.trpc.answers import batch

_BEGIN, _END = b"/trpc/registerUser", b"?batch=1"

#: What a call came to, in the bytes that `answers.envelope` would make of it.
REGISTERED = b'{"result":{"data":{"status":"success","id":%b,"position":"%b"}}}'


def is_batch(url: bytes) -> bool:
    """Return whether a URL may be that of such a batch."""
    return url.startswith(_BEGIN) and url.endswith(_END)


def registrations_in(url: bytes, body: bytes, max_calls: int) -> list[Registration] | None:
    """Return the inputs of the calls; None if they are not all registrations, or too many."""
    calls = url.count(b",") + 1
    if calls > max_calls or url != _url(calls):
        return None
    try:
        given = orjson.loads(body)
        # As many as there are calls, in their order.
        if isinstance(given, dict) and tuple(given) == _names(calls):
            return validated([*given.values()])
    except (orjson.JSONDecodeError, ValidationError):
        pass
    return None


@lru_cache(maxsize=256)
def _url(calls: int) -> bytes:
    return b"/trpc/%b%b" % (b",".join([b"registerUser"] * calls), _END)


@lru_cache(maxsize=256)
def _names(calls: int) -> Sequence[str]:
    return tuple(map(str, range(calls)))


def registered(user_ids: Iterable[str], positions: Iterable[str]) -> bytes:
    """Return the body of an answer that tells where all of them are."""
    told = zip(map(orjson.dumps, user_ids), map(str.encode, positions), strict=True)
    return b"[%b]" % b",".join([REGISTERED % each for each in told])


def told(user_ids: Iterable[str], positions: Iterable[str | RegistryError]) -> web.Response:
    """Return the answer where some of them failed."""
    data = [
        from_error(position)
        if isinstance(position, RegistryError)
        else {"status": "success", "id": user_id, "position": position}
        for user_id, position in zip(user_ids, positions, strict=True)
    ]
    return batch(data, ["registerUser"] * len(data))
