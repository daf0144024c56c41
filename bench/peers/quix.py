"""Quix Streams: one stateful function on a streaming data frame."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from quixstreams import Application, State, message_context
from quixstreams.state.rocksdb import RocksDBOptions

from bench.peers.arguments import Arguments, arguments
from bench.peers.rules import decide, read

#: Each message's key is the id already, and the state is kept by message key.
ROW = "row"


def main() -> None:
    """Run the application until it is ended."""
    told = arguments()
    app = _application(told)
    frame = app.dataframe(
        app.topic(told.topic, key_deserializer="bytes", value_deserializer="bytes")
    )
    frame.update(_apply, stateful=True, metadata=True)
    app.run()


def _application(told: Arguments) -> Application:
    return Application(
        broker_address=told.brokers,
        consumer_group=told.group,
        state_dir=Path(told.folder),
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once" if told.exactly_once else "at-least-once",
        commit_interval=1.0,
        loglevel="WARNING",
        rocksdb_options=RocksDBOptions(use_fsync=False),
        producer_extra_config={"linger.ms": 20, "batch.size": 1 << 20, "acks": "all"},
        consumer_extra_config={"fetch.min.bytes": 1 << 16},
    )


def _apply(value: bytes, _key: Any, timestamp_ms: int, _headers: Any, state: State) -> None:
    try:
        registration = read(value)
    except ValidationError:
        return
    context = message_context()
    row = decide(
        state.get_bytes(ROW), registration, timestamp_ms, context.partition, context.offset
    )
    if isinstance(row, bytes):
        state.set_bytes(ROW, row)


if __name__ == "__main__":
    main()
