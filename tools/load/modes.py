"""The modes of sending: the bytes of a request, and the meaning of its answer."""

import gzip
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import orjson
from backports import zstd

from tools.load.options import Coding, Mode, Options
from tools.load.registrations import template

#: Statuses that acknowledge a registration.
_ACKNOWLEDGED = (202, 200, 201)
#: Statuses that reject a registration as wrong. All others refuse it.
_REJECTED = (400, 409, 422)
#: tRPC's status of a batch whose calls have different ones.
_SEVERAL = 207


#: What compresses, by the content coding; the level is what a client in a hurry takes.
_COMPRESS: Mapping[Coding, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=1, mtime=0),
    "zstd": zstd.compress,
}


class Requests:
    """Makes requests by writing numbers into prepared bytes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._by_size: dict[int, tuple[bytes, bytes]] = {}

    def make(self, numbers: Sequence[int]) -> bytes:
        """Return a request with these registrations."""
        head, template = self._parts(len(numbers))
        # Each number stands twice in its row.
        body = template % tuple([each for each in numbers for _ in (0, 1)])
        if self._options.compress is not None:
            body = _COMPRESS[self._options.compress](body)
        return head % len(body) + body

    def _parts(self, size: int) -> tuple[bytes, bytes]:
        if size not in self._by_size:
            self._by_size[size] = _head(self._options, size), _body(self._options, size)
        return self._by_size[size]


def _head(options: Options, size: int) -> bytes:
    """Return the head of a request, but for the length of its body."""
    target = options.target
    content_type = "application/x-ndjson" if options.mode == "ndjson" else "application/json"
    lines = [
        f"POST {target.path}{_path(options, size)} HTTP/1.1",
        f"Host: {target.host_header}",
        f"Content-Type: {content_type}",
    ]
    if options.compress is not None:
        lines.append(f"Content-Encoding: {options.compress}")
    if options.key is not None:
        lines.append(f"Authorization: Bearer {options.key}")
    head = "\r\n".join(lines).encode().replace(b"%", b"%%")
    return head + b"\r\nContent-Length: %d\r\n\r\n"


def _path(options: Options, size: int) -> str:
    if options.mode == "trpc":
        batched = "?batch=1" if options.batch > 1 else ""
        return f"/trpc/{','.join(['registerUser'] * size)}{batched}"
    return "/users" if options.mode == "single" else "/users/batch"


def _body(options: Options, size: int) -> bytes:
    row = template(options.prefix, options.name_bytes)
    if options.mode == "ndjson":
        return (row + b"\n") * size
    if options.mode == "batch":
        return b"[" + b",".join([row] * size) + b"]"
    if options.mode == "trpc" and options.batch > 1:
        return b"{" + b",".join(b'"%d":' % index + row for index in range(size)) + b"}"
    return row


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a request's registrations.

    Acknowledged ones by index, the number of rejected ones, and refused ones by status.
    """

    acknowledged: Sequence[int] = ()
    rejected: int = 0
    refused: Mapping[int, int] = field(default_factory=dict)


Read = Callable[[int, bytes, int], Verdict]


def reader(mode: Mode) -> Read:
    """Return the function that reads the answers of a mode."""
    return {"single": _read_one, "trpc": _read_trpc}.get(mode, _read_batch)


@cache
def _all(size: int) -> Verdict:
    return Verdict(range(size))


def _read_one(status: int, _body: bytes, size: int) -> Verdict:
    if status in _ACKNOWLEDGED:
        return _all(size)
    return _not_one(status, size)


def _not_one(status: int, size: int) -> Verdict:
    return Verdict(rejected=size) if status in _REJECTED else Verdict(refused={status: size})


def _read_trpc(status: int, body: bytes, size: int) -> Verdict:
    calls = _json(body, list) if status == _SEVERAL else None
    if calls is None or len(calls) != size:
        return _read_one(status, body, size)
    statuses = list(map(_status, calls))
    others = Counter(each for each in statuses if each not in _ACKNOWLEDGED)
    return Verdict(
        acknowledged=[index for index, each in enumerate(statuses) if each in _ACKNOWLEDGED],
        rejected=sum(others.pop(each, 0) for each in _REJECTED),
        refused=others,
    )


def _status(call: Any) -> int:
    """Return the HTTP status of one call of a batch."""
    try:
        return 200 if "result" in call else int(call["error"]["data"]["httpStatus"])
    except (KeyError, TypeError, ValueError):
        return _SEVERAL


def _read_batch(status: int, body: bytes, size: int) -> Verdict:
    """Read the answer of ``POST /users/batch``.

    Also in a failed request, the rows before ``settled_rows`` are settled.
    """
    told = _json(body, dict)
    done = status in _ACKNOWLEDGED
    if done and (told is None or told.get("accepted") == size):
        return _all(size) if told else Verdict(refused={status: size})
    settled = size if done else _whole(told or {}, "settled_rows")
    if not settled:
        return _not_one(status, size)
    return _settled(told or {}, settled, {} if done else {status: size - settled})


def _settled(told: Mapping[str, Any], settled: int, refused: Mapping[int, int]) -> Verdict:
    listed = {_whole(row, "index") for row in told.get("rejected", ()) if isinstance(row, dict)}
    good = [index for index in range(settled) if index not in listed]
    # Only the first rejected rows are listed.
    good = good[: _whole(told, "accepted")]
    return Verdict(good, settled - len(good), refused)


def _whole(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name, 0)
    return value if isinstance(value, int) else 0


def _json(body: bytes, kind: type) -> Any:
    """Return the value in a body if it has a type, else None."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return told if isinstance(told, kind) else None
