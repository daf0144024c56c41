"""A worker to which something happens, at one step: `tests.faults.steps`.

``python -m tests.support.faulty_worker STEP KIND NUMBER``: at the NUMBERth time that it comes to
the step. More faults come by lines ``STEP|KIND|NUMBER`` of the named pipe ``orders`` in its folder.
Other arguments: ``full-disk BYTES``: its disk is full after so many bytes. ``cannot-decide ID``: no
record of one id can be decided. ``leaves-out last``: the parser leaves out the last of several
records.
"""

import contextlib
import os
import resource
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import faust

from app.domain.consumed_records import ConsumedRecord
from app.domain.decisions import Decisions
from app.domain.records import Queued, UserRow
from app.kafka.record_batches import PartitionRecords
from app.system import retries
from tests.faults.injector import Injector, be_impatient, parse, watch_requests
from tests.faults.steps import Scene

#: For the full disk: how soon the worker gives up.
PATIENCE_SECONDS = 2.0
ORDERS = "orders"


def fill_disk(most_bytes: int) -> None:
    """Let a write beyond so many bytes fail as on a full disk; it needs no disk of its own."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    retries.OPENING = replace(retries.OPENING, limit_seconds=PATIENCE_SECONDS)


def cannot_decide(user_id: str) -> None:
    """Let deciding each record of an id fail, as by a bug."""
    ask = Decisions.ask

    def failing(self: Decisions, row: UserRow | None, key: bytes, asked: Queued) -> UserRow | None:
        if key == user_id.encode():
            raise LookupError(user_id)
        return ask(self, row, key, asked)

    Decisions.ask = failing  # type: ignore[method-assign]


def leave_out_last() -> None:
    """Let the parser leave out the last of several records that it gives at once."""
    take = PartitionRecords.take

    def forgetful(self: PartitionRecords, *args: int) -> list[ConsumedRecord]:
        records = take(self, *args)
        return records[:-1] or records

    PartitionRecords.take = forgetful  # type: ignore[method-assign, assignment]


def inject(words: list[str]) -> None:
    """Take faults from the arguments and the pipe.

    They begin once all that is looked at before a start is, unless they are faults of that.
    """
    execute = faust.Worker.execute_from_commandline
    injector = Injector()
    faults = [parse(words[at : at + 3]) for at in range(0, len(words), 3)]
    later = [fault for fault in faults if fault.step.scene is not Scene.LOOK]

    def executing(worker: Any) -> Any:
        orders = Path(os.environ["DATA_DIR"]) / ORDERS
        with contextlib.suppress(FileExistsError):
            os.mkfifo(orders)
        watch_requests()
        for fault in later:
            injector.add(fault)
        threading.Thread(target=injector.read, args=[orders], daemon=True).start()
        return execute(worker)

    faust.Worker.execute_from_commandline = executing  # type: ignore[method-assign, assignment]
    be_impatient()
    for fault in faults:
        if fault not in later:
            injector.add(fault)


def main() -> None:
    """Prepare the faults and run the worker."""
    match sys.argv[1:]:
        case ["full-disk", most_bytes]:
            fill_disk(int(most_bytes))
        case ["cannot-decide", user_id]:
            cannot_decide(user_id)
        case ["leaves-out", "last"]:
            leave_out_last()
        case words:
            inject(words)
    from app.cli.main import main as run  # noqa: PLC0415 - its settings are read when it is imported

    run(["worker"])


if __name__ == "__main__":
    main()
