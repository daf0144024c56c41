"""The real tRPC clients, versions 11 and 10, talk to a real worker over each of their links."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest

from tests.support import node_toolbox
from tests.support.worker import Worker, email_of

Call = Mapping[str, Any]

#: Of each client: its script, and its links; each but the first gathers calls into one request.
CLIENTS = {
    "v11": (
        "trpc_client.mjs",
        ["httpLink", "httpBatchLink", "httpBatchStreamLink", "acceptStreamLink"],
    ),
    "v10": ("v10/trpc_client.mjs", ["httpLink", "httpBatchLink", "httpBatchStreamLink"]),
}
LINKS = [(client, link) for client, (_, links) in CLIENTS.items() for link in links]
GATHERING = [(client, link) for client, link in LINKS if link != "httpLink"]
STREAMING = [(client, link) for client, link in LINKS if "Stream" in link]

#: Of a run: until what it writes is settled.
WAITING = {"headers": {"Prefer": "wait=10"}}
HELLO = {"path": "hello", "type": "query"}
#: More calls than a request may have.
TOO_MANY = 1001
#: More than a body may have, in a name.
TOO_LONG = "x" * 2**20


def register(user_id: str, **change: str) -> Call:
    """Return a call that registers a user."""
    user = {"id": user_id, "name": "Grüße", "email": email_of(user_id)} | change
    return {"path": "registerUser", "type": "mutation", "input": user}


def mutation(path: str, **given: object) -> Call:
    """Return a mutation."""
    return {"path": path, "type": "mutation", "input": given}


def query(path: str, **given: object) -> Call:
    """Return a query."""
    return {"path": path, "type": "query", "input": given}


@dataclass(frozen=True)
class Told:
    """What a client was told over a link, in runs by name."""

    #: Ids that it registered.
    ids: list[str]
    runs: Mapping[str, Any]

    def results(self, run: str) -> list[dict[str, Any]]:
        """Return what the calls of a run came to, in their order."""
        results: list[dict[str, Any]] = self.runs[run]["results"]
        return results

    def data(self, run: str) -> list[Any]:
        """Return what the calls of a run returned, all of them."""
        results = self.results(run)
        assert all(result["ok"] for result in results), results
        return [result["data"] for result in results]

    def errors(self, run: str) -> list[tuple[object, ...]]:
        """Return of all failed calls of a run what a client knows of it."""
        failed = [result for result in self.results(run) if not result["ok"]]
        assert {result["name"] for result in failed} == {"TRPCClientError"}
        return [(one.get("code"), one.get("httpStatus"), one.get("path")) for one in failed]

    def requests(self, run: str) -> list[tuple[str, int]]:
        """Return the methods and statuses of the requests of a run."""
        return sorted((one["method"], one["status"]) for one in self.runs[run]["requests"])


def runs_over(link: str, ids: list[str]) -> dict[str, Any]:
    """Return what is tried over a link, by name."""
    ada, eve, joe, slow = ids
    prefix = ada.rpartition("-")[0]
    runs: dict[str, Any] = {
        "hello": {"calls": [HELLO]},
        "register": {"calls": [register(ada), register(eve), register(joe)]},
        "by id": {"calls": [query("userById", id=ada)], "after": "register"},
        "by email": {"calls": [query("userByEmail", email=email_of(ada))], "after": "register"},
        "settled": {"calls": [register(ada)], **WAITING},
        "one bad input": {"calls": [register(ada), register(eve, email="nonsense")]},
        "pages": {"pages": {"prefix": prefix, "limit": 2}},
        "not there": {"calls": [query("userById", id=f"{prefix}-nobody")]},
        "unknown": {"calls": [{"path": "nope", "type": "query"}]},
        "apart": {"calls": [HELLO, register(ada)]},
        "too large": {"calls": [register(ada, name=TOO_LONG)]},
        "changed": {"calls": [mutation("updateUser", id=ada, name="B", ifVersion=1)], **WAITING},
        "changed too late": {
            "calls": [mutation("updateUser", id=ada, name="C", ifVersion=1)],
            **WAITING,
        },
        "erased": {"calls": [mutation("eraseUser", id=eve, ifVersion=1)], **WAITING},
    }
    if link != "httpLink":
        runs["many"] = {"calls": list(map(register, [ada, eve] * 50))}
        runs["too many"] = {"calls": [HELLO] * TOO_MANY}
    if "Stream" in link:
        runs["slow"] = {"slow": register(slow)["input"]}
    return runs


def run_all(worker: Worker, client: str) -> dict[str, Told]:
    """Run everything with one client, in one process; return what it was told, by link."""
    script, links = CLIENTS[client]
    prefix = f"trpc-{uuid.uuid4().hex}"
    ids = {link: [f"{prefix}-{link}-{number}" for number in range(4)] for link in links}
    wanted = json.dumps({link: runs_over(link, ids[link]) for link in links})
    printed = node_toolbox.run_script(script, f"{worker.url}/trpc", stdin=wanted)
    return {link: Told(ids[link], runs) for link, runs in json.loads(printed).items()}


@pytest.fixture(scope="module")
def run_once(worker: Worker) -> Callable[[str], dict[str, Told]]:
    """Return what runs everything with a client, once."""
    return cache(partial(run_all, worker))


@pytest.fixture(params=LINKS, ids="-".join)
def told(request: pytest.FixtureRequest, run_once: Callable[[str], dict[str, Told]]) -> Told:
    """Return what a client was told over one of its links."""
    client, link = request.param
    return run_once(client)[link]


over_gathering_links = pytest.mark.parametrize("told", GATHERING, indirect=True, ids="-".join)
over_streaming_links = pytest.mark.parametrize("told", STREAMING, indirect=True, ids="-".join)


def test_hello(told: Told) -> None:
    assert told.data("hello") == ["Hello tRPC!"]


def test_registered_users_are_found(told: Told) -> None:
    registered = told.data("register")
    assert [one["status"] for one in registered] == ["success"] * 3
    assert [one["id"] for one in registered] == told.ids[:3]
    for run in ("by id", "by email"):
        (user,) = told.data(run)
        assert user["position"] == registered[0]["position"]
        assert (user["id"], user["name"], user["status"]) == (told.ids[0], "Grüße", "registered")


def test_a_client_can_wait_for_what_becomes_of_its_registration(told: Told) -> None:
    (settled,) = told.data("settled")
    assert settled["outcome"] == "replayed"


def test_a_client_changes_and_erases_one_version(told: Told) -> None:
    assert [one["outcome"] for one in told.data("changed")] == ["updated"]
    assert told.errors("changed too late") == [("PRECONDITION_FAILED", 412, "updateUser")]
    (late,) = told.results("changed too late")
    assert late["reason"] == "version-mismatch"
    assert [one["outcome"] for one in told.data("erased")] == ["erased"]


def test_one_bad_input_costs_only_its_own_call(told: Told) -> None:
    good, bad = told.results("one bad input")
    assert (good["ok"], bad["ok"]) == (True, False)
    assert told.errors("one bad input") == [("BAD_REQUEST", 400, "registerUser")]
    (issue,) = json.loads(bad["message"])
    assert issue["path"] == ["email"]
    assert (bad["reason"], [each["pointer"] for each in bad["errors"]]) == ("invalid", ["/email"])


def test_pages_follow_one_another_by_cursor(told: Told) -> None:
    first, last = told.results("pages")
    listed = [[user["id"] for user in page["items"]] for page in (first, last)]
    assert listed == [told.ids[:2], told.ids[2:3]]
    assert "nextCursor" not in last


def test_what_is_not_there_is_not_found(told: Told) -> None:
    assert told.errors("not there") == [("NOT_FOUND", 404, "userById")]
    assert told.errors("unknown") == [("NOT_FOUND", 404, "nope")]


def test_queries_and_mutations_travel_apart(told: Told) -> None:
    assert told.data("apart")[0] == "Hello tRPC!"
    assert told.requests("apart") == [("GET", 200), ("POST", 200)]


def test_a_body_over_the_limit_is_told_so(told: Told) -> None:
    assert told.errors("too large") == [("PAYLOAD_TOO_LARGE", 413, "registerUser")]


@over_gathering_links
def test_many_registrations_travel_in_one_request(told: Told) -> None:
    assert [one["id"] for one in told.data("many")] == told.ids[:2] * 50
    assert told.requests("many") == [("POST", 200)]


@over_gathering_links
def test_what_fails_as_a_whole_fails_each_call(told: Told) -> None:
    errors = told.errors("too many")
    assert len(errors) == TOO_MANY
    # A stream of version 10 has no more answers than there may be calls; the rest fails with it.
    assert errors[:-1] == [("BAD_REQUEST", 400, None)] * (TOO_MANY - 1)
    assert errors[-1] in (("BAD_REQUEST", 400, None), (None, None, None))
    assert told.requests("too many") == [("GET", 400)]


@over_streaming_links
def test_a_slow_call_holds_back_no_other_of_its_stream(told: Told) -> None:
    assert told.runs["slow"]["order"] == ["hello", "lookup"]
    (found,) = told.results("slow")
    assert found["id"] == told.ids[3]


# -- subscriptions


def test_a_client_follows_a_user_and_all_outcomes(worker: Worker) -> None:
    user_id = f"followed-{uuid.uuid4().hex}"
    user = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    url = f"{worker.url}/trpc"
    with node_toolbox.Following(url, "user", {"id": user_id}) as one:
        with node_toolbox.Following(url, "outcomes", {}) as all_outcomes:
            assert one.until(lambda told: "id" in told) == {"id": "nobody", "data": None}
            all_outcomes.until(lambda told: told == {"started": True})
            worker.post("/users", json=user)
            registered = one.until(lambda told: (told.get("data") or {}).get("version") == 1)
            assert registered["data"]["name"] == "Ada"
            told = all_outcomes.until(lambda told: (told.get("data") or {}).get("id") == user_id)
            assert told["data"]["outcome"] == "registered"
        worker.http.patch(f"{worker.url}/users/{user_id}", json={"name": "B"}, timeout=15)
        changed = one.until(lambda told: (told.get("data") or {}).get("version") == 2)
        assert changed["data"]["name"] == "B"
    # Who goes on from an event is told all that came since, and nothing twice.
    with node_toolbox.Following(url, "outcomes", {"lastEventId": told["id"]}) as again:
        since = again.until(lambda told: (told.get("data") or {}).get("id") == user_id)
        assert since["data"]["outcome"] == "updated"
    with node_toolbox.Following(url, "outcomes", {"lastEventId": "none"}) as wrong:
        assert wrong.until(lambda told: "error" in told)["reason"] == "invalid-cursor"
