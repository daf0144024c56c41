"""The run: sends due requests over free connections, and counts answers.

There is no task for a request: an answer, or the clock, sends the next one.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TextIO

from tools.load.connection import Answer, Connection, Request, retry_seconds
from tools.load.modes import Requests, Verdict, reader
from tools.load.options import LoadError, Options
from tools.load.pool import Pool
from tools.load.registrations import Numbers, id_of
from tools.load.report import Report, Snapshot, Snapshots, report
from tools.load.schedule import LATE_SECONDS, FixedRate, FullSpeed, Schedule
from tools.load.tally import Tally

#: The pause before a failed connection is made again.
RECONNECT_SECONDS = 0.1
#: How often overdue requests are ended, and progress is reported.
SWEEP_SECONDS = 0.25
#: The pause between two checks of a fixed schedule. Timers are not finer.
TICK_SECONDS = 0.001

#: Statuses after which a request may be sent again.
_RETRIED = (429, 503)

Watch = Callable[[Snapshot], None]


async def drive(
    options: Options, *, watch: Watch | None = None, stop: asyncio.Event | None = None
) -> Report:
    """Run, and return the report.

    ``watch`` gets the progress several times a second. Once ``stop`` is set, nothing more is sent,
    and the report covers the time until then. Raises `LoadError` if nothing answers at the address.
    """
    started = datetime.now(UTC)
    stopped = stop or asyncio.Event()
    with _written(options.keep_ids) as ids:
        run = _Run(options, ids)
        try:
            await run.start()
            await _watched(run, watch, stopped)
        finally:
            run.close()
    return report(options, run.tally, started, interrupted=stopped.is_set())


@contextmanager
def _written(path: Path | None) -> Iterator[TextIO | None]:
    """Open a file for writing, if there is one."""
    if path is None:
        yield None
        return
    try:
        with path.open("w") as file:
            yield file
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None


async def _watched(run: "_Run", watch: Watch | None, stopped: asyncio.Event) -> None:
    """Watch a run until it is done."""
    snapshots = Snapshots()
    while not run.done.done():
        await asyncio.wait([run.done], timeout=SWEEP_SECONDS)
        run.sweep()
        if stopped.is_set():
            run.stop()
        if watch is not None:
            watch(snapshots.take(run.tally, run.fraction()))
    run.done.result()


class _Run:
    """A run. It handles the answers of all connections (`Drives`)."""

    def __init__(self, options: Options, ids: TextIO | None) -> None:
        self._options = options
        self._ids = ids
        self._pool = Pool(options, self)
        self._numbers = Numbers(options.duplicates, options.seed)
        self._make = Requests(options).make
        self._read = reader(options.mode)
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._schedule: Schedule = FullSpeed()
        #: The tally of requests that are due now. Those of the warm-up have another one.
        self.tally = self._warmup = Tally()
        #: How many registrations are left to send.
        self._left = inf
        self._is_over = False
        self._is_stopped = False
        self._under_way = 0

    async def start(self) -> None:
        """Connect, and begin."""
        await self._pool.fill()
        if self._options.warmup:
            self._loop.call_later(self._options.warmup, self._begin_to_count)
        else:
            self._begin_to_count()
        if self._options.rate is not None:
            requests_per_second = self._options.rate / self._options.size
            self._schedule = FixedRate(perf_counter(), requests_per_second)
        self._tick(perf_counter())

    def _begin_to_count(self) -> None:
        if self._is_over:
            return
        self.tally = Tally()
        if self._options.registrations is not None:
            self._left = self._options.registrations
        if self._options.seconds is not None:
            self._loop.call_later(self._options.seconds, self.end)

    # -- sending

    def _tick(self, expected: float) -> None:
        """Send the requests that are due, and check again at the expected time."""
        # Since the expected time, the loop was busy or did not get the processor.
        on_time = perf_counter() - LATE_SECONDS
        self.tally.held_up += self._schedule.due_between(expected, on_time)
        self._pump()
        if not self._is_over and self._schedule.next_at() < inf:
            now = perf_counter()
            wait = max(self._schedule.next_at() - now, TICK_SECONDS)
            self._loop.call_later(wait, self._tick, now + wait)

    def _pump(self) -> None:
        """Send all requests that are due, as long as connections are free."""
        while self._pool.has_free and not self._is_over:
            now = perf_counter()
            due = self._schedule.next(now)
            if due is None:
                return
            self._begin(due, now)

    def _begin(self, due: float, now: float) -> None:
        tally = self.tally if due >= self.tally.since else self._warmup
        size = self._options.size
        if tally is self.tally:
            size = int(min(size, self._left))
            self._left -= size
        numbers = self._numbers.take(size)
        tally.begin(due, now, size)
        self._under_way += 1
        self._pool.send(Request(self._make(numbers), numbers, due, tally))
        if not self._left:
            self.end()

    # -- answers

    def answered(self, connection: Connection, request: Request, answer: Answer) -> None:
        """Count an answer, or retry after it; then send the requests that are due."""
        try:
            if self._is_to_be_retried(request, answer):
                self._retry(connection, request, answer)
                return
            self._count(request, answer)
        except Exception as error:
            # The ids cannot be written, for example. An error raised here would be lost.
            self._fail(error)
            return
        self._under_way -= 1
        self._free(connection)

    def failed(self, request: Request, kind: str) -> None:
        """Count a request without an answer. Its place is free again after a pause."""
        request.tally.errors[kind] += 1
        self._under_way -= 1
        self._loop.call_later(RECONNECT_SECONDS, self._free, None)
        self._end_if_all_is_told()

    def send_anew(self, request: Request) -> None:
        """Send a request again, over a connection made for it."""
        if not self.done.done():
            request.is_anew = True
            request.tally.retries += 1
            self._pool.send_anew(request)

    def _is_to_be_retried(self, request: Request, answer: Answer) -> bool:
        may_be = answer.status in _RETRIED and request.retries < self._options.retry
        return may_be and not self._is_stopped

    def _retry(self, connection: Connection, request: Request, answer: Answer) -> None:
        # The connection waits, as a client would. So no more requests wait than there are
        # connections.
        request.retries += 1
        request.tally.retries += 1
        wait = retry_seconds(answer.retry_after())
        self._loop.call_later(wait, self._send_again, connection, request)

    def _send_again(self, connection: Connection, request: Request) -> None:
        if not self.done.done():
            self._pool.release(connection)
            self._pool.send(request)

    def _count(self, request: Request, answer: Answer) -> None:
        now = perf_counter()
        verdict = self._read(answer.status, answer.body, len(request.numbers))
        retry_after = answer.retry_after() if verdict.refused else None
        request.tally.count(verdict, retry_after, now - request.sent_at, now - request.due)
        request.tally.last_answer_at = now
        if self._ids is not None:
            self._keep(self._ids, request, verdict)

    def _keep(self, ids: TextIO, request: Request, verdict: Verdict) -> None:
        prefix, numbers = self._options.prefix, request.numbers
        ids.writelines(f"{id_of(prefix, numbers[index])}\n" for index in verdict.acknowledged)

    def _free(self, connection: Connection | None) -> None:
        self._pool.release(connection)
        self._pump()
        self._end_if_all_is_told()

    # -- the end

    def end(self) -> None:
        """Send nothing more, and wait for the answers that are missing."""
        if self._is_over:
            return
        self._is_over = True
        if self.tally is self._warmup:
            self.tally = Tally()
        self.tally.end(self._schedule.not_begun(perf_counter() - LATE_SECONDS))
        self._end_if_all_is_told()

    def stop(self) -> None:
        """End early: do not retry either."""
        self._is_stopped = True
        self.end()

    def _end_if_all_is_told(self) -> None:
        if self._is_over and not self._under_way and not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._is_over = True
        if not self.done.done():
            self.done.set_exception(error)

    def sweep(self) -> None:
        """End overdue requests."""
        self._pool.sweep()

    def fraction(self) -> float:
        """Return the part of the run that is done, from 0 to 1."""
        if self.tally is self._warmup:
            return 0.0
        if self._options.seconds is None:
            return 1 - self._left / (self._options.registrations or 1)
        return min((perf_counter() - self.tally.since) / self._options.seconds, 1.0)

    def close(self) -> None:
        """Close everything, however the run ended."""
        self._is_over = True
        self.done.cancel()
        self._pool.close()
