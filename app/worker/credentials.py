"""How Faust's own clients connect. No command imports Faust to connect with aiokafka only."""

from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from app.config.connection import OAUTHBEARER, Connection


def credentials(kafka: Connection) -> CredentialsT | None:
    """Return the credentials for Faust's own clients; raise `SettingsError`."""
    tls = kafka.tls()
    if not kafka.has_login:
        return SSLCredentials(tls) if tls else None
    if kafka.mechanism == OAUTHBEARER:
        return OAuthCredentials(oauth_cb=kafka.token(), ssl_context=tls)
    return SASLCredentials(
        username=kafka.username,
        password=kafka.password,
        mechanism=kafka.mechanism,
        ssl_context=tls,
    )
