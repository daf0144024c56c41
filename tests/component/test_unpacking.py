"""Bodies that are packed: what they hold counts, and how much of it is unpacked has limits."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import orjson
import pytest
from aiohttp import ClientResponse
from backports import zstd
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.web.http import bodies, room, unpacking
from app.web.http.problems import ProblemError
from tests.component.conftest import Client
from tests.component.fakes import FakeProducer

Pack = Callable[[bytes], bytes]

PACK: Mapping[str, Pack] = {"gzip": gzip.compress, "zstd": zstd.compress}
each_coding = pytest.mark.parametrize("coding", list(PACK))

JSON, NDJSON = "application/json", "application/x-ndjson"
MIB = 1024 * 1024
#: A frame that tells readers to step over it.
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def row(number: int) -> bytes:
    return orjson.dumps({"id": f"u{number}", "name": "A", "email": f"u{number}@example.com"})


def rows(count: int) -> bytes:
    return b"".join(row(number) + b"\n" for number in range(count))


async def post(
    client: Client, coding: str, body: object, kind: str = NDJSON, path: str = "/users/batch"
) -> ClientResponse:
    headers = {"Content-Type": kind, "Content-Encoding": coding}
    return await client.post(path, data=body, headers=headers)


async def told(answer: ClientResponse) -> tuple[int, str]:
    """Return the status and the type of a problem."""
    return answer.status, (await answer.json())["type"].rpartition(":")[2]


def cut(body: bytes, places: Iterable[int]) -> Sequence[bytes]:
    """Return the parts of a body that is cut at some places."""
    ends = [*sorted({min(place, len(body)) for place in places}), len(body)]
    return [body[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]


async def one_by_one(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def unpack(coding: str, parts: Iterable[bytes]) -> bytes:
    pieces = unpacking.unpacked(one_by_one(parts), unpacking.CODINGS[coding])
    return b"".join([piece async for piece in pieces])


# -- what is taken


@each_coding
async def test_arrays_and_lines_are_taken_packed(
    client: Client, producer: FakeProducer, coding: str
) -> None:
    array = b"[" + b",".join(map(row, range(300))) + b"]"
    for body, kind in ((array, JSON), (rows(3_000), NDJSON)):
        answer = await post(client, coding, PACK[coding](body), kind)
        assert (answer.status, (await answer.json())["rejected"]) == (202, [])
    assert len(producer.sent) == 3_300


@each_coding
async def test_batches_of_trpc_are_taken_packed(client: Client, coding: str) -> None:
    body = PACK[coding](b'{"0":%b,"1":%b}' % (row(0), row(1)))
    path = "/trpc/registerUser,registerUser?batch=1"
    answer = await post(client, coding, body, JSON, path)
    assert [call["result"]["data"]["id"] for call in await answer.json()] == ["u0", "u1"]
    refused = await post(client, "br", body, JSON, path)
    assert (refused.status, refused.headers["Accept-Encoding"]) == (415, "gzip, zstd")


@each_coding
async def test_a_stream_longer_than_any_body_is_taken_packed(
    client: Client, producer: FakeProducer, coding: str
) -> None:
    async def members() -> AsyncIterator[bytes]:
        for begin in range(0, 20_000, 500):
            yield PACK[coding](b"".join(row(n) + b"\n" for n in range(begin, begin + 500)))

    answer = await post(client, coding, members())
    assert await answer.json() == {"accepted": 20_000, "rejected": []}
    assert len(producer.sent) == 20_000


@each_coding
async def test_a_bad_row_of_a_packed_stream_costs_only_itself(client: Client, coding: str) -> None:
    body = PACK[coding](row(0) + b"\nnone\n" + b"x" * 20_000 + b"\n" + row(1))

    async def byte_by_byte() -> AsyncIterator[bytes]:
        for at in range(len(body)):
            yield body[at : at + 1]

    answer = await post(client, coding, byte_by_byte())
    report = await answer.json()
    assert (report["accepted"], [each["index"] for each in report["rejected"]]) == (2, [1, 2])


PARTS = st.lists(st.sampled_from([b"", b"a", b"\n" * 70_000, rows(40), bytes(65_536)]), max_size=4)


@each_coding
@hypothesis_settings(max_examples=60, derandomize=True, deadline=None)
@given(held=PARTS.filter(len), places=st.lists(st.integers(0, 6_000), max_size=6))
def test_what_is_unpacked_is_the_same_however_packets_fall(
    coding: str, held: list[bytes], places: list[int]
) -> None:
    body = b"".join(map(PACK[coding], held))
    for parts in ([body], cut(body, places), cut(body, range(0, len(body), 7))):
        assert asyncio.run(unpack(coding, parts)) == b"".join(held)


def test_frames_that_are_to_be_stepped_over_are() -> None:
    body = SKIPPABLE + zstd.compress(b"a") + SKIPPABLE + zstd.compress(b"b")
    for parts in ([body], cut(body, range(len(body)))):
        assert asyncio.run(unpack("zstd", parts)) == b"ab"


# -- what is broken

BROKEN: Mapping[str, Callable[[bytes], bytes]] = {
    "without its end": lambda packed: packed[:-1],
    "without the end of a second member": lambda packed: packed + packed[:-1],
    "with the beginning of a second member": lambda packed: packed + packed[:2],
    "with something behind it": lambda packed: packed + b"something",
    "with zeros behind it": lambda packed: packed + bytes(512),
    "with other bytes": lambda packed: packed[:20] + bytes([packed[20] ^ 64]) + packed[21:],
    "that is empty": lambda _: b"",
    "that is not packed": lambda _: rows(10),
}


def checked(body: bytes) -> bytes:
    """Return a body packed with zstd, and with a checksum."""
    return zstd.compress(body, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("zstd", checked)])
async def test_a_broken_body_is_malformed(
    client: Client, producer: FakeProducer, coding: str, pack: Pack, change: Pack
) -> None:
    array = b"[" + b",".join(map(row, range(50))) + b"]"
    for body, kind in ((array, JSON), (rows(50), NDJSON)):
        answer = await post(client, coding, change(pack(body)), kind)
        assert await told(answer) == (400, "malformed")
    assert len(producer.sent) in (0, 50, 100)  # lines before the break may have been sent


@each_coding
def test_wherever_a_body_is_cut_off_it_is_malformed(coding: str) -> None:
    packed = PACK[coding](rows(20))
    for size in range(len(packed)):
        with pytest.raises(ProblemError) as caught:
            asyncio.run(unpack(coding, [packed[:size]]))
        assert caught.value.status == 400


async def test_zstd_may_not_refer_farther_back_than_http_allows(client: Client) -> None:
    def packed(window_log: int) -> bytes:
        far = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
        return far.compress(row(1)) + far.flush()

    taken = await post(client, "zstd", packed(unpacking.ZSTD_WINDOW_LOG))
    assert taken.status == 202
    assert await told(await post(client, "zstd", packed(24))) == (400, "malformed")


# -- what is not taken


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "gzip,zstd", "*", "gzip;q=1"])
async def test_an_unknown_coding_is_refused_and_the_answer_has_those_that_are_known(
    client: Client, coding: str
) -> None:
    answer = await post(client, coding, b"[]", JSON)
    assert await told(answer) == (415, "unsupported-media-type")
    assert answer.headers["Accept-Encoding"] == "gzip, zstd"


async def test_another_content_type_is_not_told_of_codings(client: Client) -> None:
    answer = await post(client, "gzip", gzip.compress(b"[]"), "text/plain")
    assert answer.status == 415
    assert "Accept-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/users", JSON),
        ("/trpc/registerUser", JSON),
        ("/register", "application/x-www-form-urlencoded"),
    ],
)
async def test_what_is_no_batch_is_taken_unpacked_only(
    client: Client, producer: FakeProducer, path: str, kind: str
) -> None:
    answer = await post(client, "gzip", gzip.compress(row(1)), kind, path)
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "identity")
    assert not producer.sent


# -- bombs


@each_coding
async def test_a_bomb_ends_as_soon_as_it_is_one(coding: str) -> None:
    packed = PACK[coding](b"\n" * 64 * MIB)
    taken = given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            for part in cut(packed, range(0, len(packed), 64)):
                taken += len(part)
                yield part

    async def unpack_all() -> None:
        nonlocal given
        async for piece in unpacking.unpacked(endless(), unpacking.CODINGS[coding]):
            assert len(piece) <= unpacking.PIECE_BYTES
            given += len(piece)

    with pytest.raises(ProblemError) as caught:
        await unpack_all()
    assert caught.value.status == 413
    assert given <= max(taken * unpacking.MAX_RATIO, unpacking.RATIO_FREE_BYTES)
    assert taken < 8_192


@each_coding
async def test_a_bomb_of_lines_is_refused_with_what_came_before_it(
    client: Client, producer: FakeProducer, coding: str
) -> None:
    packed = PACK[coding](rows(1_500)) + PACK[coding](b"\n" * 64 * MIB)
    answer = await post(client, coding, packed)
    report = await answer.json()
    assert (answer.status, report["type"].rpartition(":")[2]) == (413, "too-large")
    assert "200 times" in report["detail"]
    assert report["accepted"] == report["settled_rows"] <= len(producer.sent) == 1_500


@each_coding
async def test_an_array_may_unpack_to_the_largest_body_and_no_more(
    client: Client, coding: str
) -> None:
    for size, status in ((64 * 1024, 202), (64 * 1024 + 1, 413), (64 * MIB, 413)):
        answer = await post(client, coding, PACK[coding](b"[" + b" " * (size - 2) + b"]"), JSON)
        assert answer.status == status
        if status == 413:
            assert (await answer.json())["detail"] == "A body has at most 65536 bytes."


@each_coding
async def test_rows_that_are_alike_are_no_bomb_while_there_are_few(
    client: Client, producer: FakeProducer, coding: str
) -> None:
    same = (row(1) + b"\n") * (MIB // (len(row(1)) + 1) - 1)
    answer = await post(client, coding, PACK[coding](same))
    assert answer.status == 202
    assert len(producer.sent) == same.count(b"\n")


@each_coding
@pytest.mark.parametrize("held", [b"", b"\n" * MIB], ids=["nothing", "line ends"])
async def test_others_have_the_loop_while_a_body_is_unpacked(coding: str, held: bytes) -> None:
    packed = PACK[coding](held) * 2_000 if not held else PACK[coding](held)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    await unpack(coding, [packed])
    other.cancel()
    assert turns >= max(len(packed) // unpacking.SLICE_BYTES, len(held) // unpacking.PIECE_BYTES)


async def test_a_packed_body_counts_as_the_largest_twice(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.05)
    coming, parsed = client.app[room.COMING], client.app[room.PARSED]
    array, most = PACK["zstd"](b"[" + row(1) + b"]"), 64 * 1024
    held: list[int] = []
    all_of = bodies._all

    async def noting(*given: object) -> bytes:
        held.append(room.SIZES[room.COMING] - coming._left)
        return await all_of(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(bodies, "_all", noting)
    for coding in PACK:
        assert (await post(client, coding, PACK[coding](b"[]"), JSON)).status == 202
    assert held == [2 * most] * len(PACK)
    address = "address:127.0.0.1"
    async with coming.take(address, coming._left), parsed.take(address, parsed._left):
        refused = await post(client, "zstd", array, JSON)
        stream = await post(client, "zstd", PACK["zstd"](row(1)))
    assert (refused.status, stream.status) == (503, 503)


async def test_many_packed_bodies_of_one_client_are_taken_at_once(
    client: Client, producer: FakeProducer
) -> None:
    coming = client.app[room.COMING]
    # As much as there is by default for bodies of 1 MiB, which here have 64 KiB.
    coming._left, coming._most_of_client = 4 * MIB, 2 * MIB
    body = PACK["zstd"](b"[" + b",".join(map(row, range(100))) + b"]")
    answers = await asyncio.gather(*(post(client, "zstd", body, JSON) for _ in range(24)))
    assert [answer.status for answer in answers] == [202] * 24
    assert len(producer.sent) == 2_400
