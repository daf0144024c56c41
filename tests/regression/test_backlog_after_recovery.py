"""A worker that recovered its tables applies the whole backlog.

Faust resumes the source partitions before it seeks them to their committed offsets. Records that
arrive in between were counted as read, and skipped when the seek brought them again: they were
never applied, and the offsets behind them were committed.
"""

import shutil

from app.domain.keys import encode_key
from tests.support import kafka
from tests.support.worker import Registry, wait_until

USERS = 3_000


def value(user_id: str) -> bytes:
    """Return a registration."""
    return b'{"id":"%b","name":"N","email":"%b@example.com"}' % ((user_id.encode(),) * 2)


def produce(registry: Registry, ids: list[str]) -> None:
    """Send registrations keyed and partitioned as we would."""
    records = [{"key": encode_key(user_id), "value": value(user_id)} for user_id in ids]
    kafka.produce(registry.brokers, registry.registrations, records, partitioner="murmur2_random")


def test_no_record_of_a_backlog_is_skipped_after_a_recovery(registry: Registry) -> None:
    changelog = f"{registry.app_id}.{registry.app_id}-users-changelog"

    def rows() -> int:
        return len(kafka.users(registry.brokers, changelog))

    worker = registry.worker()
    with worker:
        produce(registry, [f"before-{number}" for number in range(200)])
        wait_until(lambda: rows() == 200, 20, "the first users are applied")
    shutil.rmtree(worker.folder)
    produce(registry, [f"backlog-{number}" for number in range(USERS)])
    with worker:
        wait_until(lambda: rows() == 200 + USERS, 20, f"all are applied, not {rows()}")
