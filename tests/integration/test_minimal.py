"""The example in stock Faust does what its first lines say, on a real broker."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest
import requests

from local.broker import Broker
from local.machine import free_port
from tests.support import kafka
from tests.support.documents import ROOT, outside
from tests.support.worker import wait_until

TOPIC = "minimal-registrations"
READY_SECONDS = 60
APPLIED_SECONDS = 30


@pytest.fixture(scope="module")
def url(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the example."""
    folder = tmp_path_factory.mktemp("minimal")
    port = str(free_port())
    command = [sys.executable, "examples/minimal.py", "--datadir", str(folder / "data")]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "worker", "--web-port", port],
            cwd=ROOT,
            env=outside() | {"KAFKA_BROKERS": broker.address},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(READY_SECONDS)


def look_up(url: str, user_id: str) -> Any:
    """Return a user; None while there is none, or nobody answers."""
    with suppress(requests.ConnectionError):
        answer = requests.get(f"{url}/users/{user_id}/", timeout=10)
        if answer.status_code == 200:
            return answer.json()
    return None


def test_what_is_produced_is_found(broker: Broker, url: str) -> None:
    user = {"id": f"user-{uuid.uuid4()}", "name": "Ada", "email": "ada@example.com"}
    other = user | {"name": "Eve"}
    key = orjson.dumps(user["id"])
    records = [{"key": key, "value": orjson.dumps(value)} for value in (user, other)]
    wait_until(lambda: has_answered(url), READY_SECONDS, "the example answers")
    wait_until(lambda: is_there(broker), READY_SECONDS, "the topic is there")
    kafka.produce(broker.address, TOPIC, records, partitioner="murmur2_random")
    found = wait_until(lambda: look_up(url, user["id"]), APPLIED_SECONDS, "the user is found")
    assert found == user


def test_what_is_sent_over_http_is_found(url: str) -> None:
    user = {"id": f"user-{uuid.uuid4()}", "name": "Grace", "email": "grace@example.com"}
    wait_until(lambda: has_answered(url), READY_SECONDS, "the example answers")
    told = requests.post(f"{url}/users/", json=user, timeout=READY_SECONDS)
    assert (told.status_code, told.json()) == (202, {"status": "accepted"})
    assert wait_until(lambda: look_up(url, user["id"]), APPLIED_SECONDS, "it is found") == user


def has_answered(url: str) -> bool:
    """Return whether somebody answers."""
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/users/nobody/", timeout=10).status_code in {404, 500, 503}
    return False


def is_there(broker: Broker) -> bool:
    """Return whether the example has made its topic."""
    return bool(kafka.copies(broker.address, TOPIC))
