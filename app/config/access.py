"""Settings of access: keys, tokens, certificates, hosts, other sites, proxies."""

from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from app.config.source import SettingsGroup
from app.config.values import File
from app.domain.hosts import bare_host, is_loopback
from app.domain.texts import shown


class AccessSettings(SettingsGroup):
    """Who may call a worker, and how a caller proves it."""

    keys_file: File | None = Field(
        None, description="Holds the access keys. Unset: callers need none."
    )
    allow_open_bind: bool = Field(
        False, description="Allow WEB_HOST and INTERNAL_HOST beyond loopback without access keys."
    )
    session_hours: float = Field(
        12, gt=0, le=8760, description="How long a person stays logged in to the pages."
    )
    audit_file: File | None = Field(
        None,
        description="File of the audit log. Unset: stderr if KEYS_FILE is set, else none.",
    )
    tls_cert_file: File | None = Field(None, description="This worker's certificate chain, in PEM.")
    tls_key_file: File | None = Field(None, description="The certificate's private key, in PEM.")
    tls_ca_file: File | None = Field(
        None, description="Authorities of other workers' certificates. Unset: the system's."
    )
    jwt_jwks: str | None = Field(
        None,
        description="A file or an https address with the keys that sign JWTs; needs the extra jwt.",
    )
    jwt_audience: str | None = Field(None, description="The audience that JWTs must have.")
    jwt_issuer: str | None = Field(None, description="The issuer that JWTs must have.")
    jwt_scope_claim: str = Field("scope", description="The claim of JWTs that holds scopes.")
    allowed_hosts: str | None = Field(
        None,
        description="Host names for clients, beside this machine's, separated by commas.",
    )
    cors_origins: str | None = Field(
        None,
        pattern=r"^(\*|https?://[^/\s,]+(\s*,\s*https?://[^/\s,]+)*)$",
        description="Origins whose scripts may call, separated by commas, or * for all.",
    )
    trusted_proxies: int = Field(
        0, ge=0, le=16, description="Proxies in front whose X-Forwarded-* headers count."
    )

    @model_validator(mode="after")
    def _hosts_are_named(self) -> Self:
        if not all(map(bare_host, self.hosts)):
            raise ValueError(
                "ALLOWED_HOSTS: must be names or addresses without ports, separated by commas "
                f"(got {shown(self.allowed_hosts)})"
            )
        return self

    @model_validator(mode="after")
    def _scripts_of_all_sites_need_keys(self) -> Self:
        if "*" in self.origins and self.keys_file is None:
            raise ValueError(
                "CORS_ORIGINS: * lets the scripts of any site write; set KEYS_FILE to ask for "
                "access keys, or name the sites"
            )
        return self

    @model_validator(mode="after")
    def _tokens_are_bound(self) -> Self:
        given = (self.jwt_jwks, self.jwt_audience, self.jwt_issuer)
        if any(given) and not all(given):
            raise ValueError("JWT_JWKS, JWT_AUDIENCE, JWT_ISSUER: set all of them or none")
        if self.jwt_jwks is not None and self.keys_file is None:
            raise ValueError("JWT_JWKS: needs KEYS_FILE, also if it holds no keys")
        if _is_plain_http(self.jwt_jwks):
            raise ValueError("JWT_JWKS: must be https: who answers for it makes keys")
        return self

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERT_FILE, TLS_KEY_FILE: set both or neither")
        return self

    @property
    def origins(self) -> frozenset[str]:
        """The sites whose scripts may call."""
        return frozenset(_listed(self.cors_origins))

    @property
    def hosts(self) -> Sequence[str]:
        """The host names that clients may use, beside this machine's."""
        return _listed(self.allowed_hosts)


def _listed(text: str | None) -> list[str]:
    """Return the entries of a list in a setting, in lower case."""
    return [each.strip() for each in (text or "").lower().split(",") if each.strip()]


def _is_plain_http(url: str | None) -> bool:
    """Return whether a URL leads to another machine without TLS."""
    parts = urlsplit(url or "")
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
