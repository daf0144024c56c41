"""Records that stand in a wrong partition, or say so: each is applied once, in its place."""

import uuid

import orjson

from app.domain.keys import partition_of
from app.domain.positions import token
from tests.integration.test_repartition import run
from tests.support import kafka
from tests.support.worker import PARTITIONS, Registry, email_of, wait_until


def home_of(user_id: str) -> int:
    """Return the partition of an id."""
    return partition_of(user_id.encode(), PARTITIONS)


def misplaced(user_id: str, *headers: tuple[str, bytes]) -> dict[str, object]:
    """Return a registration as a producer writes it that knows of no partitioner."""
    user = {"id": user_id, "name": "First", "email": email_of(user_id)}
    partition = (home_of(user_id) + 1) % PARTITIONS
    return {"value": orjson.dumps(user), "partition": partition, "headers": list(headers)}


def test_what_was_moved_under_another_app_id_is_not_moved_again(registry: Registry) -> None:
    """It would come behind what was written since."""
    renamed, erased = (f"{what}-{uuid.uuid4().hex}" for what in ("renamed", "erased"))
    with registry.worker() as worker:
        kafka.produce(registry.brokers, registry.registrations, map(misplaced, (renamed, erased)))
        for user_id in (renamed, erased):
            worker.wait_for_user(user_id)
        wait = {"Prefer": "wait=10"}
        address, http = worker.url + "/users/", worker.http
        changed = http.patch(address + renamed, json={"name": "Newer"}, headers=wait, timeout=15)
        assert changed.json()["name"] == "Newer"
        assert http.delete(address + erased, headers=wait, timeout=15).status_code == 200
    before = kafka.end_offsets(registry.brokers, registry.registrations)

    prefix = {"TOPIC_PREFIX": f"{registry.app_id}."}
    anew = Registry(registry.brokers, registry.folder / "anew", settings=prefix)
    with anew.worker() as other:
        assert other.wait_for_user(renamed)["name"] == "Newer"
        last = {"id": "last", "name": "Last", "email": email_of("last")}
        assert other.post("/users", json=last, headers=wait).status_code == 201
        assert other.get(f"/users/{erased}").status_code == 404
        assert "records were moved before" in other.log.read_text()
        after = kafka.end_offsets(registry.brokers, registry.registrations)
        # The one that was just written; of transactions nothing, not even a mark.
        assert sum(after.values()) == sum(before.values()) + 1
        # Every outcome is told a second time, by another registry. There is nothing else.
        found = run(other, "verify").stdout
        assert "records that were moved more than once" not in found


def test_a_record_that_says_it_was_moved_is_applied_all_the_same(registry: Registry) -> None:
    """It is so where there are more partitions since; and any producer can say so."""
    user_id = f"says-so-{uuid.uuid4().hex}"
    with registry.worker() as worker:
        said = ("moved-from", token(home_of(user_id), 0).encode())
        kafka.produce(registry.brokers, registry.registrations, [misplaced(user_id, said)])
        assert worker.wait_for_user(user_id)["name"] == "First"
        verified = wait_until(
            lambda: (done := run(worker, "verify")).returncode == 0 and done, 30, "it is clean"
        )
        assert "1 records say that they were moved, and were not" in verified.stdout
        letters = kafka.end_offsets(registry.brokers, registry.dead_letters)
        assert not any(letters.values())
