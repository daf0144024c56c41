"""What compressing a batch of registrations costs, and wins: ``python -m bench.compression``.

CPU time alone, so that it can run on a machine that does other things: no broker has a part in it.
Names are drawn; ids and addresses are random, as those that people choose are not alike.
"""

import random
import time
from collections.abc import Sequence

import orjson

from app.ingest import produce_batches
from app.kafka.fast_records import NO_HEADERS, ToWrite
from app.kafka.protocol import ProducerIdentity
from app.kafka.transactions import COMPRESSIONS

#: Registrations in a batch: alone, about what comes in 4 ms, a bulk request.
SIZES = (1, 10, 100, 1_000)
#: How many are put into batches for each figure.
RECORDS = 100_000
MAX_BATCH_BYTES = 512 * 1024

_NAMES = ("Ada King", "Grace Hopper", "Jürgen Müller", "Zoë O'Neill", "Chidi Anagonye", "李小龍")


def main() -> None:
    """Print a line for each codec and size."""
    records = registrations(RECORDS)
    print(
        "| codec | records a batch | CPU µs a record | bytes a record |\n| --- | --- | --- | --- |"
    )
    for size in SIZES:
        for name, codec in COMPRESSIONS.items():
            cpu_us, width = cost(records, size, codec)
            print(f"| {name} | {size:,} | {cpu_us:.2f} | {width:.0f} |")


def registrations(count: int) -> Sequence[ToWrite]:
    """Return registrations as the write path hands them to a batch."""
    draw = random.Random(1)
    made: list[ToWrite] = []
    for _ in range(count):
        user_id = f"{draw.getrandbits(64):016x}"
        email = f"{draw.getrandbits(40):010x}@{draw.choice(('gmail', 'example', 'proton'))}.com"
        value = orjson.dumps({"id": user_id, "name": draw.choice(_NAMES), "email": email})
        made.append((None, user_id.encode(), value, NO_HEADERS))
    return made


def cost(records: Sequence[ToWrite], size: int, codec: int) -> tuple[float, float]:
    """Return the CPU and the bytes of a record in batches of so many."""
    sequence, identity = produce_batches.Sequence(), ProducerIdentity(1, 0)
    width, began = 0, time.process_time()
    for begin in range(0, len(records), size):
        some = records[begin : begin + size]
        width += len(sequence.build(identity, some, MAX_BATCH_BYTES, codec).data)
    return (time.process_time() - began) / len(records) * 1e6, width / len(records)


if __name__ == "__main__":
    main()
