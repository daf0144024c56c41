"""A worker that dies, by its own hand and with no warning, at one step of applying a batch.

``python -m tests.faulty_worker STEP NUMBER``: at the NUMBERth time that it comes to the step. Or
its disk is full after so many bytes: ``python -m tests.faulty_worker full-disk BYTES``.
"""

import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from app.engine import changelog, consumer, partitions
from tables.store import PartitionedStore

#: For the full disk: how soon the worker gives up.
PATIENCE_SECONDS = 2.0


class Countdown:
    """Kills this process at the NUMBERth call."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, die: Countdown) -> None:
    """Die before a method is called."""
    method = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        die()
        return method(*args, **kwargs)

    setattr(owner, name, dying)


def after(owner: Any, name: str, die: Countdown) -> None:
    """Die after a coroutine has returned."""
    method: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def dying(*args: Any, **kwargs: Any) -> Any:
        result = await method(*args, **kwargs)
        die()
        return result

    setattr(owner, name, dying)


STEPS: dict[str, Callable[[Countdown], None]] = {
    # Rows and records are at the broker, acknowledged, and nothing says that they count.
    "before commit": lambda die: before(AIOKafkaProducer, "commit_transaction", die),
    "after commit": lambda die: after(AIOKafkaProducer, "commit_transaction", die),
    "between commit and store": lambda die: before(PartitionedStore, "apply", die),
    "between store and group offset": lambda die: before(
        consumer.ConsumerThread, "commit_applied", die
    ),
    "while taking over": lambda die: before(changelog.Changelog, "_begin", die),
}


def main() -> None:
    """Prepare the fault and run the worker."""
    step, number = sys.argv[1], int(sys.argv[2])
    if step == "full-disk":
        # A write beyond it fails as on a full disk; unlike that, it needs no disk of its own.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        partitions.GIVE_UP_AFTER_SECONDS = PATIENCE_SECONDS
    else:
        STEPS[step](Countdown(number))
    from app.__main__ import main as run  # noqa: PLC0415 - its settings are read when it is imported

    run(["worker"])


if __name__ == "__main__":
    main()
