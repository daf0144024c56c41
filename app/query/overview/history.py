"""The last two minutes of each worker, second by second: what the plots of the overview begin with.

Each worker remembers its own, in memory. Of a worker that was started since, less is known.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any

from mode import Service
from pydantic import TypeAdapter

from app.query.overview.here import counters
from app.query.overview.numbers import Counters, growth, latencies_ms, per_second, sums, words

KEPT_SECONDS = 120
SAMPLE_SECONDS = 1.0

_SECONDS = TypeAdapter(list[Counters])


class History(Service):
    """Remembers what this worker did in each of the last seconds."""

    def __init__(self) -> None:
        super().__init__()
        #: By how much each counter has grown, a second.
        self.seconds: deque[Counters] = deque(maxlen=KEPT_SECONDS)

    @Service.task
    async def _remember(self) -> None:
        before, began = counters(), monotonic()
        while not self.should_stop:
            await self.sleep(SAMPLE_SECONDS)
            now, ended = counters(), monotonic()
            self.seconds.append(_grown(now, before, ended - began))
            before, began = now, ended

    def encode(self) -> bytes:
        """Return it as JSON bytes, for another worker."""
        return _SECONDS.dump_json(list(self.seconds))


def decode(body: bytes) -> Sequence[Counters]:
    """Return what another worker remembers; raise `ValueError` if it is something else."""
    return _SECONDS.validate_json(body)[-KEPT_SECONDS:]


def _grown(now: Counters, before: Counters, seconds: float) -> Counters:
    def grown(name: str) -> dict[str, float]:
        found = growth(getattr(now, name), getattr(before, name))
        return dict(per_second(found, seconds)) if any(found.values()) else {}

    return Counters(**{name: grown(name) for name in Counters.model_fields})


def ticks(histories: Iterable[Sequence[Counters]]) -> Iterator[dict[str, Any]]:
    """Yield what all workers together did in each second, the oldest first."""
    histories = list(histories)
    for back in range(max(map(len, histories), default=0), 0, -1):
        some = [history[-back] for history in histories if len(history) >= back]
        yield {
            "writes_per_second": sums(each.writes for each in some),
            "outcomes_per_second": sums(words(each.outcomes) for each in some),
            "acknowledgement_ms": latencies_ms(sums(each.acknowledgements for each in some)),
        }
