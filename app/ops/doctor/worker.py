"""Checks the worker at its own address: running, ready, same version."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout

from app.config.settings import Settings
from app.domain.errors import SettingsError
from app.ops.doctor.findings import Finding, ok, problem, warning
from app.worker.preflight import require_port

ASK_SECONDS = 3.0

#: The address to ask if a worker listens on all addresses.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  it is asked, not listened on


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's answer about itself."""

    reasons: Sequence[str]
    is_ready: bool
    #: How far its clock is ahead of this one, in whole seconds.
    ahead_seconds: float | None


async def check(settings: Settings) -> Sequence[Finding]:
    """Ask the worker whether it is ready. If none runs, check whether one could start."""
    try:
        answer = await ask(settings)
    except ClientConnectorError:
        return [_judge_free_port(settings)]
    except (ClientError, TimeoutError, ValueError) as error:
        return [
            problem(
                f"who listens on {_place(settings)} gives no worker's answer "
                f"({type(error).__name__})",
                "if it is a worker, see its log; else stop it, or set another WEB_PORT",
            )
        ]
    return judge_worker(_place(settings), answer)


async def ask(settings: Settings) -> Answer:
    """Return the worker's answer; raise aiohttp's errors, `TimeoutError` or `ValueError`."""
    # The question holds no secret, so its certificate is not checked here. Another check does that.
    url = f"{_scheme(settings)}://{_place(settings)}/health/ready"
    async with (
        ClientSession(timeout=ClientTimeout(ASK_SECONDS)) as session,
        session.get(url, ssl=False, allow_redirects=False) as answered,
    ):
        told = await answered.json(content_type=None)
        now = time.time()
    if not isinstance(told, dict) or told.get("status") not in ("ready", "not ready"):
        raise ValueError("not a worker's answer")
    date = answered.headers.get("Date")
    ahead = None if date is None else parsedate_to_datetime(date).timestamp() - int(now)
    return Answer(list(map(str, told.get("reasons", ()))), told["status"] == "ready", ahead)


def judge_worker(place: str, answer: Answer) -> Sequence[Finding]:
    """Return whether a worker is ready, or one finding for each reason why not."""
    if answer.is_ready:
        return [ok(f"the worker on {place} is ready")]
    advice = "it may pass by itself; if it does not, see the worker's log"
    reasons = answer.reasons or ["it does not say why"]
    return [problem(f"the worker on {place} is not ready: {each}", advice) for each in reasons]


def _judge_free_port(settings: Settings) -> Finding:
    try:
        named = "WEB_PORT" if settings.internal_port is None else "INTERNAL_PORT"
        require_port(*settings.own_address, named)
    except SettingsError as error:
        return problem(str(error), "set WEB_HOST to an address of this machine, or another port")
    return warning(f"no worker runs on {_place(settings)}", "start one: python -m app worker")


def _scheme(settings: Settings) -> str:
    return "http" if settings.tls_cert_file is None else "https"


def _place(settings: Settings) -> str:
    host, port = settings.own_address
    host = _LOOPBACK.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
