"""Both lanes read HTTP alike, as RFC 9112 and RFC 9110 want it."""

import gzip
import re
from collections.abc import AsyncIterator

import pytest
from backports import zstd

from tests.component.lanes import both_lanes
from tests.component.test_fast_lane import ADA, Place, answer_to, connected

pytestmark = pytest.mark.usefixtures("any_host")

Lanes = tuple[Place, Place]

WRITE, READ = b"POST /users", b"GET /users/here-1.~_"
LENGTH = b"Content-Length: %d\r\n" % len(ADA)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ADA), ADA)


@pytest.fixture
async def lanes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lanes]:
    async with both_lanes(monkeypatch) as both:
        yield both


def request(
    begin: bytes,
    headers: bytes = b"",
    *,
    host: bytes = b"Host: registry\r\n",
    version: bytes = b" HTTP/1.1",
    length: bytes = LENGTH,
    body: bytes = ADA,
) -> bytes:
    """Return a write, or a lookup, with something odd about it."""
    more = b"" if begin.startswith(b"GET") else b"Content-Type: application/json\r\n" + length
    sent = b"" if begin.startswith(b"GET") else body
    return b"%b%b\r\n%b%b%b\r\n%b" % (begin, version, host, headers, more, sent)


HOSTS: dict[bytes, bool] = {
    **dict.fromkeys([b"a", b"a.example:80", b"127.0.0.1:6066", b"[::1]:6066", b"a:", b"%41"], True),
    **dict.fromkeys([b"", b":80", b"a b", b"a/b", b"u@a", b"a:x", b"a:99999", b"[::1"], False),
    **dict.fromkeys([b"[x]", b"::1", b"a?b", b"a#b", b"<a>", b"\xc3\xbc", b"a%4", b"a\\b"], False),
}

#: Of a lookup and a write alike: what is sent, and the status that both answer (0: done).
BOTH: dict[str, tuple[dict[str, bytes], int]] = {
    **{f"host {host!r}": ({"host": b"Host: %b\r\n" % host}, 0 if is_one else 400)
       for host, is_one in HOSTS.items()},
    "no host": ({"host": b""}, 400),
    "two hosts": ({"host": b"Host: a\r\nHost: a\r\n"}, 400),
    "no host in HTTP/1.0": ({"host": b"", "version": b" HTTP/1.0"}, 0),
    "a blank before the colon": ({"headers": b"User-Agent : x\r\n"}, 400),
    "a folded line": ({"headers": b"User-Agent: x\r\n y\r\n"}, 400),
    "a bare LF": ({"headers": b"User-Agent: x\n"}, 400),
    "a bare CR": ({"headers": b"User-Agent: x\ry\r\n"}, 400),
    "NUL": ({"headers": b"User-Agent: x\0y\r\n"}, 400),
    "a control character": ({"headers": b"User-Agent: x\x01y\r\n"}, 400),
    "no name": ({"headers": b": y\r\n"}, 400),
    "no header": ({"headers": b"abc\r\n"}, 400),
    "many headers": ({"headers": b"".join(b"X-%d: y\r\n" % i for i in range(300))}, 400),
    "a header of 8 KiB": ({"headers": b"User-Agent: %b\r\n" % (b"a" * 8_192)}, 400),
    "an unknown expectation": ({"headers": b"Expect: x\r\n"}, 417),
    "the last request": ({"headers": b"Connection: close\r\n"}, 0),
    "HTTP/1.0": ({"version": b" HTTP/1.0"}, 0),
    "HTTP/0.9": ({"version": b""}, 505),
    "HTTP/2.0": ({"version": b" HTTP/2.0"}, 505),
    "HTTP/1.2": ({"version": b" HTTP/1.2"}, 400),
    "a fragment": ({"version": b"#x HTTP/1.1"}, 400),
    "chunks in HTTP/1.0": (
        {"version": b" HTTP/1.0", "length": b"Transfer-Encoding: chunked\r\n", "body": CHUNKED,
         "headers": b"X: y\r\n"},
        400,
    ),
}  # fmt: skip

LENGTHS: dict[bytes, int] = {
    LENGTH + b"Content-Length: 1\r\n": 400,
    LENGTH + LENGTH: 400,
    b"Content-Length: 56, 56\r\n": 400,
    b"Content-Length: +56\r\n": 400,
    b"Content-Length: -1\r\n": 400,
    b"Content-Length: 5_6\r\n": 400,
    b"Content-Length: 0x38\r\n": 400,
    b"Content-Length: \r\n": 400,
    b"Content-Length: 99999999999999999999999\r\n": 400,
    LENGTH + b"Transfer-Encoding: chunked\r\n": 400,
    b"Transfer-Encoding: identity\r\n": 400,
    b"Transfer-Encoding: chunked, x\r\n": 400,
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n": 400,
    b"Content-Length:\t56\t\r\n": 202,
    b"": 400,
}

METHODS = {"PUT": 405, "TRACE": 405, "PROPFIND": 405, "QUERY": 405, "post": 400, "FOO": 400}


async def alike(lanes: Lanes, sent: bytes) -> tuple[int, bytes]:
    """Return the status and the type of the problem that both lanes answer."""
    fast, slow = [await answer_to(place, sent) for place in lanes]
    assert fast == slow
    status, _, body = fast
    problem = re.findall(rb'"urn:user-registry:problem:([a-z-]+)"', body)
    return int(status.split()[1]), problem[0] if problem else b""


@pytest.mark.parametrize("begin", [WRITE, READ], ids=["write", "read"])
@pytest.mark.parametrize(("given", "status"), BOTH.values(), ids=BOTH)
async def test_what_http_forbids_both_lanes_refuse(
    lanes: Lanes, begin: bytes, given: dict[str, bytes], status: int
) -> None:
    if "Transfer-Encoding" in str(given) and begin is READ:
        return
    told, problem = await alike(lanes, request(begin, **given))
    assert told == (status or (202 if begin is WRITE else 200))
    assert bool(problem) == (told >= 400)
    assert len(lanes[0].producer.sent) == (told == 202)


@pytest.mark.parametrize(("length", "status"), LENGTHS.items(), ids=map(repr, LENGTHS))
async def test_lengths_that_contradict_are_refused(
    lanes: Lanes, length: bytes, status: int
) -> None:
    told, _ = await alike(lanes, request(WRITE, length=length))
    assert (told, len(lanes[0].producer.sent)) == (status, status == 202)


@pytest.mark.parametrize(("method", "status"), METHODS.items())
async def test_methods_are_the_same_in_both_lanes(lanes: Lanes, method: str, status: int) -> None:
    assert (await alike(lanes, request(method.encode() + b" /users")))[0] == status


@pytest.mark.parametrize(
    "begin", [b"POST http://b?x", b"POST http://b/users", b"POST ftp://b/users"]
)
async def test_a_target_may_have_a_host(lanes: Lanes, begin: bytes) -> None:
    statuses = {b"POST http://b?x": 405, b"POST http://b/users": 202, b"POST ftp://b/users": 400}
    assert (await alike(lanes, request(begin)))[0] == statuses[begin]


async def test_the_whole_server_tells_its_methods(lanes: Lanes) -> None:
    for place in lanes:
        status, headers, _ = await answer_to(place, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status == b"HTTP/1.1 204 No Content"
        assert headers["Allow"] == "GET, HEAD, POST, PATCH, DELETE, OPTIONS"


async def test_the_host_of_the_target_counts(lanes: Lanes) -> None:
    for place in lanes:
        sent = request(b"GET http://b.example:81/register", host=b"Host: a b\r\n")
        assert (await answer_to(place, sent))[0].endswith(b"200 OK")
        sent = request(b"GET http://b.example:99999/register")
        assert (await answer_to(place, sent))[0].endswith(b"400 Bad Request")


async def test_after_a_request_that_may_hide_another_the_connection_ends(lanes: Lanes) -> None:
    sent = request(
        *(WRITE, b"Connection: keep-alive\r\n"),
        version=b" HTTP/1.0",
        length=b"Transfer-Encoding: chunked\r\n",
        body=CHUNKED,
    )
    for place in lanes:
        async with connected(place) as (reader, writer):
            writer.write(sent)
            assert (await reader.read()).startswith(b"HTTP/1.0 400 ")


TWICE = {
    "a parameter": (b"GET /users?limit=1&limit=2", b"", "limit"),
    "the same value": (b"DELETE /users?id=a&id=a", b"", "id"),
    "without a value": (b"GET /users?a&x=1&a", b"", "a"),
    "another spelling": (b"GET /users?id=a&i%64=b", b"", "id"),
    "of a write": (b"POST /users?wait=1&wait=2", b"Content-Type: application/json\r\n", "wait"),
    "in a target with a host": (b"GET http://b/users?id=a&id=b", b"", "id"),
    "a field of a form": (
        b"POST /register",
        b"Content-Type: application/x-www-form-urlencoded\r\n",
        "name",
    ),
}


@pytest.mark.parametrize(("begin", "kind", "name"), TWICE.values(), ids=TWICE)
async def test_what_is_there_twice_is_refused_by_its_name(
    lanes: Lanes, begin: bytes, kind: bytes, name: str
) -> None:
    body = b"id=a&name=b&email=a%40b.c&name=c" if b"form" in kind else b"{}" if kind else b""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    sent = b"%b HTTP/1.1\r\nHost: a\r\n%b%b\r\n%b" % (begin, kind, length, body)
    fast, slow = [await answer_to(place, sent) for place in lanes]
    assert fast == slow
    assert fast[0] == b"HTTP/1.1 400 Bad Request"
    assert f"There is more than one '{name}': send it once.".encode() in fast[2]
    assert not lanes[0].producer.sent


async def test_of_a_long_name_not_all_is_repeated(lanes: Lanes) -> None:
    name = b"n" * 4_000
    sent = b"GET /users?%b&%b HTTP/1.1\r\nHost: a\r\n\r\n" % (name, name)
    assert len((await answer_to(lanes[0], sent))[2]) < 300


PACKED: dict[str, tuple[bytes, bytes, int]] = {
    "gzip": (b"gzip", gzip.compress(b"[" + ADA + b"]"), 202),
    "gzip by its old name": (b"X-GZIP", gzip.compress(b"[" + ADA + b"]"), 202),
    "zstd": (b"zstd", zstd.compress(b"[" + ADA + b"]"), 202),
    "identity": (b"identity", b"[" + ADA + b"]", 202),
    "nothing": (b"", b"[" + ADA + b"]", 202),
    "what is not packed": (b"gzip", b"[" + ADA + b"]", 400),
    "what is packed otherwise": (b"zstd", gzip.compress(b"[" + ADA + b"]"), 400),
    "a bomb": (b"zstd", zstd.compress(bytes(100 << 20)), 413),
    "another coding": (b"br", b"x", 415),
    "two codings": (b"gzip, zstd", b"x", 415),
    "two headers": (b"identity\r\nContent-Encoding: gzip\r\nContent-Encoding: gzip", b"x", 415),
}


@pytest.mark.parametrize(("coding", "body", "status"), PACKED.values(), ids=PACKED)
async def test_packed_bodies_are_the_same_in_both_lanes(
    lanes: Lanes, coding: bytes, body: bytes, status: int
) -> None:
    headers = b"Content-Encoding: %b\r\n" % coding
    length = b"Content-Length: %d\r\n" % len(body)
    sent = request(b"POST /users/batch", headers, length=length, body=body)
    assert (await alike(lanes, sent))[0] == status
    assert len(lanes[0].producer.sent) == (status == 202)


async def test_a_single_write_is_taken_unpacked_only_and_the_answer_says_so(lanes: Lanes) -> None:
    body = gzip.compress(ADA)
    length = b"Content-Length: %d\r\n" % len(body)
    for path in (b"/users", b"/trpc/registerUser"):
        sent = request(b"POST " + path, b"Content-Encoding: gzip\r\n", length=length, body=body)
        fast, slow = [await answer_to(place, sent) for place in lanes]
        assert fast == slow
        assert fast[0] == b"HTTP/1.1 415 Unsupported Media Type"
        assert fast[1]["Accept-Encoding"] == "identity"
