"""Latencies in logarithmic buckets, exact to a thousandth, in bounded memory."""

from array import array

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]

#: Buckets between a power of two and the next one, as a power of two.
_PRECISION_BITS = 10
#: 19 hours; what takes longer counts as that.
_MAX_MICROSECONDS = 2**36 - 1
_BUCKETS = (36 - _PRECISION_BITS + 1) << _PRECISION_BITS

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Latencies:
    """How often each latency was seen."""

    def __init__(self) -> None:
        # An array is quicker to add to than numpy's own, which looks at its memory.
        self._counts = array("q", bytes(8 * _BUCKETS))
        self.counts: Counts = np.frombuffer(self._counts, dtype=np.int64)
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        value = min(max(int(seconds * 1e6), 0), _MAX_MICROSECONDS)
        shift = max(value.bit_length() - _PRECISION_BITS - 1, 0)
        self._counts[(shift << _PRECISION_BITS) + (value >> shift)] += 1
        self.max_seconds = max(self.max_seconds, seconds)

    def milliseconds(self) -> dict[str, float] | None:
        """Return percentiles and the maximum by name (``p50`` …), or None if there were none."""
        if not self.counts.any():
            return None
        longest = round(self.max_seconds * 1e3, 3)
        found = {f"p{each:g}": min(percentile(self.counts, each), longest) for each in PERCENTILES}
        return {**found, "max": longest}


def percentile(counts: Counts, percent: float) -> float:
    """Return the milliseconds that so many percent of at least one latency do not exceed."""
    running = np.cumsum(counts)
    rank = max(np.ceil(running[-1] * percent / 100), 1)
    return _upper_edge(int(np.searchsorted(running, rank))) / 1e3


def _upper_edge(bucket: int) -> int:
    """Return the largest number of microseconds that counts in a bucket."""
    shift = max((bucket >> _PRECISION_BITS) - 1, 0)
    return ((bucket - (shift << _PRECISION_BITS) + 1) << shift) - 1
