"""What proves that a request comes from another worker: a signature with their common secret."""

import hmac
from collections.abc import Callable
from hashlib import sha256
from time import time

#: A proof is made for the minute it is sent in; clocks may differ by one more.
_MINUTE_SECONDS = 60


class Proofs:
    """Makes and checks proofs for GET requests."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time) -> None:
        self._secret = derived(secret, "forwarded requests")
        self._clock = clock

    def make(self, path: str) -> str:
        """Return the proof for a path and its query, as they are sent now."""
        return self._proof(path, self._minute())

    def holds(self, path: str, proof: str) -> bool:
        """Return whether a proof is one for this path, of about now."""
        now, given = self._minute(), proof.encode(errors="replace")
        return any(
            hmac.compare_digest(self._proof(path, minute).encode(), given)
            for minute in (now, now - 1, now + 1)
        )

    def _minute(self) -> int:
        return int(self._clock() // _MINUTE_SECONDS)

    def _proof(self, path: str, minute: int) -> str:
        signed = f"GET\n{path}\n{minute}".encode(errors="surrogateescape")
        return hmac.digest(self._secret, signed, sha256).hex()


def derived(secret: bytes, purpose: str) -> bytes:
    """Return a secret for one purpose, from which neither the first nor others can be told."""
    return hmac.digest(secret, b"user-registry: " + purpose.encode(), sha256)
