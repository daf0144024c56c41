"""The deployment that a command calls over HTTP: address, certificate, key."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import click

from app.domain.errors import RegistryError

#: Options of commands that call a deployment.
key_option = click.option(
    "--key",
    type=str.strip,
    envvar="REGISTRY_KEY",
    metavar="KEY",
    help="API key. Better: REGISTRY_KEY.",
)
ca_file_option = click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Certificates to trust beside the machine's (PEM).",
)

#: Characters that a header may hold, without white space.
_KEY_PATTERN = r"[!-~]+"


class TargetError(RegistryError):
    """An address, a key or a file of certificates cannot be used."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address: host and port, the path before ours, and whether it uses TLS."""

    host: str
    port: int
    host_header: str
    path: str
    is_tls: bool

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Return the target of a URL, or raise `TargetError`."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise _no_address(url) from None
        if not _is_plain(parts):
            raise _no_address(url)
        host = str(parts.hostname)
        return cls(host, port, parts.netloc, parts.path.rstrip("/"), parts.scheme == "https")

    def tls(self, ca_file: Path | None) -> ssl.SSLContext | None:
        """Return the TLS context, None for http.

        It trusts some certificates beside this machine's.
        """
        if not self.is_tls:
            return None
        context = ssl.create_default_context()
        if ca_file is not None:
            try:
                context.load_verify_locations(ca_file)
            except OSError:  # ssl.SSLError is one
                raise TargetError(f"{ca_file}: no certificates can be read there") from None
        return context


def check_key(key: str | None) -> None:
    """Raise `TargetError` if no header can hold the key."""
    if key is not None and not re.fullmatch(_KEY_PATTERN, key):
        raise TargetError("the key must be printable ASCII without spaces")


def _is_plain(parts: SplitResult) -> bool:
    """Return whether a URL has a host, and no part that would be dropped."""
    text = parts.geturl()
    surplus = parts.query or parts.fragment or "@" in parts.netloc
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not surplus
        and text.isascii()
        and text.isprintable()
        and " " not in text
    )


def _no_address(url: str) -> TargetError:
    # The text before an @ is a password.
    shown = "the URL" if "@" in url else repr(url)
    return TargetError(f"{shown} is no address of a registry: it must be http(s)://host:port")
