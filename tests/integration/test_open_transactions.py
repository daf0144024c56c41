"""Transactions that others leave open on a source: nobody is left in the dark."""

import uuid
from dataclasses import replace

from confluent_kafka import Producer

from app.domain.keys import partition_of
from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until


def lag(worker: Worker) -> float:
    """Return how many records wait, by the worker's metrics."""
    lines = worker.get("/metrics").text.splitlines()
    of_all = [line for line in lines if line.startswith("registry_lag_records{")]
    assert of_all
    return sum(float(line.rpartition(" ")[2]) for line in of_all)


def test_a_foreign_transaction_is_told_of_by_lag_readiness_and_log(registry: Registry) -> None:
    registry = replace(registry, settings={**registry.settings, "READY_LAG_SECONDS": "1"})
    user_id = f"behind-{uuid.uuid4().hex}"
    user = {"id": user_id, "name": "Ada", "email": email_of(user_id)}
    with registry.worker() as worker:
        foreign = f"foreign-{uuid.uuid4().hex[:8]}"
        other = Producer({"bootstrap.servers": registry.brokers, "transactional.id": foreign})
        other.init_transactions(10)
        other.begin_transaction()
        home = partition_of(user_id.encode(), PARTITIONS)
        other.produce(registry.registrations, value=b"{}", partition=home)
        assert other.flush(10) == 0

        answer = worker.post("/users", json=user, headers={"Prefer": "wait=1"})
        assert answer.status_code == 202
        wait_until(lambda: lag(worker) == 2, 10, "both records wait")
        told = wait_until(
            lambda: worker.get("/health/ready").json().get("reasons"), 10, "it is not ready"
        )
        assert told[0].startswith("records of 1 partitions wait for ")
        wait_until(lambda: foreign in worker.log.read_text(), 15, "it is named")
        line = next(line for line in worker.log.read_text().splitlines() if foreign in line)
        assert "records wait behind an open transaction" in line
        assert f"partition={home}" in line

        other.commit_transaction(10)
        worker.wait_for_user(user_id)
        wait_until(lambda: lag(worker) == 0, 10, "nothing waits")
        wait_until(worker.is_ready, 10, "it is ready")
