"""A broker with TLS, logins and rights: a worker lives with the least, and says what is amiss."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    ResourceType,
)

from app.config.connection import Connection
from app.config.settings import Settings
from app.domain.errors import KafkaAccessError
from app.kafka.acls import require
from app.kafka.client_errors import why_refused
from tests.support import kafka, preloaded
from tests.support.authority import Authority
from tests.support.secured import PASSWORD, USER, Secured, least_rights, token
from tests.support.worker import Registry, Worker, email_of, wait_until

EMAIL_SECRET = "sixteen characters or more"
BROKER_EXPIRED = "KAFKA_BROKERS: the broker's certificate has expired"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Run a broker as a provider's is."""
    made = Secured(tmp_path_factory.mktemp("secured"))
    with made.broker:
        made.add_user()
        yield made


@pytest.fixture
def refused(secured: Secured, tmp_path: Path) -> Worker:
    """Return a worker that is to be refused before it sees any topic."""
    return Registry(secured.address, tmp_path, settings=secured.settings).worker()


@pytest.fixture
def registry(secured: Secured, tmp_path: Path) -> Registry:
    """Return a registry whose topics its owner has made, and whose workers have the least."""
    made = Registry(secured.address, tmp_path, settings={**secured.settings, "PARTITIONS": "2"})
    owner = {"KAFKA_BROKERS": secured.broker.address, **dict.fromkeys(secured.settings, "")}
    done = run(made.worker(), "topics", **owner)
    assert (done.returncode, done.stderr) == (0, "")
    secured.give(rights_of(made))
    return made


def rights_of(registry: Registry) -> list[AclBinding]:
    """Return the least rights of a registry's workers."""
    return least_rights(registry.app_id, f"{registry.app_id}.")


def run(worker: Worker, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Return how a command of the app ended that has a worker's settings."""
    return preloaded.run({**worker.environment, **settings}, *arguments)


def told(worker: Worker, **settings: str) -> str:
    """Return the line with which a worker refuses to start."""
    done = run(worker, "worker", **settings)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert PASSWORD not in done.stderr
    return done.stderr.strip()


def test_a_worker_lives_with_the_least_rights(secured: Secured, registry: Registry) -> None:
    user = {"id": "u1", "name": "One", "email": email_of("u1")}
    with registry.worker() as worker:
        assert worker.post("/users", json=user).status_code == 202
        assert worker.wait_for_user("u1")["name"] == "One"
        kafka.produce(
            secured.broker.address, registry.registrations, [{"key": b"x", "value": b"no JSON"}]
        )
        wait_until(
            lambda: kafka.read_all(secured.broker.address, registry.dead_letters),
            20,
            "a dead letter is there",
        )
        doctor = run(worker, "doctor")
        assert "every right" in doctor.stdout, doctor.stdout
        worker.kill()
        # Its store is gone: all comes from the changelog.
        for store in (worker.folder).glob("v*"):
            subprocess.run(["rm", "-r", str(store)], check=True)
        worker.start()
        assert worker.wait_for_user("u1")["name"] == "One"
        verified = run(worker, "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_refused_login_is_told_in_one_line(refused: Worker) -> None:
    line = "KAFKA_USERNAME, KAFKA_PASSWORD: the broker refuses them"
    assert told(refused, KAFKA_PASSWORD="wrong") == line
    mechanism = told(refused, KAFKA_SASL_MECHANISM="SCRAM-SHA-256")
    assert mechanism == "KAFKA_SASL_MECHANISM: the broker does not take SCRAM-SHA-256"
    assert line in run(refused, "doctor", KAFKA_PASSWORD="wrong").stdout


def test_an_unknown_authority_is_told_in_one_line(refused: Worker, tmp_path: Path) -> None:
    line = told(refused, KAFKA_CA_FILE=str(Authority(tmp_path).ca_file))
    assert line.startswith("KAFKA_CA_FILE: the broker's certificate is not trusted: ")


#: What a worker says if it lacks a right, by what the right is to and for.
MISSING = {
    (ResourceType.TOPIC, AclOperation.WRITE): "the right (ACL) Write to topic ",
    (ResourceType.TOPIC, AclOperation.READ): "the right (ACL) Read to topic ",
    (ResourceType.GROUP, AclOperation.READ): "the right (ACL) Read to group ",
    (ResourceType.TRANSACTIONAL_ID, AclOperation.WRITE): (
        "the right (ACL) Write to transactional id "
    ),
}


def test_a_missing_right_is_told_in_one_line(secured: Secured, registry: Registry) -> None:
    rights = {(each.restype, each.operation): each for each in reversed(rights_of(registry))}
    for place, line in MISSING.items():
        secured.take(rights[place])
        assert told(registry.worker()).startswith(line)
        secured.give([rights[place]])


async def test_a_missing_right_to_transactions_is_noticed_while_a_worker_runs(
    secured: Secured, registry: Registry
) -> None:
    given = {name.lower(): value for name, value in registry.worker().environment.items()}
    settings = Settings.model_validate({**given, "email_secret": EMAIL_SECRET})
    await require(settings)
    for right in rights_of(registry):
        if right.restype is ResourceType.TRANSACTIONAL_ID:
            secured.take(right)
    with pytest.raises(KafkaAccessError, match=r"Write to transactional id .* is missing"):
        await require(settings)


@pytest.mark.soak
def test_a_worker_that_loses_the_right_to_its_group_ends_with_one_line(
    secured: Secured, registry: Registry
) -> None:
    with registry.worker() as worker:
        for right in rights_of(registry):
            if right.restype is ResourceType.GROUP:
                secured.take(right)
        assert worker.wait() == 1
        log = worker.log.read_text()
        assert log.count("the brokers refuse this worker; it ends") == 1
        assert "  File " not in log
        assert told(worker).startswith("the right (ACL) Read to group ")
        secured.give(rights_of(registry))
        worker.start()


@pytest.mark.soak
def test_a_worker_logs_in_by_a_plain_password(secured: Secured, registry: Registry) -> None:
    registry.settings = {**registry.settings, "KAFKA_SASL_MECHANISM": "PLAIN"}
    assert_works(registry.worker())


@pytest.mark.soak
def test_a_worker_shows_a_certificate(secured: Secured, registry: Registry) -> None:
    by_password = dict.fromkeys(secured.settings, "")
    registry.brokers = secured.certificates_address
    registry.settings = {
        **registry.settings,
        **by_password,
        **secured.settings_by_certificate,
        "EMAIL_SECRET": EMAIL_SECRET,
    }
    assert "the right (ACL) " in told(registry.worker())
    prefix = f"{registry.app_id}."
    secured.give(least_rights(registry.app_id, prefix, secured.certificates_principal))
    assert_works(registry.worker())


def assert_works(worker: Worker) -> None:
    """Fail unless a worker takes a user and finds it, also from its changelogs, and verifies."""
    user = {"id": "u1", "name": "One", "email": email_of("u1")}
    with worker:
        assert worker.post("/users", json=user).status_code == 202
        assert worker.wait_for_user("u1")["name"] == "One"
        verified = run(worker, "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "every right" in run(worker, "doctor").stdout
    assert "  File " not in worker.log.read_text()


@pytest.mark.soak
def test_a_running_worker_says_that_the_brokers_certificate_has_expired(
    secured: Secured, registry: Registry
) -> None:
    where = "listener.name.sasl_ssl.ssl.keystore.location"
    sound = secured.keystore("broker.pem", secured.authority)
    with registry.worker() as worker:

        def says_why() -> bool:
            answer = worker.get("/health/ready")
            return answer.status_code == 503 and BROKER_EXPIRED in answer.text

        outdated = str(secured.keystore("outdated.pem", secured.expired))
        kafka.alter_broker(secured.broker.address, {where: outdated})
        try:
            wait_until(says_why, 30, "readiness says why the worker is refused")
        finally:
            kafka.alter_broker(secured.broker.address, {where: str(sound)})
        wait_until(worker.is_ready, 30, "the worker is ready again")
    assert "  File " not in worker.log.read_text()


@pytest.mark.soak
def test_a_running_worker_says_why_it_is_refused(secured: Secured, registry: Registry) -> None:
    line = "KAFKA_USERNAME, KAFKA_PASSWORD: the broker refuses them"
    with registry.worker() as worker:

        def says_why() -> bool:
            answer = worker.get("/health/ready")
            return answer.status_code == 503 and line in answer.text

        secured.add_user("another password")
        try:
            wait_until(says_why, 30, "readiness says why the worker is refused")
        finally:
            secured.add_user()
        wait_until(worker.is_ready, 30, "the worker is ready again")


def connection_by_login(secured: Secured, **more: object) -> Connection:
    """Return a connection that logs in."""
    plain = Connection(
        secured.address,
        "SASL_SSL",
        "PLAIN",
        USER,
        PASSWORD,
        ca_file=secured.authority.ca_file,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


async def test_plain_passwords_and_tokens_are_taken(secured: Secured, tmp_path: Path) -> None:
    file = tmp_path / "token"
    by_token = connection_by_login(secured, mechanism="OAUTHBEARER", token_file=file)
    assert await why_refused(connection_by_login(secured)) is None
    assert (await why_refused(by_token) or "").startswith("KAFKA_TOKEN_FILE: ")
    file.write_text(token())
    assert await why_refused(by_token) is None
    file.write_text(token(seconds=-3600))
    assert await why_refused(by_token) == "KAFKA_TOKEN_FILE: the broker refuses the token"


def test_an_expired_certificate_is_told_in_one_line(secured: Secured, refused: Worker) -> None:
    shown = {**dict.fromkeys(secured.settings, ""), **secured.settings_by_certificate}
    assert told(refused, **shown, KAFKA_BROKERS=secured.outdated_address) == BROKER_EXPIRED
    certificate, key = map(str, secured.expired.files)
    shown |= {"KAFKA_CERTIFICATE_FILE": certificate, "KAFKA_KEY_FILE": key}
    line = told(refused, **shown, KAFKA_BROKERS=secured.certificates_address)
    assert line == f"KAFKA_CERTIFICATE_FILE: {certificate} has expired"


async def test_certificates_are_taken_and_refused(secured: Secured, tmp_path: Path) -> None:
    known = secured.authority.files
    connection = Connection(
        secured.certificates_address,
        "SSL",
        ca_file=secured.authority.ca_file,
        certificate_file=known[0],
        key_file=known[1],
    )
    assert await why_refused(connection) is None
    line = "KAFKA_CERTIFICATE_FILE: the broker refuses this client's certificate ("
    nobody = replace(connection, certificate_file=None, key_file=None)
    assert (await why_refused(nobody) or "").startswith(line)
    other = Authority(tmp_path)
    other.issue(not_after=datetime.now(UTC) + timedelta(days=1))
    stranger = replace(connection, certificate_file=other.files[0], key_file=other.files[1])
    assert (await why_refused(stranger) or "").startswith(line)
