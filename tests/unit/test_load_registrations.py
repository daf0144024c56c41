"""What `load` sends: registrations that are valid, unique, and repeated exactly where asked."""

import httptools
import orjson
import pytest

from app.config.target import Target, TargetError
from app.domain.records import read_registration
from tools.load.modes import Requests
from tools.load.options import LoadError, Options
from tools.load.registrations import Numbers, id_of, template


class Parsed:
    """A request as a server reads it."""

    def __init__(self, data: bytes) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.is_complete = False
        httptools.HttpRequestParser(self).feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_complete = True


def made(count: int = 3, **options: object) -> Parsed:
    given = Options(url="http://127.0.0.1:6066", prefix="p", **options)  # type: ignore[arg-type]
    return Parsed(Requests(given).make(range(count)))


def row(number: int) -> dict[str, str]:
    user_id = f"p-{number:012d}"
    return {"id": user_id, "name": "Ada King", "email": f"{user_id}@example.com"}


def test_numbers_are_unique_without_duplicates() -> None:
    numbers = Numbers(0, seed=0)
    assert [*numbers.take(3), *numbers.take(2)] == [0, 1, 2, 3, 4]


def test_a_share_of_numbers_repeats_earlier_ones() -> None:
    taken = Numbers(0.25, seed=1).take(10_000)
    fresh = list(dict.fromkeys(taken))
    assert fresh == list(range(len(fresh)))
    assert 0.22 < 1 - len(fresh) / len(taken) < 0.28


def test_all_duplicates_are_of_the_first() -> None:
    assert set(Numbers(1, seed=1).take(100)) == {0}


def test_the_same_seed_repeats_the_same() -> None:
    assert Numbers(0.5, seed=7).take(100) == Numbers(0.5, seed=7).take(100)
    assert Numbers(0.5, seed=7).take(100) != Numbers(0.5, seed=8).take(100)


@pytest.mark.parametrize("name_bytes", [1, 8, 256])
@pytest.mark.parametrize("prefix", ["p", "x" * 51, "-_-"])
def test_registrations_are_valid(prefix: str, name_bytes: int) -> None:
    number = 10**12 - 1
    registration = read_registration(template(prefix, name_bytes) % (number, number))
    assert registration["id"] == id_of(prefix, number)
    assert registration["email"] == f"{id_of(prefix, number)}@example.com"
    assert len(registration["name"]) == name_bytes


def test_a_single_request_has_one_registration() -> None:
    request = made(1)
    assert (request.url, request.is_complete) == (b"/users", True)
    assert request.headers == {
        b"Host": b"127.0.0.1:6066",
        b"Content-Type": b"application/json",
        b"Content-Length": b"%d" % len(request.body),
    }
    assert orjson.loads(request.body) == row(0)


def test_a_batch_is_an_array() -> None:
    request = made(mode="batch")
    assert (request.url, request.is_complete) == (b"/users/batch", True)
    assert orjson.loads(request.body) == [row(0), row(1), row(2)]


def test_ndjson_has_a_line_each() -> None:
    request = made(mode="ndjson")
    assert (request.url, request.is_complete) == (b"/users/batch", True)
    assert request.headers[b"Content-Type"] == b"application/x-ndjson"
    assert [orjson.loads(line) for line in request.body.splitlines()] == [row(0), row(1), row(2)]


def test_a_trpc_batch_names_each_call() -> None:
    request = made(mode="trpc")
    assert request.url == b"/trpc/registerUser,registerUser,registerUser?batch=1"
    assert orjson.loads(request.body) == {"0": row(0), "1": row(1), "2": row(2)}


def test_a_trpc_batch_may_have_one_call_that_is_left() -> None:
    request = made(1, mode="trpc")
    assert request.url == b"/trpc/registerUser?batch=1"
    assert orjson.loads(request.body) == {"0": row(0)}


def test_a_trpc_call_without_batch_is_bare() -> None:
    request = made(1, mode="trpc", batch=1)
    assert request.url == b"/trpc/registerUser"
    assert orjson.loads(request.body) == row(0)


def test_a_key_is_sent_as_it_is() -> None:
    assert made(1, key="100%d%%").headers[b"Authorization"] == b"Bearer 100%d%%"


def test_an_address_may_have_a_path() -> None:
    options = Options(url="https://[::1]/a%20b/")
    assert options.target == Target("::1", 443, "[::1]", "/a%20b", is_tls=True)
    assert Parsed(Requests(options).make([0])).url == b"/a%20b/users"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:6066",
        "ftp://a",
        "http://",
        "http://a:x",
        "http://a:99999",
        "http://[a",
        "http://u:p@a",
        "http://a/?q",
        "http://a/#f",
        "http://a/b c",
        "http://ä",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TargetError, match="is no address of a registry") as raised:
        _ = Options(url=url).target
    assert "u:p" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"prefix": "a%d"}, "the prefix must be"),
        ({"prefix": "x" * 52}, "the prefix must be"),
        ({"key": "a\r\nX: y"}, "the key must be"),
        ({"key": ""}, "the key must be"),
        ({"rate": float("nan")}, "must be finite numbers"),
        ({"duration": float("inf")}, "must be finite numbers"),
        ({"duration": 1, "registrations": 1}, "not by both"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises((LoadError, TargetError), match=why):
        Options(url="http://a", **wrong)  # type: ignore[arg-type]


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Options(url="http://a", key="secret"))
