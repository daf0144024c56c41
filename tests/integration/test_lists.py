"""Lists of users over two workers: the same from both, and none while one does not answer."""

import uuid
from collections import Counter
from typing import Any

import pytest
import requests

from tests.support.worker import Pair, Worker, email_of, wait_until

USERS = 40


@pytest.fixture(scope="module")
def ids(pair: Pair) -> list[str]:
    """Register users whose ids begin alike; return the ids in order."""
    prefix = f"list-{uuid.uuid4().hex}-"
    registered = sorted(f"{prefix}{letter}{number}" for letter in "aü𝄞" for number in range(USERS))
    for user_id in registered:
        user = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
        answer = pair[0].post("/users", json=user)
        assert answer.status_code == 202, answer.text
    for user_id in registered:
        pair[0].wait_for_user(user_id)
    return registered


def prefix_of(ids: list[str]) -> str:
    """Return what no other id begins with."""
    return ids[0].rpartition("-")[0]


def pages(worker: Worker, **wanted: object) -> list[list[dict[str, Any]]]:
    """Return all pages of a list, one after the other."""
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = worker.get("/users", params={**wanted, **cursor})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["users"])
        if "next" not in answer.json():
            return found
        cursor = {"cursor": answer.json()["next"]}


def test_both_workers_list_the_same_users_in_order(pair: Pair, ids: list[str]) -> None:
    for worker in pair:
        found = pages(worker, prefix=prefix_of(ids), limit=7)
        assert [user["id"] for page in found for user in page] == ids
        assert {len(page) for page in found[:-1]} == {7}


def test_a_list_from_the_beginning_has_them_among_all(pair: Pair, ids: list[str]) -> None:
    found = [user["id"] for page in pages(pair[1], limit=1000) for user in page]
    assert found == sorted(found)
    assert set(ids) <= set(found)


def test_a_cursor_stands_while_users_come_and_go(pair: Pair, ids: list[str]) -> None:
    one, two = pair
    prefix = prefix_of(ids)
    first = one.get("/users", params={"prefix": prefix, "limit": 3}).json()
    position = two.http.delete(f"{two.url}/users/{ids[2]}", timeout=15).json()["position"]
    wanted = {"prefix": prefix, "limit": 2, "cursor": first["next"], "after": position}
    second = one.get("/users", params=wanted).json()
    assert [user["id"] for user in second["users"]] == ids[3:5]
    again = two.get("/users", params={"prefix": prefix, "limit": 3, "after": position}).json()
    assert [user["id"] for user in again["users"]] == [*ids[:2], ids[3]]
    del ids[2]


def test_no_list_is_told_without_the_other_worker(pair: Pair, ids: list[str]) -> None:
    """And it is told again as soon as that one answers."""
    one, two = pair

    def listed() -> requests.Response:
        return one.get("/users", params={"prefix": prefix_of(ids), "limit": 1000})

    two.suspend()
    try:
        refused = listed()
    finally:
        two.resume()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["type"] == "urn:user-registry:problem:not-ready"
    answer = wait_until(lambda: listed().ok and listed(), 15, "the list is told again")
    assert [user["id"] for user in answer.json()["users"]] == ids


def test_users_are_counted_over_both_workers(pair: Pair, ids: list[str]) -> None:
    """And one who is erased counts no more, once that is settled."""
    one, two = pair
    counts = [worker.get("/counts").json() for worker in pair]
    assert counts[0] == counts[1]
    everybody = [user for page in pages(one, limit=1000) for user in page]
    registered = [user for user in everybody if user["status"] == "registered"]
    assert counts[0]["users"] == len(registered)
    assert counts[0]["days"] == Counter(user["registered_at"][:10] for user in registered)
    position = two.http.delete(f"{two.url}/users/{ids.pop()}", timeout=15).json()["position"]
    after = one.get("/counts", params={"after": position}).json()
    assert after["users"] == len(registered) - 1
    told = one.get("/overview").json()
    assert told["users"] == after["users"]
