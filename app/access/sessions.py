"""Sessions of people: a signed cookie refers to a key. Forms carry a token against CSRF."""

import hmac
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256

from itsdangerous import BadData, URLSafeTimedSerializer

from app.access.proofs import derived


class Sessions:
    """Makes and reads sessions. Every worker with the same secrets accepts them.

    The first secret signs, all secrets are accepted.
    """

    def __init__(self, secret: bytes, hours: float, others: Sequence[bytes] = ()) -> None:
        secrets = (secret, *others)
        self.lifetime = timedelta(hours=hours)
        self._signer = URLSafeTimedSerializer(
            # itsdangerous signs with the last key of its list.
            [derived(secret, "sessions") for secret in reversed(secrets)],
            salt="session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha256},
        )
        self._token_secrets = [derived(secret, "form tokens") for secret in secrets]

    def begin(self, key_id: str) -> str:
        """Return a new session for the holder of a key."""
        return str(self._signer.dumps(key_id))

    def key_id(self, session: str) -> str | None:
        """Return the id of a session's key; None if the session is over or was never valid."""
        if not session.isascii():
            return None
        try:
            found = self._signer.loads(session, max_age=int(self.lifetime.total_seconds()))
        except BadData:
            return None
        return found if isinstance(found, str) else None

    def token(self, session: str) -> str:
        """Return the token that forms of this session carry."""
        return _token(self._token_secrets[0], session)

    def has_token(self, session: str, given: str) -> bool:
        """Return whether a form carries the token of this session."""
        text = given.encode(errors="replace")
        return any(
            hmac.compare_digest(_token(secret, session).encode(), text)
            for secret in self._token_secrets
        )


def _token(secret: bytes, session: str) -> str:
    return hmac.digest(secret, session.encode(), sha256).hex()
