"""Latencies in logarithmic buckets, exact to a thousandth, in bounded memory."""

from array import array

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

#: Buckets between two powers of two, as a power of two.
_PRECISION_BITS = 10
#: 19 hours. A longer latency counts as this.
_MAX_MICROSECONDS = 2**36 - 1
_BUCKETS = (36 - _PRECISION_BITS + 1) << _PRECISION_BITS

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Latencies:
    """How often each latency was seen."""

    def __init__(self) -> None:
        # Adding to an array is faster than adding to numpy's array over the same memory.
        self._counts = array("q", bytes(8 * _BUCKETS))
        self.counts: Counts = np.frombuffer(self._counts, dtype=np.int64)
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a latency."""
        value = min(max(int(seconds * 1e6), 0), _MAX_MICROSECONDS)
        shift = max(value.bit_length() - _PRECISION_BITS - 1, 0)
        self._counts[(shift << _PRECISION_BITS) + (value >> shift)] += 1
        self.max_seconds = max(self.max_seconds, seconds)

    def milliseconds(self) -> dict[str, float] | None:
        """Return percentiles and the maximum by name (``p50`` …); None if nothing was counted."""
        if not self.counts.any():
            return None
        longest = round(self.max_seconds * 1e3, 3)
        found = {f"p{each:g}": min(percentile(self.counts, each), longest) for each in PERCENTILES}
        return {**found, "max": longest}


def percentile(counts: Counts, percent: float) -> float:
    """Return the milliseconds that a percentage of the latencies do not exceed."""
    running = np.cumsum(counts)
    rank = max(np.ceil(running[-1] * percent / 100), 1)
    return _upper_edge(int(np.searchsorted(running, rank))) / 1e3


def _upper_edge(bucket: int) -> int:
    """Return the largest number of microseconds in a bucket."""
    shift = max((bucket >> _PRECISION_BITS) - 1, 0)
    return ((bucket - (shift << _PRECISION_BITS) + 1) << shift) - 1
