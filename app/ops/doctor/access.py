"""Checks folders, files, access keys and certificates."""

import os
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.access.files import read_keys
from app.access.keys import Key
from app.access.scopes import Scope
from app.config.settings import Settings
from app.config.tls import client_tls, expiry
from app.ops.doctor.findings import Finding, ok, problem, warning
from app.ops.doctor.machine import existing

#: Keys and certificates that expire within this time get a warning.
SOON = timedelta(days=14)

_CREATE_KEY = "create one: python -m app keys create --name NAME --scope admin"


async def files(settings: Settings) -> Sequence[Finding]:
    """Check the files that the settings name on this machine.

    The settings have read them already.
    """
    return list(_files(settings))


def _files(settings: Settings) -> Iterator[Finding]:
    folder = existing(settings.data_dir)
    if os.access(folder, os.W_OK | os.X_OK):
        yield ok(f"DATA_DIR: {settings.data_dir} can be written")
    else:
        yield problem(f"DATA_DIR: {folder} cannot be written", "give it to the worker's user")
    yield _judge_secret(settings)
    named = {
        "DATA_DIR": settings.data_dir,
        "KEYS_FILE": settings.keys_file,
        "TLS_KEY_FILE": settings.tls_key_file,
        "EMAIL_SECRET_FILE": settings.email_secret_file,
        "SIGNING_SECRET_FILE": settings.signing_secret_file,
    }
    for name, path in named.items():
        if path is not None and path.exists():
            yield judge_permissions(name, path, path.stat().st_mode)


def _judge_secret(settings: Settings) -> Finding:
    if settings.email_secret is not None:
        return ok("EMAIL_SECRET is set")
    if settings.keys_file is not None and settings.signing_secret is None:
        return problem(
            "EMAIL_SECRET is not set, and KEYS_FILE is: no worker starts",
            "set it: 16 or more random characters, the same for all workers and for ever",
        )
    return ok("EMAIL_SECRET is not set: for a broker on this machine it need not be")


def judge_permissions(name: str, path: Path, mode: int) -> Finding:
    """Return whether other users can read a secret file, or write to a folder."""
    is_folder = stat.S_ISDIR(mode)
    advice = f"chmod {700 if is_folder else 600} {path}"
    # A group may share a volume. The files that a worker makes there are private anyway.
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_folder:
        return problem(f"{name}: others than its owner may change {path}", advice)
    if mode & (stat.S_IRWXG | stat.S_IRWXO if is_folder else stat.S_IRGRP | stat.S_IROTH):
        return warning(f"{name}: others than its owner may read {path}", advice)
    return ok(f"{name}: only its owner may read {path}")


async def keys(settings: Settings) -> Sequence[Finding]:
    """Check the access keys."""
    if settings.keys_file is None:
        return [_judge_no_keys(settings)]
    return list(judge_keys(read_keys(settings.keys_file), datetime.now(UTC)))


def _judge_no_keys(settings: Settings) -> Finding:
    if settings.is_open:
        return warning(
            "KEYS_FILE is not set: everybody who reaches the worker may write",
            "set it, unless something in front of the worker keeps strangers out",
        )
    return ok("KEYS_FILE is not set: the worker listens to this machine only")


def judge_keys(known: Sequence[Key], now: datetime) -> Iterator[Finding]:
    """Yield which keys have expired or will soon, and what no key allows."""
    for key in known:
        if key.expires_at is not None and key.expires_at - now <= SOON:
            yield _judge_end(key.name, key.expires_at, now)
    valid = [key for key in known if key.expires_at is None or key.expires_at > now]
    if not valid:
        yield problem(f"none of {len(known)} keys is valid: every request is refused", _CREATE_KEY)
    elif not any(key.allows(Scope.ADMIN) for key in valid):
        yield warning(f"none of {len(valid)} valid keys is an admin's", _CREATE_KEY)
    else:
        yield ok(f"{len(valid)} of {len(known)} keys are valid, and one of them is an admin's")


def _judge_end(name: str, end: datetime, now: datetime) -> Finding:
    if end <= now:
        advice = f"if it is not missed: python -m app keys revoke {name}"
        return warning(f"key {name} has expired, on {_day(end)}", advice)
    return warning(f"key {name} expires on {_day(end)}", "create another one for its holder")


async def certificates(settings: Settings) -> Sequence[Finding]:
    """Check this worker's certificate, and the authorities of others' certificates."""
    findings = [] if settings.tls_ca_file is None else [_authority(settings)]
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return [ok("TLS_CERT_FILE is not set: the worker serves http"), *findings]
    end = expiry(settings.tls_cert_file, settings.tls_key_file)
    return [judge_certificate("TLS_CERT_FILE", end, datetime.now(UTC)), *findings]


def _authority(settings: Settings) -> Finding:
    ends = [str(shown["notAfter"]) for shown in client_tls(settings).get_ca_certs()]
    if not ends:
        return problem("TLS_CA_FILE: holds no authority's certificate", "put it there, in PEM")
    end = min(map(_moment, ends))
    return judge_certificate("TLS_CA_FILE", end, datetime.now(UTC))


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)


def judge_certificate(name: str, end: datetime, now: datetime) -> Finding:
    """Return whether a certificate is valid for long enough."""
    if end <= now:
        return problem(f"{name}: has expired, on {_day(end)}", "replace it")
    if end - now <= SOON:
        return warning(f"{name}: expires on {_day(end)}", "renew it: workers take it at once")
    return ok(f"{name}: valid until {_day(end)}")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
