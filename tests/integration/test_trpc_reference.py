"""What tRPC's own server, version 11, answers to odd requests, a real worker answers, too."""

import subprocess
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import product
from typing import Any

import orjson
import pytest

from tests.support import node_toolbox
from tests.support.worker import Worker, email_of

USER = {"id": f"reference-{uuid.uuid4().hex}", "name": "Ada"}
USER["email"] = email_of(USER["id"])

JSON = {"Content-Type": "application/json"}
JSONL = {"trpc-accept": "application/jsonl"}

PATHS = [
    "",
    "hello",
    "hello/",
    "hello//",
    "hello%20",
    "hello%2",
    "%",
    "%FF",
    "nope",
    "toString",
    "__proto__",
    "hello,hello",
    "hello,hello?batch=true",
    "hello,hello?batch=1",
    "hello%2Chello?batch=1",
    "hello?batch=1",
    "hello?batch=%31",
    "hello?batch=1&batch=2",
    ",?batch=1",
    "hello,nope?batch=1",
    "nope,nope?batch=1",
    "hello?input=%7B",
    "hello,userByEmail?batch=1&input=%7B",
    "userByEmail",
    "userByEmail?input=null",
    "userByEmail?input=%22x%22",
    "userByEmail?batch=1",
    "userByEmail?batch=1&input=",
    "userByEmail?batch=1&input=[]",
    "userByEmail,hello?batch=1&input=7",
    "registerUser",
    "registerUser?batch=1",
    "registerUser,registerUser?batch=1",
    "registerUser,nope?batch=1",
    "registerUser,hello?batch=1",
    ",".join(["hello"] * 1001) + "?batch=1",
]
BODIES = [
    b"",
    b"{",
    b"{}",
    b"[]",
    b"7",
    b"null",
    b'"text"',
    b'{"0":null}',
    orjson.dumps(USER),
    orjson.dumps({"0": USER}),
    orjson.dumps({"1": USER}),
    orjson.dumps({"0": USER, "1": {}}),
    orjson.dumps({"0": {"id": ""}, "1": {"id": ""}}),
    orjson.dumps({"0": USER | {"name": "x" * 2**20}, "1": USER}),
]
#: How clients ask for a stream, or seem to.
ACCEPTING: list[dict[str, str]] = [
    {},
    JSONL,
    {"Accept": "application/jsonl"},
    {"Accept": "text/html;q=0.5, application/jsonl"},
    {"Accept": "application/jsonl;q=0.5"},
    {"Accept": "application/jsonl", "trpc-accept": "application/json"},
]
#: What a request without JSON says of itself.
OTHERS = [{"Content-Type": "text/plain"}, {"Content-Type": "application/json-patch+json"}, {}]

#: What errors say here, and not in tRPC's own server.
OURS = ("reason", "errors", "retryAfter")

Request = tuple[str, str, bytes, dict[str, str]]

REQUESTS: list[Request] = [
    *(("GET", path, b"", headers) for path, headers in product(PATHS, ACCEPTING)),
    *(("GET", path, b"", {"Content-Type": "text/plain"}) for path in PATHS),
    # HEAD and OPTIONS are answered as on all routes: docs/decisions/trpc.md.
    *(("DELETE", path, b"", {}) for path in PATHS),
    *((method, path, b"{}", JSON) for method, path in product(["PUT", "PATCH"], PATHS)),
    *(("POST", path, b"{}", headers) for path, headers in product(PATHS, OTHERS)),
    *(("POST", path, body, JSON) for path, body in product(PATHS[-6:-1], BODIES)),
    *(("POST", path, body, JSON | JSONL) for path, body in product(PATHS[-5:-1], BODIES)),
    ("POST", "registerUser", orjson.dumps(USER), {"Content-Type": "APPLICATION/Json; charset=x"}),
]


@pytest.fixture(scope="module")
def reference() -> Iterator[int]:
    """Run tRPC's server; return its port."""
    script = node_toolbox.install_node_packages() / "trpc_server.mjs"
    with subprocess.Popen(
        [node_toolbox.node(), script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        yield int(running.stdout.readline())
        running.communicate(timeout=10)


def answer(server: HTTPConnection, request: Request) -> tuple[object, ...]:
    """Return of an answer what a client goes by."""
    method, path, body, headers = request
    server.request(method, f"/trpc/{path}", body or None, headers)
    told = server.getresponse()
    # Theirs has Allow on streams that have begun well, too, if a first call of them is not allowed.
    names = ("Content-Type", "Vary", "Allow") if told.status != 200 else ("Content-Type", "Vary")
    return told.status, [told.getheader(name) for name in names], meaning(told.read())


def meaning(body: bytes) -> object:
    """Return what a body means, whatever words it says it in."""
    if body.startswith(b'{"0":[['):
        head, *lines = map(orjson.loads, body.splitlines())
        chunks = {chunk: value for chunk, _, value in lines}
        return {index: comparable(resolved(value, chunks)) for index, value in head.items()}
    return comparable(orjson.loads(body)) if body else None


def resolved(value: list[Any], chunks: dict[int, Any]) -> Any:
    """Return a value of a stream with the values that came later."""
    (data, *_), *later = value
    for key, _, chunk in later:
        found = resolved(chunks[chunk], chunks)
        data = found if key is None else {**data, key: found}
    return data


def comparable(told: Any) -> Any:
    """Return envelopes without data, and without the words for what is wrong with an input."""
    if isinstance(told, list):
        return [comparable(one) for one in told]
    if "result" in told:
        return "result"
    error = told["error"]
    about_input = error["message"].startswith(("[", "Unsupported content-type"))
    is_own = about_input or "JSON" in error["message"] or error["data"]["httpStatus"] in (400, 413)
    data = {name: value for name, value in error["data"].items() if name not in OURS}
    return error["code"], data, None if is_own else error["message"]


def test_odd_requests_are_answered_as_by_the_reference(worker: Worker, reference: int) -> None:
    theirs = HTTPConnection("127.0.0.1", reference, timeout=10)
    ours = HTTPConnection("127.0.0.1", worker.port, timeout=10)
    differing = [
        (request, wanted, got)
        for request in REQUESTS
        if (wanted := answer(theirs, request)) != (got := answer(ours, request))
    ]
    theirs.close()
    ours.close()
    assert not differing, f"{len(differing)} of {len(REQUESTS)}: {differing[0]}"
