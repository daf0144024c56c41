"""Full queues, pure: learns from the outcomes how many records of an id waited.

Whether a record found too many others waiting depends on when verdicts were applied, and no source
says that. The outcomes of a partition do: they have the order of the decisions, and a rejected
record gets its outcome when it is asked. The records that waited then are those of its id that come
before it, and whose outcomes come after its own or are missing.

This proves that a record was rejected although there was a place: too few records of its id waited,
or none. For an id with a rejected record, it also proves that another record was accepted although
there was no place. For that, the earlier records must still have waited when the outcome of this
record, or of a later one, was written.

It does not prove that a record was accepted without a place if no record of its id was ever
rejected, unless they all still wait. Nor does it prove anything about a rejection whose outcome is
gone. If the first records of an id are gone, its rejections are judged from the first one on that
had fewer waiting records than the log has.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

from app.domain.decisions import places_for
from app.domain.outcomes import Outcome
from app.domain.records import Queued
from app.ops.verify.outcomes import OutcomesFold
from app.ops.verify.places import Offsets
from app.ops.verify.tables import UNJUDGED

#: How many waiting records of one id are remembered: more than can ever be right. One asks for the
#: verdict, and the others wait.
_LOOKED_AT = 1 + places_for(None) + 1


@dataclass(slots=True)
class Queues:
    """The waiting records of one partition, for ids with a rejected record."""

    outcomes: OutcomesFold
    #: Returns the expected outcome of a record.
    outcome: Callable[[int], int]

    #: Records that were rejected although there was a place.
    untrue: Offsets = field(default_factory=Offsets)
    _newest: defaultdict[bytes, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_LOOKED_AT))
    )

    def rejected(self, key: bytes, asked: Queued) -> None:
        """Judge a rejection by the records of the id that waited at that moment."""
        at = self.outcomes.place(asked.offset)
        if at is None:
            return  # Its outcome is gone.

        def may_wait(offset: int) -> bool:
            place = self.outcomes.place(offset)
            if place is not None:
                return place > at
            # An outcome that is gone was written earlier. A missing one can be anything.
            return self.outcome(offset) in (Outcome.PENDING, UNJUDGED) or self.outcomes.is_whole

        newest = self._newest[key]
        waiting = sum(1 for _ in takewhile(may_wait, reversed(newest)))
        is_all = waiting < len(newest) or not self.outcomes.asking.start
        # One of them asks for the verdict, and does not wait in the queue.
        if is_all and waiting - 1 < places_for(asked.command):
            self.untrue.add(asked.offset)

    def accepted(self, key: bytes, asked: Queued) -> bool:
        """Note a record that was not rejected; return whether there was certainly no place."""
        if not self.outcomes.watches(key):
            return False
        by = self.outcomes.asked_by(asked.offset)

        def waits(offset: int) -> bool:
            place = self.outcomes.place(offset)
            return self.outcome(offset) == Outcome.PENDING if place is None else place > by

        newest = self._newest[key]
        waiting = sum(1 for _ in takewhile(waits, reversed(newest)))
        newest.append(asked.offset)
        return waiting - 1 >= places_for(asked.command)
