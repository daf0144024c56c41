"""Sessions of people: a signed cookie that names a key, and tokens that only our forms know."""

import hmac
from datetime import timedelta
from hashlib import sha256

from itsdangerous import BadData, URLSafeTimedSerializer

from app.access.proofs import derived


class Sessions:
    """Makes and reads sessions; every worker with the same secret accepts them."""

    def __init__(self, secret: bytes, hours: float) -> None:
        self.lifetime = timedelta(hours=hours)
        self._signer = URLSafeTimedSerializer(
            derived(secret, "sessions"),
            salt="session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": sha256},
        )
        self._token_secret = derived(secret, "form tokens")

    def begin(self, key_id: str) -> str:
        """Return a new session of the holder of a key."""
        return str(self._signer.dumps(key_id))

    def key_id(self, session: str) -> str | None:
        """Return the id of a session's key; None if it is over, or never was one."""
        if not session.isascii():
            return None
        try:
            found = self._signer.loads(session, max_age=int(self.lifetime.total_seconds()))
        except BadData:
            return None
        return found if isinstance(found, str) else None

    def token(self, session: str) -> str:
        """Return what a form carries that this session may send."""
        return hmac.digest(self._token_secret, session.encode(), sha256).hex()

    def has_token(self, session: str, given: str) -> bool:
        """Return whether a form carries the token of this session."""
        return hmac.compare_digest(self.token(session).encode(), given.encode(errors="replace"))
