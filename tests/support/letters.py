"""Dead letters as tests need them."""

import orjson

from app.domain.keys import partition_of
from tests.support import kafka
from tests.support.worker import PARTITIONS, Registry, wait_until


def leave_letter(registry: Registry, user_id: str, value: bytes) -> str:
    """Leave the letter of a record that can be read by now; return its position.

    A worker makes one of a record that it cannot read. Then it is changed: as if a version had left
    it that could not read this.
    """
    home = partition_of(user_id.encode(), PARTITIONS)
    upset = {
        "value": orjson.dumps({"id": user_id}),
        "partition": home,
        "headers": [("trace", b"t")],
    }
    kafka.produce(registry.brokers, registry.registrations, [upset])
    letter = wait_until(
        lambda: next(
            (
                message
                for message in kafka.read_all(registry.brokers, registry.dead_letters)
                if user_id.encode() in (message.value() or b"")
            ),
            None,
        ),
        15,
        f"a letter of {user_id}",
    )
    changed = {
        "key": letter.key(),
        "value": value,
        "partition": letter.partition(),
        "headers": list(letter.headers() or ()),
    }
    kafka.produce(registry.brokers, registry.dead_letters, [changed])
    return kafka.headers(letter)["source-position"].decode()
