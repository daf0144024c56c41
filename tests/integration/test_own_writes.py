"""Who writes reads what was written: by id, by email and by position, from any worker."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import cast
from urllib.parse import quote

import orjson
import pytest

from app.domain.keys import partition_of
from app.domain.positions import Position
from tests.support import kafka
from tests.support.worker import PARTITIONS, Pair, Registry, Worker, email_of

CLIENTS = 4
ROUNDS = 40
#: Of each client that counts.
COUNTS = 5
#: Of `make soak`.
MANY_ROUNDS = 1_200


def fresh() -> str:
    """Return an id that no other test uses."""
    return f"own-{uuid.uuid4().hex}"


def user(user_id: str, name: str = "Ada") -> dict[str, str]:
    """Return a registration."""
    return {"id": user_id, "name": name, "email": email_of(user_id)}


def write(worker: Worker, method: str, path: str, **more: object) -> str:
    """Write; return the position."""
    answer = worker.http.request(method, worker.url + path, timeout=15, **more)  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    return str(answer.json()["position"])


def one_life(client: int, pair: Pair) -> None:
    """Register, change and erase a user on one worker; each time look it up on another."""
    one, two = pair[client % 2], pair[(client + 1) % 2]
    user_id = fresh()
    address, email = f"/users/{user_id}", email_of(user_id)
    new_email = email_of(f"new {user_id}")

    def by_email(asked: str, position: str) -> object:
        found = two.get(f"/users?email={quote(asked)}&after={position}")
        return found.json()["id"] if found.status_code == 200 else found.status_code

    position = write(one, "POST", "/users", json=user(user_id))
    found = two.get(f"{address}?after={position}")
    assert (found.status_code, found.json()["status"]) == (200, "registered"), found.text
    assert by_email(email, position) == user_id
    position = write(one, "PATCH", address, json={"email": new_email, "name": "King"})
    found = two.get(f"{address}?after={position}")
    assert (found.json()["name"], found.json()["version"]) == ("King", 2), found.text
    assert (by_email(new_email, position), by_email(email, position)) == (user_id, 404)
    position = write(one, "DELETE", address)
    assert two.get(f"{address}?after={position}").status_code == 404
    assert by_email(new_email, position) == 404
    told = two.get(f"/registrations/{position}").json()
    assert told == {"position": position, "outcome": "erased"}


def lives(pair: Pair, rounds: int) -> None:
    """Let clients write at the same time."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in [clients.submit(one_life, n, pair) for n in range(rounds)]:
            done.result()


def test_no_answer_is_stale(pair: Pair) -> None:
    lives(pair, ROUNDS)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_answer_is_stale_in_thousands_of_rounds(pair: Pair) -> None:
    lives(pair, MANY_ROUNDS)


def test_of_changes_of_one_version_none_is_lost(pair: Pair) -> None:
    """Clients of two workers count together in a name: who came too late looks, and tries again."""
    user_id = fresh()
    assert write_and_wait(pair[0], "POST", "/users", json=user(user_id, "0")) == 201

    def count(client: int) -> int:
        worker, tries = pair[client % 2], 0
        for _ in range(COUNTS):
            status = 412
            while status == 412:
                tries += 1
                seen = worker.get(f"/users/{user_id}")
                changed = {"name": str(int(seen.json()["name"]) + 1)}
                tag = {"If-Match": seen.headers["ETag"]}
                status = write_and_wait(
                    worker, "PATCH", f"/users/{user_id}", json=changed, headers=tag
                )
            assert status == 200
        return tries

    with ThreadPoolExecutor(CLIENTS) as clients:
        tries = sum(clients.map(count, range(CLIENTS)))
    found = pair[1].get(f"/users/{user_id}").json()
    assert (found["name"], found["version"]) == (str(CLIENTS * COUNTS), 1 + CLIENTS * COUNTS)
    assert tries > CLIENTS * COUNTS, "nobody ever came too late"


def write_and_wait(worker: Worker, method: str, path: str, **more: object) -> int:
    """Write, and wait until it is settled; return the status."""
    headers = {"Prefer": "wait=10"} | cast("dict[str, str]", more.pop("headers", {}))
    url = worker.url + path
    answer = worker.http.request(method, url, timeout=15, headers=headers, **more)  # type: ignore[arg-type]
    return answer.status_code


def test_a_loser_is_told_and_reads_what_stands(pair: Pair) -> None:
    holder, other = fresh(), fresh()
    one, two = pair
    first = write(one, "POST", "/users", json=user(holder))
    # The earliest claim wins, and two ids may be claimed for by two workers, in any order.
    assert one.get(f"/users/{holder}?after={first}").status_code == 200
    position = write(two, "POST", "/users", json=user(other) | {"email": email_of(holder).upper()})
    told = one.get(f"/registrations/{position}", headers={"Prefer": "wait=10"}).json()
    assert told == {"position": position, "outcome": "rejected", "reason": "email-taken"}
    assert one.get(f"/users/{other}?after={position}").status_code == 404
    assert one.get(f"/users?email={email_of(holder)}&after={position}").json()["id"] == holder


def test_a_write_in_a_wrong_partition_is_followed(shared_registry: Registry, pair: Pair) -> None:
    """Its first position stands for it, although another producer wrote it elsewhere."""
    user_id = fresh()
    stray = (partition_of(user_id.encode(), PARTITIONS) + 1) % PARTITIONS
    brokers, topic = shared_registry.brokers, shared_registry.registrations
    record = {"value": orjson.dumps(user(user_id)), "partition": stray}
    kafka.produce(brokers, topic, [record])
    (offset,) = (
        message.offset()
        for message in kafka.read_all(brokers, topic)
        if message.partition() == stray and user_id.encode() in (message.value() or b"")
    )
    assert offset is not None
    position = Position(stray, offset).token()
    for worker in pair:
        found = worker.get(f"/users/{user_id}?after={position}")
        assert (found.status_code, found.json()["status"]) == (200, "registered"), found.text
        told = worker.get(f"/registrations/{position}").json()
        assert (told["outcome"], told["moved_to"]) == ("moved", found.json()["position"])


def test_a_position_of_another_partition_is_refused(pair: Pair) -> None:
    user_id = fresh()
    position = Position.parse(write(pair[0], "POST", "/users", json=user(user_id)))
    elsewhere = next(n for n in (fresh() for _ in iter(int, 1)) if n and moves(n, position))
    for worker in pair:
        refused = worker.get(f"/users/{elsewhere}?after={position.token()}")
        assert (refused.status_code, refused.json()["type"]) == (
            400,
            "urn:user-registry:problem:invalid-position",
        )


def moves(user_id: str, position: Position) -> bool:
    """Return whether an id belongs to another partition."""
    return partition_of(user_id.encode(), PARTITIONS) != position.partition


def test_an_outcome_is_told_to_consumers_by_id_without_personal_data(
    shared_registry: Registry, pair: Pair
) -> None:
    user_id = fresh()
    position = write(pair[0], "POST", "/users", json=user(user_id))
    pair[1].get(f"/users/{user_id}?after={position}")
    told = [
        message
        for message in kafka.read_all(shared_registry.brokers, shared_registry.outcomes)
        if message.key() == user_id.encode()
    ]
    assert [orjson.loads(message.value() or b"") for message in told] == [
        {"position": position, "outcome": "registered"}
    ]


def test_a_position_beyond_the_log_is_unknown_at_any_worker(pair: Pair) -> None:
    user_id = fresh()
    position = Position.parse(write(pair[0], "POST", "/users", json=user(user_id)))
    beyond = position._replace(offset=position.offset + 1_000_000_000).token()
    for worker in pair:
        told = worker.get(f"/registrations/{beyond}")
        assert (told.status_code, told.json()["type"].rpartition(":")[2]) == (
            404,
            "unknown-position",
        )
        for path in (f"/users/{user_id}", "/users", f"/users?email={quote(email_of(user_id))}"):
            joined = "&" if "?" in path else "?"
            told = worker.get(f"{path}{joined}after={beyond}")
            assert (told.status_code, told.json()["type"].rpartition(":")[2]) == (
                400,
                "invalid-position",
            )
