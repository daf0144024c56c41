"""What a process uses, watched from outside while it runs."""

import bisect
import threading
import time
from typing import Self

import psutil

SAMPLE_SECONDS = 0.05
#: Looking for children reads the whole process table, so it is done once in so many samples.
SAMPLES_A_FAMILY = 40


class Meter:
    """CPU time and memory of a process and its children, sampled in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._times: list[float] = []
        self._cpu: list[float] = []
        self._peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak_mib(self) -> float:
        """The most memory that was resident at the time of a sample."""
        return self._peak_bytes / 2**20

    def cpu_seconds(self, began: float, ended: float) -> float:
        """Return the CPU time (user and system) used between two moments (`time.time`)."""
        return self._cpu_at(ended) - self._cpu_at(began)

    def _cpu_at(self, moment: float) -> float:
        times, cpu = self._times[:], self._cpu[:]
        count = min(len(times), len(cpu))
        return cpu[min(bisect.bisect_left(times, moment, hi=count), count - 1)]

    def _watch(self) -> None:
        family = [self._root]
        count = 0
        while not self._ended.wait(SAMPLE_SECONDS):
            try:
                if count % SAMPLES_A_FAMILY == 0:
                    family = [self._root, *self._root.children(recursive=True)]
                self._sample(family)
            except psutil.NoSuchProcess:
                return
            count += 1

    def _sample(self, family: list[psutil.Process]) -> None:
        used = [process.cpu_times() for process in family]
        resident = sum(process.memory_info().rss for process in family)
        self._cpu.append(sum(times.user + times.system for times in used))
        self._times.append(time.time())
        self._peak_bytes = max(self._peak_bytes, resident)
