"""A worker that dies, by its own hand and with no warning, at one step of applying a batch.

``python -m tests.faulty_worker STEP NUMBER``: at the NUMBERth time that it comes to the step. Or
its disk is full after so many bytes: ``python -m tests.faulty_worker full-disk BYTES``. Or one
write to a store fails: ``python -m tests.faulty_worker store-fails NUMBER``. Or no record of one
id can be decided: ``python -m tests.faulty_worker cannot-decide ID``. Or the parser leaves out the
last of several records: ``python -m tests.faulty_worker leaves-out last``.
"""

import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from app.consumed import ConsumedRecord
from app.engine import changelog, cycles, protocol, transactions
from app.engine.record_batches import PartitionRecords
from app.errors import StoreError
from app.records import Queued, UserRow
from app.registration import Decisions
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


def fail_once(number: int) -> None:
    """Let the NUMBERth write to a store fail: what it was to hold is committed."""
    left = [number]
    apply = PartitionedStore.apply

    def failing(self: PartitionedStore, *args: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StoreError("a disk that fails once")
        apply(self, *args)

    PartitionedStore.apply = failing  # type: ignore[method-assign, assignment]


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


STEPS: dict[str, Callable[[Countdown], None]] = {
    # Rows and records are at the broker, acknowledged, and nothing says that they count.
    "before commit": lambda die: before(protocol, "end_transaction", die),
    "after commit": lambda die: after(transactions.TransactionalProducer, "commit", die),
    "between commit and store": lambda die: before(PartitionedStore, "apply", die),
    "while taking over": lambda die: before(changelog.Changelog, "_begin", die),
}


def main() -> None:
    """Prepare the fault and run the worker."""
    step, argument = sys.argv[1:3]
    if step == "cannot-decide":
        cannot_decide(argument)
    elif step == "leaves-out":
        leave_out_last()
    else:
        prepare(step, int(argument))
    from app.__main__ import main as run  # noqa: PLC0415 - its settings are read when it is imported

    run(["worker"])


def prepare(step: str, number: int) -> None:
    """Prepare a fault that comes at a number of calls, or bytes."""
    if step == "full-disk":
        # A write beyond it fails as on a full disk; unlike that, it needs no disk of its own.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        cycles.GIVE_UP_AFTER_SECONDS = PATIENCE_SECONDS
    elif step == "store-fails":
        fail_once(number)
    else:
        STEPS[step](Countdown(number))


if __name__ == "__main__":
    main()
