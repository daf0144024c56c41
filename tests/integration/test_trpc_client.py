"""The real tRPC client, version 11, talks to a real worker."""

import json
import uuid
from typing import Any

import pytest

from tests import node_toolbox
from tests.worker import Worker, email_of

HELLO = {"path": "hello", "type": "query"}


def register(user_id: str, **change: str) -> dict[str, Any]:
    """Return a call that registers a user."""
    user = {"id": user_id, "name": "Ada", "email": email_of(user_id)} | change
    return {"path": "registerUser", "type": "mutation", "input": user}


def fresh() -> str:
    """Return an id that no other test uses."""
    return f"trpc-{uuid.uuid4().hex}"


def call(
    worker: Worker, link: str, *calls: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make calls at the same time; return what came of them, and the requests on the wire."""
    wanted = json.dumps({"link": link, "calls": calls})
    printed = node_toolbox.run_script("trpc_client.mjs", f"{worker.url}/trpc", stdin=wanted)
    told = json.loads(printed)
    return told["results"], told["requests"]


@pytest.mark.parametrize("link", ["httpLink", "httpBatchLink"])
def test_hello(worker: Worker, link: str) -> None:
    (result,), _ = call(worker, link, HELLO)
    assert result == {"ok": True, "data": "Hello tRPC!"}


@pytest.mark.parametrize("link", ["httpLink", "httpBatchLink"])
def test_a_registered_user_is_found(worker: Worker, link: str) -> None:
    user_id = fresh()
    (result,), _ = call(worker, link, register(user_id))
    assert (result["ok"], result["data"]["status"], result["data"]["id"]) == (
        True,
        "success",
        user_id,
    )
    assert worker.wait_for_user(user_id)["position"] == result["data"]["position"]


def test_one_bad_input_in_a_batch_costs_only_its_own_call(worker: Worker) -> None:
    good, other = fresh(), fresh()
    bad = register(fresh(), email="nonsense")
    results, requests = call(worker, "httpBatchLink", register(good), bad, register(other))
    assert [result["ok"] for result in results] == [True, False, True]
    assert [(request["method"], request["status"]) for request in requests] == [("POST", 207)]
    assert (results[1]["name"], results[1]["code"], results[1]["httpStatus"]) == (
        "TRPCClientError",
        "BAD_REQUEST",
        400,
    )
    (issue,) = json.loads(results[1]["message"])
    assert issue["path"] == ["email"]
    worker.wait_for_user(good)
    worker.wait_for_user(other)


def test_a_hundred_registrations_travel_in_one_request(worker: Worker) -> None:
    ids = [fresh() for _ in range(100)]
    results, requests = call(worker, "httpBatchLink", *map(register, ids))
    assert [result["data"]["id"] for result in results] == ids
    assert [request["status"] for request in requests] == [200]
    for user_id in ids:
        worker.wait_for_user(user_id)


def test_queries_and_mutations_travel_apart(worker: Worker) -> None:
    results, requests = call(worker, "httpBatchLink", HELLO, register(fresh()))
    assert all(result["ok"] for result in results)
    assert sorted(request["method"] for request in requests) == ["GET", "POST"]


def test_an_unknown_procedure_is_not_found(worker: Worker) -> None:
    (result,), _ = call(worker, "httpBatchLink", {"path": "nope", "type": "query"})
    assert (result["code"], result["httpStatus"], result["path"]) == ("NOT_FOUND", 404, "nope")
