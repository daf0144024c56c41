"""The Node peers of the bench, on a real broker: what they acknowledge stands in the topic."""

import json
import uuid
from collections.abc import Iterator, Sequence

import pytest
import requests
from confluent_kafka import Message

from app.domain.keys import partition_of
from bench.engines import Place, Running
from bench.servers import LIBRDKAFKA_PEER, NODE_PEER, TUNED_NODE_PEER, Server
from bench.workloads import PARTITIONS
from local.broker import Broker
from tests.support import kafka

#: What the benchmarks compare with is no promise of this registry's.
pytestmark = pytest.mark.soak

#: The shortest and the longest id, and such as no hash of 32-bit words takes by accident.
IDS = ("a", "x" * 128, "ada", "Ünïcode €", "😀", *(f"user-{number}" for number in range(95)))


PEERS = {peer.name: peer for peer in (NODE_PEER, TUNED_NODE_PEER, LIBRDKAFKA_PEER)}


@pytest.fixture(scope="module", params=list(PEERS))
def server(request: pytest.FixtureRequest) -> Server:
    """Return each peer in turn."""
    return PEERS[request.param]


@pytest.fixture(scope="module")
def place(server: Server, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a place with a topic of its own."""
    name = f"{server.name}-{uuid.uuid4().hex[:8]}"
    return Place(broker.address, name, "", name, tmp_path_factory.mktemp("peer") / name)


@pytest.fixture(scope="module")
def peer(server: Server, place: Place) -> Iterator[Running]:
    """Run the peer."""
    with server.running(place) as running:
        yield running


def user(user_id: str, **change: str) -> dict[str, str]:
    """Return a registration."""
    return {"id": user_id, "name": "Ada King", "email": "ada@example.com"} | change


def register(peer: Running, *users: dict[str, str]) -> requests.Response:
    """Send a batch of registrations."""
    path = ",".join(["registerUser"] * len(users))
    body = dict(enumerate(users))
    return requests.post(f"{peer.url}/trpc/{path}?batch=1", json=body, timeout=15)


def records(place: Place, positions: Sequence[str]) -> list[Message]:
    """Return the records at some positions."""
    found = kafka.read_all(place.brokers, place.topic)
    at = {"{}:{}".format(*kafka.place(message)): message for message in found}
    return [at[position] for position in positions]


def users_of(found: Sequence[Message]) -> list[dict[str, str]]:
    """Return the registrations that are some records."""
    return [json.loads(message.value() or b"") for message in found]


def test_says_hello(peer: Running) -> None:
    answer = requests.get(f"{peer.url}/trpc/hello", timeout=15)
    assert answer.json() == {"result": {"data": "Hello tRPC!"}}


def test_a_single_registration_stands_where_its_answer_says(peer: Running, place: Place) -> None:
    sent = user(uuid.uuid4().hex)
    answer = requests.post(f"{peer.url}/trpc/registerUser", json=sent, timeout=15)
    told = answer.json()["result"]["data"]
    assert (told["status"], told["id"]) == ("success", sent["id"])
    assert users_of(records(place, [told["position"]])) == [sent]


def test_a_batch_stands_where_its_answers_say_and_a_tuned_peer_sends_it_at_once(
    server: Server, peer: Running, place: Place
) -> None:
    users = list(map(user, IDS))
    told = [call["result"]["data"]["position"] for call in register(peer, *users).json()]
    found = records(place, told)
    assert users_of(found) == users
    partitions = [kafka.place(message)[0] for message in found]
    assert partitions == [partition_of(user_id.encode(), PARTITIONS) for user_id in IDS]
    if server is TUNED_NODE_PEER:
        # kafkajs reads the clock once for each partition of a send.
        moments = {(kafka.place(message)[0], message.timestamp()) for message in found}
        assert len(moments) == len(set(partitions))


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "x" * 129},
        {"id": "line\nend"},
        {"name": ""},
        {"name": "x" * 257},
        {"email": "nonsense"},
        {"email": f"{'x' * 250}@example.com"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_is_no_registration_is_refused(peer: Running, wrong: dict[str, str]) -> None:
    answers = register(peer, user("good"), user("other") | wrong)
    assert answers.status_code == 207
    good, bad = answers.json()
    assert good["result"]["data"]["status"] == "success"
    assert bad["error"]["data"]["httpStatus"] == 400
