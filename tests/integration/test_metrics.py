"""What a real worker counts is what happened."""

import uuid

import orjson
from prometheus_client.parser import text_string_to_metric_families

from tests.support.worker import PARTITIONS, Registry, Worker, email_of, wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(worker: Worker) -> Samples:
    """Return all samples of a worker."""
    answer = worker.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have some labels."""
    wanted = set(labels.items())
    return sum(v for (n, of), v in found.items() if n == name and wanted <= of)


def test_metrics_tell_what_happened(registry: Registry) -> None:
    with registry.worker() as worker:
        ids = [uuid.uuid4().hex for _ in range(20)]
        users = [{"id": i, "name": "Ada", "email": email_of(i)} for i in ids]
        for user in users[:5]:
            assert worker.post("/users", json=user).status_code == 202
        assert worker.post("/users/batch", json=users[5:]).json()["accepted"] == 15
        assert worker.post("/users", json={"id": "x"}).status_code == 422
        assert worker.post("/users", json=users[0]).status_code == 202

        def settled() -> Samples | None:
            found = samples(worker)
            outcomes = value(found, "registry_outcomes_total")
            lags = [v for (name, _), v in found.items() if name == "registry_lag_records"]
            return found if outcomes == 21 and lags == [0] * 3 * PARTITIONS else None

        found = wait_until(settled, 15, "everything is settled")
    assert value(found, "registry_writes_total", answer="acknowledged") == 21
    assert value(found, "registry_writes_total") == 21
    assert value(found, "registry_http_responses_total", status="202") == 7
    assert value(found, "registry_http_responses_total", status="422") == 1
    assert value(found, "registry_outcomes_total", outcome="registered") == 20
    assert value(found, "registry_outcomes_total", outcome="replayed") == 1
    assert value(found, "registry_batch_records_sum") == 21
    assert 6 <= value(found, "registry_acknowledgement_seconds_count") <= 6 + 8
    # A registration, its claim and its verdict; the replay needs neither.
    assert value(found, "registry_applied_records_total") == 3 * 20 + 1
    assert value(found, "registry_transaction_seconds_count", table="users") >= 2
    assert value(found, "registry_partitions", state="owned") == 2 * PARTITIONS
    assert value(found, "registry_member") == 1
    assert value(found, "registry_waiting_records") == 0
    assert value(found, "registry_build_info") == 1
    assert value(found, "registry_lag_seconds") == 0
    assert not any(orjson.dumps(user["id"]).decode() in str(found) for user in users)
