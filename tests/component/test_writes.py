"""Writes over REST: what is accepted, and how a mistake is told."""

from typing import Any

import orjson
import pytest

from app.domain.errors import (
    BrokerUnavailableError,
    OutcomeOpenError,
    OutcomeUnknownError,
    RecordTooLargeError,
    StaleRequestError,
)
from app.domain.keys import partition_of
from app.domain.outcomes import Outcome
from app.domain.positions import Position
from app.domain.records import registration_in, update_in
from tests.component.conftest import Client
from tests.component.fakes import FakeLookups, FakeProducer

ADA = {"id": "ada", "name": "Ada", "email": "ada@example.com"}


async def test_a_registration_is_sent_keyed_to_its_partition(
    client: Client, producer: FakeProducer
) -> None:
    answer = await client.post("/users", json=ADA)
    assert answer.status == 202
    home = partition_of(b"ada", 8)
    assert producer.sent == [("user-registrations", home, b"ada", orjson.dumps(ADA))]
    position = (await answer.json())["position"]
    assert answer.headers["Location"] == f"/registrations/{position}"


async def test_text_that_was_typed_is_text_that_is_sent(
    client: Client, producer: FakeProducer
) -> None:
    typed = {"id": "é 😀", "name": " <Ada> ", "email": " Ada@Example.com "}
    await client.post("/users", json=typed)
    assert orjson.loads(producer.sent[0][3] or b"") == typed


@pytest.mark.parametrize(
    ("body", "status", "kind", "pointers"),
    [
        (b"not json", 400, "malformed", []),
        (b"", 400, "malformed", []),
        (b"\xff", 400, "malformed", []),
        (b"[]", 422, "invalid", [""]),
        (b"{}", 422, "invalid", ["/id", "/name", "/email"]),
        (b'{"id":"a","name":"A","email":"nonsense"}', 422, "invalid", ["/email"]),
        (b'{"id":7,"name":"A","email":"a@example.com"}', 422, "invalid", ["/id"]),
    ],
)
async def test_a_bad_body_is_a_problem(
    client: Client, producer: FakeProducer, body: bytes, status: int, kind: str, pointers: list[str]
) -> None:
    answer = await client.post("/users", data=body, headers={"Content-Type": "application/json"})
    problem: dict[str, Any] = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"]) == (status, status)
    assert problem["type"] == f"urn:user-registry:problem:{kind}"
    assert [error["pointer"] for error in problem.get("errors", [])] == pointers
    assert producer.sent == []


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_declared_json_is_refused(
    client: Client, content_type: str
) -> None:
    answer = await client.post(
        "/users", data=orjson.dumps(ADA), headers={"Content-Type": content_type}
    )
    assert answer.status == 415
    assert answer.content_type == "application/problem+json"


async def test_a_body_over_the_limit_is_refused(client: Client) -> None:
    answer = await client.post("/users", json=ADA | {"name": "x" * 65 * 1024})
    assert answer.status == 413
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("failure", "status", "kind", "retry_after"),
    [
        (BrokerUnavailableError("no broker"), 503, "broker-unavailable", "1"),
        (OutcomeUnknownError("no acknowledgement"), 503, "outcome-unknown", "1"),
        (OutcomeOpenError("no fence"), 503, "outcome-open", "1"),
        (StaleRequestError("too old"), 503, "stale-request", "1"),
        (RecordTooLargeError("too large"), 413, "too-large", None),
        (RuntimeError("a bug with ada@example.com in it"), 500, "internal", None),
    ],
)
async def test_a_write_that_fails_is_told_truly(
    client: Client,
    producer: FakeProducer,
    failure: Exception,
    status: int,
    kind: str,
    retry_after: str | None,
) -> None:
    producer.failure = failure
    answer = await client.post("/users", json=ADA)
    problem = await answer.json(content_type="application/problem+json")
    assert answer.status == status
    assert problem["type"] == f"urn:user-registry:problem:{kind}"
    assert answer.headers.get("Retry-After") == retry_after
    assert "ada@example.com" not in await answer.text()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/users", "DELETE,GET,HEAD,PATCH,POST"), ("DELETE", "/health/live", "GET,HEAD")],
)
async def test_a_method_that_is_not_there_is_a_problem(
    client: Client, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    assert answer.content_type == "application/problem+json"


async def test_an_unknown_path_is_a_problem(client: Client) -> None:
    answer = await client.get("/nothing/here")
    assert (answer.status, answer.content_type) == (404, "application/problem+json")


@pytest.mark.parametrize("content_type", ["application/json", "application/merge-patch+json"])
async def test_an_update_is_sent_keyed_to_its_partition(
    client: Client, producer: FakeProducer, content_type: str
) -> None:
    answer = await client.patch(
        "/users/ada", data=b'{"name":"Ada King"}', headers={"Content-Type": content_type}
    )
    assert answer.status == 202
    update = {"type": "update", "id": "ada", "name": "Ada King"}
    home = partition_of(b"ada", 8)
    assert producer.sent == [("user-registrations", home, b"ada", orjson.dumps(update))]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"name":null}', 422),
        (b'{"email":"nonsense"}', 422),
        (b'{"id":"eve","name":"Eve"}', 422),
    ],
)
async def test_a_bad_update_is_a_problem(
    client: Client, producer: FakeProducer, body: bytes, status: int
) -> None:
    answer = await client.patch(
        "/users/ada", data=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status, answer.content_type) == (status, "application/problem+json")
    assert producer.sent == []


@pytest.mark.parametrize("address", ["/users/ada", "/users?id=ada"])
async def test_an_erasure_is_a_tombstone(
    client: Client, producer: FakeProducer, address: str
) -> None:
    assert (await client.delete(address)).status == 202
    assert producer.sent == [("user-registrations", partition_of(b"ada", 8), b"ada", None)]


async def test_what_cannot_be_an_id_cannot_be_erased(
    client: Client, producer: FakeProducer
) -> None:
    assert (await client.delete("/users/a%00b")).status == 422
    assert (await client.delete("/users")).status == 400
    assert producer.sent == []


STATE = {"ifVersion": 3, "ifPosition": Position(1, 7).token()}
TAG = f'"3-{STATE["ifPosition"]}"'


async def test_what_is_sent_with_if_match_is_for_that_state_only(
    client: Client, producer: FakeProducer
) -> None:
    for tag in (TAG, f'"x", W/"y", {TAG}', TAG.removesuffix('"') + '-pending"'):
        headers = {"If-Match": tag}
        assert (await client.patch("/users/ada", json={"name": "B"}, headers=headers)).status == 202
        assert (await client.delete("/users/ada", headers=headers)).status == 202
        update, erasure = (orjson.loads(value or b"") for *_, value in producer.sent[-2:])
        assert update == {"type": "update", "id": "ada", "name": "B", **STATE}
        assert erasure == {"type": "erase", "id": "ada", **STATE}


async def test_if_match_of_any_state_is_no_condition(
    client: Client, producer: FakeProducer
) -> None:
    await client.delete("/users/ada", headers={"If-Match": "*"})
    assert producer.sent[0][3] is None


@pytest.mark.parametrize(
    ("tag", "status", "kind"),
    [
        ('"7"', 412, "version-mismatch"),
        (f"W/{TAG}", 412, "version-mismatch"),
        (f'"{10**16}-{STATE["ifPosition"]}"', 412, "version-mismatch"),
        (f'{TAG}, "4-{STATE["ifPosition"]}"', 400, "malformed"),
        ("3", 400, "malformed"),
        ("", 400, "malformed"),
    ],
)
async def test_if_match_that_no_user_can_meet_changes_nothing(
    client: Client, producer: FakeProducer, tag: str, status: int, kind: str
) -> None:
    for answer in (
        await client.patch("/users/ada", json={"name": "B"}, headers={"If-Match": tag}),
        await client.delete("/users/ada", headers={"If-Match": tag}),
    ):
        assert (answer.status, answer.content_type) == (status, "application/problem+json")
        assert (await answer.json())["type"].endswith(f":{kind}")
    assert producer.sent == []


async def test_a_state_may_be_named_in_the_body_but_once(
    client: Client, producer: FakeProducer
) -> None:
    body = {"name": "B", "ifVersion": 3}
    assert (await client.patch("/users/ada", json=body)).status == 202
    assert orjson.loads(producer.sent[0][3] or b"")["ifVersion"] == 3
    twice = await client.patch("/users/ada", json=body, headers={"If-Match": TAG})
    assert twice.status == 400
    wrong = await client.patch("/users/ada", json={**body, "ifVersion": 0})
    assert (wrong.status, (await wrong.json())["errors"][0]["pointer"]) == (422, "/ifVersion")
    assert len(producer.sent) == 1


WAIT = {"Prefer": "respond-async, wait=3"}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.REGISTERED, 201),
        (Outcome.REPLAYED, 200),
        (Outcome.UPDATED, 200),
        (Outcome.ERASED, 200),
        (Outcome.PENDING, 202),
        (Outcome.ID_TAKEN, 409),
        (Outcome.EMAIL_TAKEN, 409),
        (Outcome.UNKNOWN_ID, 404),
        (Outcome.TOO_MANY_PENDING, 409),
        (Outcome.VERSION_MISMATCH, 412),
    ],
)
async def test_who_prefers_to_wait_is_told_the_outcome(
    client: Client, lookups: FakeLookups, outcome: Outcome, status: int
) -> None:
    lookups.add("ada")
    lookups.outcome_of_all = outcome
    answer = await client.post("/users", json=ADA, headers=WAIT)
    body = await answer.json(content_type=None)
    assert answer.status == status
    assert lookups.waited == [3.0]
    if outcome.reason:
        assert body["type"] == f"urn:user-registry:problem:{outcome.reason}"
    else:
        assert body["id"] == "ada"
        assert answer.headers["Preference-Applied"] == "wait=3"


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.reason])
async def test_every_rejection_is_a_problem_and_one_that_passes_says_when_to_try_again(
    client: Client, lookups: FakeLookups, outcome: Outcome
) -> None:
    lookups.outcome_of_all = outcome
    for answer in (
        await client.post("/users", json=ADA, headers=WAIT),
        await client.patch("/users/ada", json={"name": "Ada K."}, headers=WAIT),
        await client.delete("/users/ada", headers=WAIT),
    ):
        assert (answer.content_type, answer.status // 100) == ("application/problem+json", 4)
        told = await answer.json()
        assert told["type"] == f"urn:user-registry:problem:{outcome.reason}"
        assert told["detail"].endswith(".")
        passes = outcome is Outcome.TOO_MANY_PENDING
        assert answer.headers.get("Retry-After") == ("1" if passes else None)


@pytest.mark.parametrize("preference", ["wait=0", "handling=lenient", "wait=soon", "waiting=3"])
async def test_who_does_not_ask_does_not_wait(
    client: Client, lookups: FakeLookups, preference: str
) -> None:
    answer = await client.post("/users", json=ADA, headers={"Prefer": preference})
    assert (answer.status, lookups.waited) == (202, [])


async def test_nobody_waits_longer_than_the_limit(client: Client, lookups: FakeLookups) -> None:
    await client.post("/users", json=ADA, headers={"Prefer": "wait=100000"})
    assert lookups.waited == [10.0]


async def test_a_write_that_is_durable_is_never_told_as_a_failure(
    client: Client, lookups: FakeLookups
) -> None:
    lookups.ready = False
    answer = await client.post("/users", json=ADA, headers=WAIT)
    assert (answer.status, (await answer.json())["status"]) == (202, "accepted")


#: Controls; and what is none, though nobody sees it.
UNFIT_NAMES = ("A\x00da", "Ada\n", "A\tda", "\x1b[31mAda", "\x7f", "\x85")
FIT_NAMES = ("Ada\u200d\U0001f680", "\u200f\u0639\u062f\u0646", "A\u00add\u200b", "\u202eadA\u2028")


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "GET"])
@pytest.mark.parametrize("sent", ["%0A", "a%0Ab", "%0D%0Aa", "%C2%85", "a%E2%80%A8"])
async def test_an_id_with_a_line_end_is_told_to_be_wrong(
    client: Client, method: str, sent: str
) -> None:
    """Such an id is a route's like any other; none of these is "not found" for want of a route."""
    async with client.request(method, f"/users/{sent}", json={"name": "A"}) as answer:
        told = await answer.json()
    assert told.get("type") != "urn:user-registry:problem:not-found"
    assert answer.status in ((404, 422) if method == "GET" else (202, 422))


@pytest.mark.parametrize("name", [*UNFIT_NAMES, *FIT_NAMES])
async def test_a_name_holds_no_control_character(
    client: Client, producer: FakeProducer, name: str
) -> None:
    sent = {"id": "ada", "name": name, "email": "ada@example.com"}
    is_fit = name in FIT_NAMES
    statuses = [
        (await client.post("/users", json=sent)).status,
        (await client.patch("/users/ada", json={"name": name})).status,
        (await client.post("/trpc/registerUser", json=sent)).status,
        (await client.post("/register", data=sent, allow_redirects=False)).status,
    ]
    assert statuses == ([202, 202, 200, 303] if is_fit else [422, 422, 400, 422])
    batch = await (await client.post("/users/batch", json=[sent])).json()
    assert batch["accepted"] == is_fit
    assert len(producer.sent) == 5 * is_fit


def test_a_name_that_a_record_holds_stays_what_it_is() -> None:
    for name in UNFIT_NAMES:
        stored = {"id": "ada", "name": name, "email": "ada@example.com"}
        assert registration_in(orjson.dumps(stored)) == stored
        update = {"type": "update", "id": "ada", "name": name}
        assert update_in(orjson.dumps(update)) == update
