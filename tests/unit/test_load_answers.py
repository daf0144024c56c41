"""What `load` makes of answers."""

import pytest

from tools.load.connection import Answer, kind_of, retry_seconds
from tools.load.modes import Verdict, reader
from tools.load.options import Mode

OVER = b'{"error":{"data":{"httpStatus":503}}}'
WRONG = b'{"error":{"data":{"httpStatus":400}}}'
GOOD = b'{"result":{"data":{}}}'


def verdict(
    acknowledged: list[int], rejected: int = 0, refused: dict[int, int] | None = None
) -> Verdict:
    return Verdict(acknowledged, rejected, refused or {})


@pytest.mark.parametrize(
    ("mode", "status", "body", "size", "expected"),
    [
        ("single", 202, b"", 1, verdict([0])),
        ("single", 201, b"", 1, verdict([0])),
        ("single", 422, b"", 1, verdict([], 1)),
        ("single", 409, b"", 1, verdict([], 1)),
        ("single", 503, b"", 1, verdict([], 0, {503: 1})),
        ("single", 302, b"", 1, verdict([], 0, {302: 1})),
        ("trpc", 200, b"", 1, verdict([0])),
        ("trpc", 200, b"[]", 3, verdict([0, 1, 2])),
        ("trpc", 400, b"", 2, verdict([], 2)),
        ("trpc", 429, b"", 2, verdict([], 0, {429: 2})),
        ("trpc", 207, b"[%b,%b,%b]" % (GOOD, OVER, WRONG), 3, verdict([0], 1, {503: 1})),
        ("trpc", 207, b"[%b]" % GOOD, 2, verdict([], 0, {207: 2})),
        ("trpc", 207, b"[7,{}]", 2, verdict([], 0, {207: 2})),
        ("batch", 202, b'{"accepted":2,"rejected":[]}', 2, verdict([0, 1])),
        ("batch", 200, b'{"accepted":2,"rejected":[{"index":1}]}', 3, verdict([0, 2], 1)),
        ("batch", 202, b"what?", 3, verdict([], 0, {202: 3})),
        ("batch", 202, b"{}", 3, verdict([], 3)),
        ("batch", 413, b"", 3, verdict([], 0, {413: 3})),
        ("batch", 400, b"{}", 3, verdict([], 3)),
        ("ndjson", 503, b'{"accepted":4,"settled_rows":2}', 5, verdict([0, 1], 0, {503: 3})),
        (
            "ndjson",
            503,
            b'{"accepted":1,"settled_rows":2,"rejected":[{"index":0}]}',
            5,
            verdict([1], 1, {503: 3}),
        ),
    ],
)
def test_an_answer_tells_what_is_acknowledged(
    mode: Mode, status: int, body: bytes, size: int, expected: Verdict
) -> None:
    told = reader(mode)(status, body, size)
    assert (list(told.acknowledged), told.rejected, dict(told.refused)) == (
        expected.acknowledged,
        expected.rejected,
        expected.refused,
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([b"HTTP/1.1 503 X\r\nRetry-After: 2\r\n\r\n"], "2"),
        ([b"HTTP/1.1 503 X\r\nA: b\r\nretry-af", b"ter:  7 \r\n\r\nbody"], "7"),
        ([b"HTTP/1.1 503 X\r\nA: b\r\n\r\nRetry-After: 2\r\n"], None),
    ],
)
def test_retry_after_is_found_in_headers(raw: list[bytes], said: str | None) -> None:
    assert Answer(503, b"", raw).retry_after() == said


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, 1), ("0", 0), ("2", 2), ("86400", 30), ("Mon, 01 Jan 2035 00:00:00 GMT", 1), ("²", 1)],
)
def test_a_retry_waits_as_told_within_a_limit(said: str | None, seconds: float) -> None:
    assert retry_seconds(said) == seconds


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "connection-closed"),
        (ConnectionRefusedError(), "connection-refused"),
        (ConnectionResetError(), "connection-reset"),
        (BrokenPipeError(), "connection-reset"),
        (TimeoutError(), "time-out"),
        (OSError(), "unreachable"),
    ],
)
def test_errors_have_a_kind(error: Exception | None, kind: str) -> None:
    assert kind_of(error) == kind
