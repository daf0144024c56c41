"""Lookups from any worker while others die, stand still or leave: never is anyone denied."""

import threading
import uuid
from collections.abc import Iterator

import pytest
import requests

from app.domain.keys import partition_of
from app.query.worker_client import FORWARDED_HEADER
from app.web.api.lookups import STALE_HEADER
from local.broker import Broker
from tests.support.worker import (
    PARTITIONS,
    SHORTEST_PAUSE_SECONDS,
    Registry,
    Worker,
    email_of,
    is_fresh,
    wait_until,
)

SESSION_SECONDS = 6
#: What follows the session: joining, opening the stores, the first confirmation.
TAKEOVER_SECONDS = 6

Pair = tuple[Worker, Worker]


@pytest.fixture(scope="module")
def workers(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return two workers that soon notice that the other is gone."""
    settings = {"SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS), "STOP_GRACE_SECONDS": "1.5"}
    registry = Registry(broker.address, tmp_path_factory.mktemp("routing"), settings=settings)
    with registry.worker(1) as one, registry.worker(2) as two:
        yield one, two


@pytest.fixture
def pair(workers: Pair) -> Pair:
    """Return the two workers, ready; the first may have been ended by another test."""
    one, two = workers
    if not one.is_running:
        one.launch()
    wait_until(lambda: one.is_ready() and two.is_ready(), 30, "both are ready")
    return workers


def register(worker: Worker, user_id: str) -> dict[str, str]:
    """Register a user; return the user once that is settled."""
    command = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    answer = worker.post("/users", json=command, headers={"Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    return {**answer.json()}


def one_in_each_partition() -> list[str]:
    """Return new ids, one for each partition."""
    found: dict[int, str] = {}
    while len(found) < PARTITIONS:
        user_id = uuid.uuid4().hex
        found.setdefault(partition_of(user_id.encode(), PARTITIONS), user_id)
    return list(found.values())


def test_a_copy_answers_until_the_dead_worker_is_replaced(pair: Pair) -> None:
    one, two = pair
    ids = one_in_each_partition()
    users = {user_id: register(two, user_id) for user_id in ids}
    assert all(is_fresh(two.get(f"/users/{user_id}")) for user_id in ids)

    def has_copies() -> bool:
        asked = (two.get(f"/users/{user_id}", headers={FORWARDED_HEADER: "1"}) for user_id in ids)
        return all(answer.status_code == 200 for answer in asked)

    wait_until(has_copies, 30, "the standby has what the other worker owns")
    one.kill()
    stale: dict[str, requests.Response] = {}
    for user_id in ids:
        answer = two.get(f"/users/{user_id}")
        assert answer.status_code == 200, answer.text
        if not is_fresh(answer):
            stale[user_id] = answer
    assert 0 < len(stale) < PARTITIONS
    for user_id, answer in stale.items():
        seconds = float(answer.headers[STALE_HEADER])
        assert 0 < seconds < SESSION_SECONDS
        assert answer.json() == {**users[user_id], "stale_seconds": seconds}
        found = two.get("/users", params={"email": users[user_id]["email"]})
        assert (found.status_code, found.json()["id"]) == (200, user_id)
    # That there is nobody, no copy says.
    unknown = {user_id: two.get(f"/users/{user_id}") for user_id in one_in_each_partition()}
    refused = [answer for answer in unknown.values() if answer.status_code != 404]
    assert len(refused) == len(stale)
    assert all((a.status_code, a.headers["Retry-After"]) == (503, "1") for a in refused)

    def all_fresh() -> bool:
        return all(is_fresh(two.get(f"/users/{user_id}")) for user_id in ids)

    wait_until(all_fresh, SESSION_SECONDS + TAKEOVER_SECONDS, "the other worker took over")
    assert {two.get(f"/users/{user_id}").status_code for user_id in unknown} == {404}


def test_a_worker_that_stood_still_denies_nobody_whom_others_registered(pair: Pair) -> None:
    one, two = pair
    ids = one_in_each_partition()
    connected = {user_id: requests.Session() for user_id in ids}
    for user_id, session in connected.items():
        assert session.get(f"{one.url}/users/{user_id}", timeout=5).status_code == 404
    one.suspend()

    def all_registered() -> bool:
        return all(is_fresh(two.get(f"/users/{user_id}")) for user_id in ids)

    for user_id in ids:
        command = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
        assert two.post("/users", json=command).status_code == 202
    wait_until(all_registered, SESSION_SECONDS + TAKEOVER_SECONDS, "the other one took over")
    answers: list[requests.Response] = []

    def ask(user_id: str) -> None:
        answers.append(connected[user_id].get(f"{one.url}/users/{user_id}", timeout=30))

    # They wait in front of it when it wakes up and still believes that it owns its partitions.
    asking = [threading.Thread(target=ask, args=[user_id]) for user_id in ids]
    for thread in asking:
        thread.start()
    one.resume()
    for thread in asking:
        thread.join()
    assert len(answers) == PARTITIONS
    for session in connected.values():
        session.close()
    assert {answer.status_code for answer in answers} <= {200, 503}


def test_a_worker_that_stops_is_first_avoided_then_refuses_then_leaves(pair: Pair) -> None:
    one, two = pair
    stopped = threading.Thread(target=one.stop)
    stopped.start()

    def reasons() -> list[str]:
        told: list[str] = requests.get(f"{one.url}/health/ready", timeout=2).json().get("reasons")
        return told

    assert wait_until(reasons, 30, "it is not ready") == ["the worker is stopping"]
    # Whoever has not noticed yet is served.
    command = {"id": uuid.uuid4().hex, "name": "Ada", "email": "ada@example.com"}
    answer = requests.post(f"{one.url}/users", json=command, timeout=5)
    assert answer.status_code == 202
    refused: list[requests.Response] = []

    def refuses() -> bool:
        try:
            refused.append(requests.post(f"{one.url}/users", json=command, timeout=5))
        except requests.ConnectionError:
            return True
        return refused[-1].status_code == 503

    wait_until(refuses, 30, "it refuses, or is gone", SHORTEST_PAUSE_SECONDS)
    assert [a.status_code for a in refused[:-1]] == [202] * (len(refused) - 1)
    assert refused[-1].json()["type"].endswith("overloaded")
    assert refused[-1].headers["Retry-After"] == "1"
    stopped.join()

    def taken_over() -> bool:
        return is_fresh(two.get(f"/users/{command['id']}"))

    # Its place in the group is kept for a session, in case it is started again.
    wait_until(taken_over, SESSION_SECONDS + TAKEOVER_SECONDS, "the other one took over")
