"""A worker to which something happens, at one step: `tests.faults.steps`.

``python -m tests.faulty_worker STEP KIND NUMBER``: at the NUMBERth time that it comes to the step.
More faults come by lines ``STEP|KIND|NUMBER`` of the named pipe ``orders`` in its folder. Or its
disk is full after so many bytes: ``python -m tests.faulty_worker full-disk BYTES``.
"""

import contextlib
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import faust

from app.engine import cycles
from tests.faults.injector import Injector, be_impatient, parse, watch_requests

#: For the full disk: how soon the worker gives up.
PATIENCE_SECONDS = 2.0
ORDERS = "orders"


def fill_disk(most_bytes: int) -> None:
    """Let a write beyond so many bytes fail as on a full disk; it needs no disk of its own."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    cycles.GIVE_UP_AFTER_SECONDS = PATIENCE_SECONDS


def inject(words: list[str]) -> None:
    """Take faults from the arguments and the pipe, once all that is looked at before a start is."""
    execute = faust.Worker.execute_from_commandline

    def executing(worker: Any) -> Any:
        orders = Path(os.environ["DATA_DIR"]) / ORDERS
        with contextlib.suppress(FileExistsError):
            os.mkfifo(orders)
        watch_requests()
        injector = Injector()
        for at in range(0, len(words), 3):
            injector.add(parse(words[at : at + 3]))
        threading.Thread(target=injector.read, args=[orders], daemon=True).start()
        return execute(worker)

    faust.Worker.execute_from_commandline = executing  # type: ignore[method-assign, assignment]
    be_impatient()


def main() -> None:
    """Prepare the faults and run the worker."""
    match sys.argv[1:]:
        case ["full-disk", most_bytes]:
            fill_disk(int(most_bytes))
        case words:
            inject(words)
    from app.__main__ import main as run  # noqa: PLC0415 - its settings are read when it is imported

    run(["worker"])


if __name__ == "__main__":
    main()
