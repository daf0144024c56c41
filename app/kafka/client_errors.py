"""Errors of Kafka clients, in one line that names the setting to correct."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

from aiokafka import errors
from aiokafka.conn import create_conn, get_ip_port_afi
from aiokafka.protocol.metadata import MetadataRequest

from app.config.connection import OAUTHBEARER, Connection
from app.domain.errors import BrokerUnavailableError, KafkaAccessError, RegistryError

#: How long one broker may take to accept or refuse a client.
ANSWER_SECONDS = 5.0

#: OpenSSL's numbers of why a certificate is not valid today.
_NOT_TODAY = {9: "is not valid yet", 10: "has expired"}

_RIGHTS = "see the list in docs/hosted-kafka.md"
#: What a broker says to have no right for, where it does not say which right.
_MISSING = {
    errors.TopicAuthorizationFailedError: "a topic",
    errors.GroupAuthorizationFailedError: "the consumer group",
    errors.ClusterAuthorizationFailedError: "the cluster",
    errors.TransactionalIdAuthorizationFailed: "the transactional ids",
}


def say_it_in_one_line() -> None:
    """Silence the Kafka clients. Callers report errors in one line.

    aiokafka logs each address that does not answer, and asyncio logs what aiokafka did not await.
    """
    for name in ("aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def refusal(connection: Connection, error: BaseException) -> str | None:
    """Return the setting or right that an error points to; None if it points to none."""
    for cause in _causes(error):
        told = _certificate(connection, cause) or _login(connection, cause) or missing_to(cause)
        if told := told or _clock(cause):
            return told
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _certificate(connection: Connection, error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NOT_TODAY:
            return f"KAFKA_BROKERS: the broker's certificate {_NOT_TODAY[error.verify_code]}"
        return f"KAFKA_CA_FILE: the broker's certificate is not trusted: {error.verify_message}"
    if not isinstance(error, ssl.SSLError):
        return None
    reason = error.reason or ""
    if "ALERT" in reason or "CERTIFICATE" in reason:
        if connection.certificate_file is not None and _is_over(connection.certificate_file):
            return f"KAFKA_CERTIFICATE_FILE: {connection.certificate_file} has expired"
        # After the handshake of TLS 1.3, this is all that a broker says about the reason.
        told = reason.lower().replace("_", " ")
        return f"KAFKA_CERTIFICATE_FILE: the broker refuses this client's certificate ({told})"
    return "KAFKA_SECURITY_PROTOCOL: the broker speaks no TLS that this client knows"


def _is_over(certificate: Path) -> bool:
    # ssl has no public function that reads the client's certificate.
    shown = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return ssl.cert_time_to_seconds(shown["notAfter"]) < time()


def _login(connection: Connection, error: BaseException) -> str | None:
    if isinstance(error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError):
        if connection.mechanism == OAUTHBEARER:
            return "KAFKA_TOKEN_FILE: the broker refuses the token"
        return "KAFKA_USERNAME, KAFKA_PASSWORD: the broker refuses them"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"KAFKA_SASL_MECHANISM: the broker does not take {connection.mechanism}"
    if isinstance(error, errors.IllegalSaslStateError):
        return "KAFKA_SECURITY_PROTOCOL: the broker asks for no login at this port"
    if connection.token_file and isinstance(error, OSError):
        return _token_file(connection, error)
    return None


def _token_file(connection: Connection, error: OSError) -> str | None:
    if error.filename != str(connection.token_file):
        return None
    return f"KAFKA_TOKEN_FILE: {connection.token_file} cannot be read: {error.strerror}"


def missing_to(error: BaseException) -> str | None:
    """Return which right is missing according to an error; None if it does not say so."""
    if what := _MISSING.get(type(error)):
        return f"a right (ACL) to {what} is missing: {_RIGHTS}"
    return None


def _clock(error: BaseException) -> str | None:
    if isinstance(error, errors.InvalidTimestampError):
        return "the broker refuses the time of the records: see this machine's clock, and its own"
    return None


def missing_right(operation: str, resource: str, name: str) -> str:
    """Return the line that says which right is missing."""
    return f"the right (ACL) {operation} to {resource} {name} is missing: {_RIGHTS}"


async def why_refused(connection: Connection) -> str | None:
    """Connect as every client does; return why brokers refuse.

    None if a broker accepts this client, or no broker answers.
    """
    told = None
    for address in connection.addresses:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), connected(connection, address) as made:
                # aiokafka takes the refusal of a token for success. The next answer is empty then.
                if (await made.send(MetadataRequest([]))).brokers:
                    return None
                raise errors.AuthenticationFailedError
        except (OSError, errors.KafkaError, TimeoutError) as error:
            told = told or refusal(connection, error)
    return told


@asynccontextmanager
async def connected(connection: Connection, address: str) -> AsyncIterator[Any]:
    """Yield a connection to one broker, logged in."""
    host, port, _ = get_ip_port_afi(address)
    made = await create_conn(
        host,
        port,
        request_timeout_ms=round(ANSWER_SECONDS * 1000),
        **connection.security(),
    )
    try:
        yield made
    finally:
        await made.close()


async def require_access(connection: Connection) -> None:
    """Raise `KafkaAccessError` if brokers answer and refuse this client.

    aiokafka itself reports this as a failed connection.
    """
    if told := await why_refused(connection):
        raise KafkaAccessError(told)


def unusable(connection: Connection, error: Exception) -> RegistryError:
    """Return the error to raise if a broker was asked and the result was this error."""
    if told := refusal(connection, error):
        return KafkaAccessError(told)
    return BrokerUnavailableError(
        f"KAFKA_BROKERS: no usable answer from {connection.brokers} ({type(error).__name__})"
    )
