"""The claims and releases that follow from the records of a partition."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from app.domain.addresses import EmailKeys
from app.domain.decisions import Claiming
from app.domain.keys import partitions_of
from app.ops.verify.emails import FoundClaims, claim_said
from app.ops.verify.multisets import Multiset


@dataclass(slots=True)
class Expected:
    """Records that must be in ``email-claims``, and records that may be gone from there."""

    certain: Multiset = field(default_factory=Multiset)
    perhaps: Multiset = field(default_factory=Multiset)


@dataclass(slots=True)
class ExpectedClaims:
    """The claims and releases that one partition of users must have sent."""

    #: The partition of ``user-registrations``.
    partition: int
    email_keys: EmailKeys
    #: The claims and releases of its ids that ``email-claims`` has.
    found: FoundClaims
    #: Partitions of ``email-claims`` whose beginning is gone.
    begun_late: Collection[int] = ()

    claims: Expected = field(default_factory=Expected)
    releases: Expected = field(default_factory=Expected)
    _sent: list[tuple[Claiming, int]] = field(default_factory=list)
    #: By key of an address: the key that version 0.8 gave it, if that is another one.
    _keys_of_0_8: dict[bytes, bytes] = field(default_factory=dict)

    def email_key(self, email: str) -> bytes:
        """Return the key of an address, and remember the key that version 0.8 gave it."""
        key, earlier = self.email_keys.key(email), self.email_keys.key_of_0_8(email)
        if earlier is not None:
            self._keys_of_0_8[key] = earlier
        return key

    def note(self, sent: Iterable[Claiming], offset: int) -> None:
        """Note what the record at an offset sends."""
        self._sent.extend((claim, offset) for claim in sent)

    def sort(self, partitions: int) -> None:
        """Sort what was noted: by kind, and by whether it must be there."""
        if self._keys_of_0_8:
            self._sent = [
                (each, offset) for claim, offset in self._sent for each in self._as_sent(claim)
            ]
        targets = partitions_of([claim.email_key for claim, _ in self._sent], partitions)
        for (claim, offset), target in zip(self._sent, targets, strict=True):
            expected = self.claims if claim.kind == "claim" else self.releases
            is_gone = target in self.begun_late
            (expected.perhaps if is_gone else expected.certain).add(
                claim_said(*claim), self.partition, offset
            )
        self._sent.clear()

    def _as_sent(self, claim: Claiming) -> Sequence[Claiming]:
        """Return a claim under the key that it was sent with: that of this version or of 0.8.

        This version releases an address under both keys.
        """
        earlier = self._keys_of_0_8.get(claim.email_key)
        if earlier is None:
            return (claim,)
        found = self.found.claims if claim.kind == "claim" else self.found.releases
        both = (claim, claim._replace(email_key=earlier))
        return [each for each in both if found.has(claim_said(*each))] or (claim,)
