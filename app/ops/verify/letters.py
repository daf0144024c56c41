"""The dead letters of one partition, pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.dead_letters.summaries import LOST_RECORDS, SKIPPED, Summary
from app.domain.consumed_records import ConsumedRecord
from app.ops.verify.findings import Difference, Findings
from app.ops.verify.places import Offsets, Span, named


@dataclass(slots=True)
class LetterFold:
    """One partition of the dead letters. A letter is in the same partition as its record.

    The topic is compacted, and keys name the records. So a record can have several letters, and the
    newest can be a mark. Together they count as one letter.
    """

    partition: int
    partitions: int
    letters: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    #: Decisions of operators: records that are lost, and records that are skipped.
    lost: list[Summary] = field(default_factory=list)
    skipped: list[Summary] = field(default_factory=list)
    #: Records of other programs in the topic.
    others: int = 0

    def add(self, records: Sequence[ConsumedRecord]) -> None:
        """Fold records of the dead-letter topic."""
        for record in records:
            # The original's headers come first, and may have the same names.
            headers = dict(record.headers)
            topic, token = headers.get("source-topic"), headers.get("source-position")
            position = named(token, self.partitions)
            if (
                topic is None
                or token is None
                or position is None
                or position.partition != self.partition
                or record.key != b"%b/%b" % (topic, token)
            ):
                self._add_other(record)
            else:
                self.letters[topic.decode(errors="replace")].add(position.offset)

    def _add_other(self, record: ConsumedRecord) -> None:
        for cause, found in ((LOST_RECORDS, self.lost), (SKIPPED, self.skipped)):
            summary = Summary.read(record, cause)
            if summary is not None and summary.partition == self.partition:
                found.append(summary)
                return
        self.others += 1

    def skipped_of(self, topic: str) -> set[int]:
        """Return the offsets of a topic's records that operators have skipped."""
        return {summary.first for summary in self.skipped if summary.topic == topic}

    def count(self) -> int:
        """Return how many records have letters."""
        return sum(map(len, self.letters.values()))


def compare_letters(
    fold: LetterFold, span: Span, unreadable: Offsets, is_whole: bool, findings: Findings
) -> int:
    """Compare letters with the records of one source; return how many may be gone."""
    found = {offset for offset in fold.letters[span.topic] if offset in span}
    missing = [offset for offset in unreadable.all if offset not in found]
    for offset in missing if is_whole else ():
        findings.differs(Difference.MISSING_LETTER, span.place(offset))
    for offset in sorted(found.difference(unreadable.all)):
        findings.differs(Difference.EXTRA_LETTER, span.place(offset))
    return 0 if is_whole else len(missing)
