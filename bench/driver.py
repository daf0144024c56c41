"""The client of `acknowledge`: the project's own `load`, in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from bench.engines import Running
from bench.errors import PeerFailed
from local.places import PROJECT

#: Driven, and not counted: a virtual machine compiles what it runs often.
WARMUP_SECONDS = 2.0
#: Beyond the time that it was told to drive.
GRACE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Driven:
    """What was acknowledged between two moments (`time.time`), and how long that took."""

    began: float
    ended: float
    acknowledged: int
    refused: int
    per_second: float
    p50_ms: float
    p99_ms: float
    client_limited: bool


def drive(
    running: Running, mode: str, batch: int, connections: int, seconds: float, rate: float | None
) -> Driven:
    """Drive a server for a time: by a schedule, or as fast as its answers come."""
    command = [
        *(sys.executable, "-m", "app", "load", str(running.url)),
        *("--mode", mode, "--batch", str(batch), "--connections", str(connections)),
        *("--duration", str(seconds), "--warmup", str(WARMUP_SECONDS), "--json", "-"),
        *(("--rate", str(rate)) if rate else ()),
    ]
    limit = seconds + WARMUP_SECONDS + GRACE_SECONDS
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"the client did not end within {limit:.0f} s") from None
    if done.returncode:
        detail = f"{done.stderr.decode(errors='replace')}\n{running.last_words()}"
        raise PeerFailed("nothing was acknowledged", detail)
    return _driven(orjson.loads(done.stdout))


def _driven(told: Mapping[str, Any]) -> Driven:
    # Up to a second too early, within the warm-up: the load is the same there.
    began = datetime.fromisoformat(told["started"]).timestamp() + WARMUP_SECONDS
    # Without a schedule, requests are due when they are sent.
    latencies = told["response_ms"] or told["service_ms"]
    return Driven(
        began=began,
        ended=began + told["seconds"],
        acknowledged=told["acknowledged"],
        refused=told["registrations"] - told["acknowledged"],
        per_second=told["registrations_per_second"],
        p50_ms=latencies["p50"],
        p99_ms=latencies["p99"],
        client_limited=told["client_limited"],
    )
