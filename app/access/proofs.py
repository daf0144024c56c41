"""Proofs between workers: a request is signed with a secret that all workers share."""

import hmac
from collections.abc import Callable, Sequence
from hashlib import sha256
from time import time

#: A proof is valid in the minute it was made for. Clocks may differ by one minute more.
_MINUTE_SECONDS = 60


class Proofs:
    """Makes and checks proofs for GET requests. The first secret signs, all secrets are accepted.

    A proof names its recipient, so a stolen proof is of no use with another worker.
    """

    def __init__(
        self, secret: bytes, clock: Callable[[], float] = time, others: Sequence[bytes] = ()
    ) -> None:
        self._secrets = [derived(each, "requests to a worker") for each in (secret, *others)]
        self._clock = clock

    def make(self, recipient: str, path: str) -> str:
        """Return the proof for a path and its query at a worker's address, valid now."""
        return _proof(self._secrets[0], recipient, path, self._minute())

    def holds(self, recipient: str, path: str, proof: str) -> bool:
        """Return whether a proof is valid for this worker and path now."""
        now, given = self._minute(), proof.encode(errors="replace")
        return any(
            hmac.compare_digest(_proof(secret, recipient, path, minute).encode(), given)
            for secret in self._secrets
            for minute in (now, now - 1, now + 1)
        )

    def _minute(self) -> int:
        return int(self._clock() // _MINUTE_SECONDS)


def _proof(secret: bytes, recipient: str, path: str, minute: int) -> str:
    signed = f"GET\n{recipient}\n{path}\n{minute}".encode(errors="surrogateescape")
    return hmac.digest(secret, signed, sha256).hex()


def derived(secret: bytes, purpose: str) -> bytes:
    """Return a secret for one purpose. It reveals neither the first secret nor the other ones."""
    return hmac.digest(secret, b"user-registry: " + purpose.encode(), sha256)
