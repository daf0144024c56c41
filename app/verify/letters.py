"""The dead letters of one partition, pure: of which records there is one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.consumed import ConsumedRecord
from app.verify.findings import Difference, Findings
from app.verify.places import Offsets, Span, named


@dataclass(slots=True)
class LetterFold:
    """One partition of the dead letters: they stand in the partition of their records.

    The topic is compacted, by keys that name the records. So there may be several of one record,
    and the newest may be a mark: all of them together are one letter.
    """

    partition: int
    partitions: int
    letters: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    #: Records in the topic that are no letters.
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
                self.others += 1
            else:
                self.letters[topic.decode(errors="replace")].add(position.offset)

    def count(self) -> int:
        """Return of how many records there are letters."""
        return sum(map(len, self.letters.values()))


def compare_letters(
    fold: LetterFold, span: Span, unreadable: Offsets, is_whole: bool, findings: Findings
) -> int:
    """Compare the letters with the records of one source; return how many may be gone."""
    found = {offset for offset in fold.letters[span.topic] if offset in span}
    missing = [offset for offset in unreadable.all if offset not in found]
    for offset in missing if is_whole else ():
        findings.differs(Difference.MISSING_LETTER, span.place(offset))
    for offset in sorted(found.difference(unreadable.all)):
        findings.differs(Difference.EXTRA_LETTER, span.place(offset))
    return 0 if is_whole else len(missing)
