"""The whole way on a real broker: write, topic, agent, table, lookup."""

import time
import uuid
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.domain.keys import encode_key, partition_of
from app.domain.positions import Position
from app.web.http.urls import user_url
from tests.support.strategies import user_ids
from tests.support.worker import PARTITIONS, Worker, email_of


def user(user_id: str, name: str = "Ada") -> dict[str, str]:
    """Return a registration, with an address that no other id has."""
    return {"id": user_id, "name": name, "email": email_of(user_id)}


def fresh() -> str:
    """Return an id that no other test uses."""
    return f"user-{uuid.uuid4().hex}"


def test_a_registered_user_is_found_within_a_second(worker: Worker) -> None:
    user_id = fresh()
    accepted = worker.post("/users", json=user(user_id))
    acknowledged = time.monotonic()
    assert accepted.status_code == 202
    assert accepted.json()["status"] == "accepted"
    assert accepted.headers["Location"] == f"/registrations/{accepted.json()['position']}"
    found = worker.wait_for_user(user_id)
    assert time.monotonic() - acknowledged < 1
    assert found == {
        **user(user_id),
        "status": "registered",
        "version": 1,
        "registered_at": found["updated_at"],
        "updated_at": found["updated_at"],
        "position": accepted.json()["position"],
    }


def test_the_position_names_the_partition_of_the_id(worker: Worker) -> None:
    user_id = fresh()
    token = worker.post("/users", json=user(user_id)).json()["position"]
    assert Position.parse(token).partition == partition_of(encode_key(user_id), PARTITIONS)


def test_the_first_registration_of_an_id_stands(worker: Worker) -> None:
    user_id = fresh()
    first = worker.post("/users", json=user(user_id)).json()
    worker.post("/users", json=user(user_id, name="Eve"))
    again = worker.post("/users", json=user(user_id)).json()
    marker = fresh_in_partition_of(user_id)
    worker.post("/users", json=user(marker))
    worker.wait_for_user(marker)
    found = worker.wait_for_user(user_id)
    assert (found["name"], found["position"]) == ("Ada", first["position"])
    assert again["position"] != first["position"]


def fresh_in_partition_of(user_id: str) -> str:
    """Return an id whose records come behind those of another id."""
    home = partition_of(encode_key(user_id), PARTITIONS)
    candidates = (fresh() for _ in iter(int, 1))
    return next(c for c in candidates if partition_of(encode_key(c), PARTITIONS) == home)


def test_an_unknown_user_is_a_404_problem(worker: Worker) -> None:
    answer = worker.get("/users/nobody-has-this-id")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:user-registry:problem:unknown-user"


ODD_IDS = [
    "a/b",
    "/",
    "//",
    ".",
    "..",
    "%2F",
    "%",
    "%25",
    "a b",
    "a+b",
    "?x=1",
    "#f",
    "é😀",
    ";",
    "\\",
]


@pytest.mark.parametrize("user_id", ODD_IDS)
def test_odd_ids_have_an_address_that_works(worker: Worker, user_id: str) -> None:
    # Some of these ids are so short that other tests may have registered them.
    registered = worker.post("/users", json=user(user_id), headers={"Prefer": "wait=10"})
    assert registered.status_code in (200, 201, 409)
    assert worker.get(user_url(user_id)).json()["id"] == user_id


@given(user_ids)
@example("\ufeff")
@example("..%2f")
@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_legal_id_reaches_the_server_as_it_is(worker: Worker, user_id: str) -> None:
    registered = worker.post("/users", json=user(user_id), headers={"Prefer": "wait=10"})
    assert registered.status_code in (200, 201, 409)
    assert worker.get(user_url(user_id)).json()["id"] == user_id


@given(st.data())
@hypothesis_settings(max_examples=20, deadline=None)
def test_needless_escapes_make_no_difference(worker: Worker, data: st.DataObject) -> None:
    user_id = "needless-escapes"
    worker.post("/users", json=user(user_id), headers={"Prefer": "wait=10"})
    escaped = "".join(f"%{ord(c):02x}" if data.draw(st.booleans()) else quote(c) for c in user_id)
    assert worker.get(f"/users/{escaped}").json()["id"] == user_id


def test_the_newest_registrations_are_listed_first(worker: Worker) -> None:
    ids = [fresh() for _ in range(3)]
    for user_id in ids:
        worker.post("/users", json=user(user_id))
        worker.wait_for_user(user_id)  # one after the other, so that their times differ
    listed = [found["id"] for found in worker.get("/registrations").json()["users"]]
    assert listed[:3] == ids[::-1]
    assert len(listed) <= 20


@pytest.mark.parametrize("path", ["/table", "/table/users", "/router", "/graph", "/stats"])
def test_fausts_own_pages_are_off(worker: Worker, path: str) -> None:
    assert worker.get(path).status_code == 404
