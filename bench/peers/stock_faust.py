"""Stock Faust: an agent and a RocksDB table, as its documentation has them, or tuned by settings.

Keys and values are raw bytes: Faust's own codecs and models would only add to each record's cost.
"""

import asyncio
import threading
import time
from typing import Any, cast

import faust
import orjson
from faust.tables.manager import TableManager
from pydantic import ValidationError

from bench.peers.arguments import Arguments, arguments
from bench.peers.rules import decide, read

#: How often the process says how much of its table it has recovered.
REPORT_SECONDS = 0.1

#: A table knows codecs only by the types' names; a topic that is told none decodes JSON.
RAW: dict[str, Any] = {"key_type": bytes, "value_type": bytes}
RAW_TOPIC = RAW | {"key_serializer": "raw", "value_serializer": "raw"}

#: The best that we found by settings alone.
TUNED: dict[str, Any] = {
    "producer_linger": 0.02,
    "producer_max_batch_size": 1 << 20,
    "stream_buffer_maxsize": 16_384,
    "stream_recovery_delay": 0.0,
    "consumer_max_fetch_size": 4 << 20,
}
TUNED_RECOVERY_BUFFER = 100_000


def main() -> None:
    """Run the worker until it is ended."""
    told = arguments()
    if told.tuned:
        _use_uvloop()
    app = _app(told)
    # Not before: Faust makes its parts when they are first asked for, in the thread that asks.
    app.on_partitions_assigned.connect(_start_reporting)
    faust.Worker(app, loglevel="WARNING").execute_from_commandline()


def _use_uvloop() -> None:
    import uvloop  # noqa: PLC0415  (only the tuned variant has it)

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _app(told: Arguments) -> faust.App:
    settings = TUNED if told.tuned else {}
    app = faust.App(
        told.group,
        broker=f"kafka://{told.brokers}",
        store="rocksdb://",
        datadir=str(told.folder),
        topic_partitions=told.partitions,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        worker_redirect_stdouts=False,
        **settings,
    )
    recovery: dict[str, Any] = {"recovery_buffer_size": TUNED_RECOVERY_BUFFER} if told.tuned else {}
    users = app.Table("users", partitions=told.partitions, **RAW, **recovery)

    @app.agent(app.topic(told.topic, partitions=told.partitions, **RAW_TOPIC))
    async def apply(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            _apply(users, event)

    return app


def _apply(users: Any, event: Any) -> None:
    try:
        registration = read(event.value)
    except ValidationError:
        return
    key = registration["id"].encode()
    message = event.message
    timestamp_ms = round(message.timestamp * 1000)
    row = decide(users.get(key), registration, timestamp_ms, message.partition, message.offset)
    if isinstance(row, bytes):
        users[key] = row


def _start_reporting(app: Any, /, *_assigned: Any, **_more: Any) -> None:
    threading.Thread(target=_report_recovery, args=(app,), daemon=True).start()


def _report_recovery(app: faust.App) -> None:
    # Faust's interface of it does not name its recovery.
    recovery = cast(TableManager, app.tables).recovery
    said = 0
    while True:
        # A copy in one step: the worker's thread changes the original.
        offsets = list(recovery.active_offsets.values())
        rows = sum(offset + 1 for offset in offsets if offset is not None)
        if rows > said:
            said = rows
            line = {"restored": rows, "at": time.time()}
            print(orjson.dumps(line).decode(), flush=True)
        time.sleep(REPORT_SECONDS)


if __name__ == "__main__":
    main()
