"""A clock is wrong, a worker's or the broker's: the broker refuses the time of its records."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import kafka
from tests.support.worker import Registry, Worker, email_of, wait_until

REFUSED = "the broker refuses the time of the records"
#: A record is always older than this when it comes: as if the worker's clock were far behind. A
#: clock that is far ahead is refused the same way, by message.timestamp.after.max.ms.
NONE_IS_YOUNG_ENOUGH = {"message.timestamp.before.max.ms": "0"}
ANY_IS = {"message.timestamp.before.max.ms": str(2**63 - 1)}


@contextmanager
def refused_by(registry: Registry, topic: str) -> Iterator[None]:
    """Let the broker refuse the time of all records of a topic."""
    kafka.alter_config(registry.brokers, topic, NONE_IS_YOUNG_ENOUGH)
    try:
        yield
    finally:
        kafka.alter_config(registry.brokers, topic, ANY_IS)


def says_why(worker: Worker) -> bool:
    """Return whether readiness tells of the clock."""
    told = worker.get("/health/ready")
    return told.status_code == 503 and REFUSED in told.text


def register(worker: Worker, user_id: str) -> int:
    """Return how a registration is answered; a refusal says why, and when to come again."""
    body = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    told = worker.post("/users", json=body)
    if told.status_code == 503:
        assert told.headers["Retry-After"] == "1"
        assert REFUSED in told.text or "broker-unavailable" in told.text, told.text
    return told.status_code


def test_writes_at_a_wrong_time_are_refused_clearly_until_the_clock_is_right(
    shared_registry: Registry, worker: Worker
) -> None:
    with refused_by(shared_registry, shared_registry.registrations):
        # It takes the broker a moment to heed what it is set to.
        wait_until(lambda: register(worker, "late") == 503, 10, "writes are refused")
        wait_until(lambda: says_why(worker), 30, "readiness says why")
    wait_until(lambda: register(worker, "late") == 202, 10, "the same write is taken")
    assert worker.wait_for_user("late")["name"] == "Ada"
    assert worker.is_ready()


def test_batches_at_a_wrong_time_are_tried_again_and_said_to_be(registry: Registry) -> None:
    with registry.worker() as worker:
        with refused_by(registry, registry.users_changelog):
            wait_until(
                lambda: register(worker, "later") == 202 and says_why(worker),
                10,
                "readiness says why",
            )
        assert worker.wait_for_user("later", within_seconds=20)["name"] == "Ada"
        wait_until(worker.is_ready, 10, "the worker is ready again")
