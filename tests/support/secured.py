"""A real broker that speaks TLS, asks for a login and gives rights, as a provider's does."""

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate

from local.broker import Broker
from local.machine import HOST, free_port
from tests.support.authority import LONG_AGO, Authority
from tests.support.java import QUICK

PASSWORD = "one that nobody guesses"
USER = "user-registry"

_RIGHTS = Path(__file__).parents[2] / "docs" / "hosted-kafka.md"
_ROW = re.compile(r"^\| (topic|group|transactional id) \| (\S+) \| (\w+) \| (.+) \|$", re.M)
_RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}
_LOGIN = "org.apache.kafka.common.security"


@dataclass
class Secured:
    """Where the broker is, by a login and by certificates, and how its owner speaks to it."""

    folder: Path
    authority: Authority = field(init=False)
    #: Of the same CA, and too old.
    expired: Authority = field(init=False)
    plain: int = field(default_factory=free_port)
    login: int = field(default_factory=free_port)
    certificates: int = field(default_factory=free_port)
    outdated: int = field(default_factory=free_port)
    controller: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(self.folder)
        self.authority.issue()
        self.expired = Authority(self.folder / "expired", self.authority.ca)
        self.expired.issue(not_after=LONG_AGO)
        self.broker = Broker(
            self.folder / "broker", self.plain, self._properties(), java_options=QUICK
        )

    @property
    def settings(self) -> dict[str, str]:
        """What a worker is told of it."""
        return {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_USERNAME": USER,
            "KAFKA_PASSWORD": PASSWORD,
            "KAFKA_CA_FILE": str(self.authority.ca_file),
        }

    @property
    def settings_by_certificate(self) -> dict[str, str]:
        """What a worker is told that shows a certificate in place of a login."""
        certificate, key = map(str, self.authority.files)
        return {
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_CERTIFICATE_FILE": certificate,
            "KAFKA_KEY_FILE": key,
            "KAFKA_CA_FILE": str(self.authority.ca_file),
        }

    @property
    def certificates_principal(self) -> str:
        """Who that worker is to the broker."""
        shown = load_pem_x509_certificate(self.authority.files[0].read_bytes())
        # Java escapes more than it must.
        name = shown.subject.rfc4514_string().replace("#", r"\#")
        return f"User:{name}"

    @property
    def address(self) -> str:
        """Where one logs in."""
        return f"{HOST}:{self.login}"

    @property
    def certificates_address(self) -> str:
        """Where one shows a certificate."""
        return f"{HOST}:{self.certificates}"

    @property
    def outdated_address(self) -> str:
        """Where the broker's certificate has expired."""
        return f"{HOST}:{self.outdated}"

    def admin(self) -> AdminClient:
        """Return what its owner has, to whom everything is allowed."""
        return AdminClient({"bootstrap.servers": self.broker.address})

    def add_user(self, password: str = PASSWORD) -> None:
        """Let the user log in by SCRAM with a password, and with no other."""
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(USER, credential, password.encode())
        admin = self.admin()
        admin.alter_user_scram_credentials([change])[USER].result(10)

    def give(self, rights: list[AclBinding]) -> None:
        """Give rights."""
        admin = self.admin()
        for given in admin.create_acls(rights).values():
            given.result(10)

    def take(self, right: AclBinding) -> None:
        """Take a right away."""
        wanted = AclBindingFilter(
            right.restype,
            right.name,
            right.resource_pattern_type,
            right.principal,
            right.host,
            right.operation,
            right.permission_type,
        )
        admin = self.admin()
        for taken in admin.delete_acls([wanted]).values():
            assert len(taken.result(10)) == 1

    def keystore(self, name: str, authority: Authority) -> Path:
        """Return a file that holds what an authority has issued, as a broker takes it."""
        certificate, key = authority.files
        file = self.folder / name
        file.write_bytes(_pkcs8(key) + certificate.read_bytes())
        return file

    def _properties(self) -> Mapping[str, str]:
        keys = self.keystore("broker.pem", self.authority)
        expired = self.keystore("outdated.pem", self.expired)
        here = {
            "PLAINTEXT": self.plain,
            "SASL_SSL": self.login,
            "SSL": self.certificates,
            "OUTDATED": self.outdated,
        }
        listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in here.items())
        return {
            "listeners": f"{listeners},CONTROLLER://{HOST}:{self.controller}",
            "advertised.listeners": listeners,
            "controller.quorum.voters": f"1@{HOST}:{self.controller}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
            "SASL_SSL:SASL_SSL,SSL:SSL,OUTDATED:SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keys),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.ca_file),
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.outdated.ssl.keystore.type": "PEM",
            "listener.name.outdated.ssl.keystore.location": str(expired),
            # A certificate for tests has a name that no other one has.
            "ssl.allow.dn.changes": "true",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram."
            "ScramLoginModule required;",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule "
            f'required user_{USER}="{PASSWORD}";',
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": f"{_LOGIN}.oauthbearer."
            'OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Who comes by the plain port, or is the controller, is the owner.
            "super.users": "User:ANONYMOUS",
        }


def _pkcs8(key: Path) -> bytes:
    # Java reads no other form.
    loaded = load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def least_rights(app_id: str, prefix: str, principal: str = f"User:{USER}") -> list[AclBinding]:
    """Return the rights that docs/hosted-kafka.md lists, for one registry."""
    return list(_least_rights(app_id, prefix, principal))


def _least_rights(app_id: str, prefix: str, principal: str) -> Iterator[AclBinding]:
    rows = _ROW.findall(_RIGHTS.read_text())
    assert len(rows) == 6
    for resource, name, pattern, operations in rows:
        full = name.replace("`TOPIC_PREFIX`", prefix).replace("`APP_ID`", app_id)
        for operation in operations.split(", "):
            yield AclBinding(
                _RESOURCES[resource],
                full,
                ResourcePatternType[pattern.upper()],
                principal,
                "*",
                _OPERATIONS[operation],
                AclPermissionType.ALLOW,
            )


def token(subject: str = USER, seconds: float = 3600) -> str:
    """Return a token without a signature, which a broker for tests takes."""
    now = time.time()
    claims = {"sub": subject, "iat": now, "exp": now + seconds}
    return ".".join([_encoded({"alg": "none"}), _encoded(claims), ""])


def _encoded(part: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
