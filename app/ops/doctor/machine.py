"""Checks the machine: versions, disk, open files, clock."""

import ctypes
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import requires, version
from pathlib import Path

from aiohttp import ClientError

from app.config.settings import Settings
from app.ops.doctor.findings import Finding, ok, problem, warning
from app.ops.doctor.worker import ask
from app.worker.descriptors import allow_all, allowed, reserved

#: The Python version of all tests and measurements.
PYTHON = (3, 11)

GIB = 1024**3
SCARCE_BYTES = 5 * GIB
SCARCE_SHARE = 0.1
TOO_LITTLE_BYTES = GIB

#: Clocks that differ by more than this confuse comparisons of time, and beyond the second value
#: also retention.
APART_SECONDS = 2.0
FAR_APART_SECONDS = 60.0

#: The kernel's answer while its clock is not synchronised (``TIME_ERROR`` of adjtimex(2)).
_UNSYNCHRONISED = 5
#: Longer than any ``struct timex``. All zeros: it only reads.
_TIMEX_BYTES = 512

#: The pinned part of a requirement: ``aiokafka[lz4]==0.14.0``.
_PIN = re.compile(r"([\w.-]+)(?:\[.*\])?==([^\s;]+)")


async def versions(_: Settings) -> Sequence[Finding]:
    """Compare the installed versions with those of this release."""
    pins = pinned(requires("user-registry") or ())
    return list(judge_versions(sys.version_info[:2], pins, {name: version(name) for name in pins}))


def pinned(requirements: Sequence[str]) -> Mapping[str, str]:
    """Return the packages with a fixed version, and that version."""
    found = map(_PIN.fullmatch, requirements)
    return {pin[1]: pin[2] for pin in found if pin}


def judge_versions(
    python: tuple[int, ...], pins: Mapping[str, str], installed: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield which versions differ from those of this release."""
    others = [name for name in pins if installed[name] != pins[name]]
    if python != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        yield problem(f"Python {platform.python_version()} runs this", f"use Python {wanted}")
    for name in others:
        what = f"{name} {installed[name]} is installed, and {pins[name]} is what this was made for"
        yield problem(what, f"install {name}=={pins[name]}")
    if python == PYTHON and not others:
        listed = ", ".join(f"{name} {pins[name]}" for name in pins)
        yield ok(f"Python {platform.python_version()}, {listed}")


async def disk(settings: Settings) -> Sequence[Finding]:
    """Check the free space for the stores."""
    usage = shutil.disk_usage(existing(settings.data_dir))
    return [judge_disk(usage.free, usage.total)]


def existing(path: Path) -> Path:
    """Return a folder, or the first existing folder above it."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


def judge_disk(free: int, total: int) -> Finding:
    """Return whether there is enough free space."""
    what = f"DATA_DIR: {free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    advice = "make room, or move DATA_DIR to a larger disk: full, it stops the worker"
    if free < TOO_LITTLE_BYTES:
        return problem(what, advice)
    if free < SCARCE_BYTES or free < total * SCARCE_SHARE:
        return warning(what, advice)
    return ok(what)


async def open_files(settings: Settings) -> Sequence[Finding]:
    """Check how many files and connections a process that starts here may open."""
    allow_all()
    return [judge_open_files(allowed(), reserved(settings), settings.max_connections)]


def judge_open_files(files: int, kept: int, connections: int) -> Finding:
    """Return whether the limit is enough for all connections."""
    what = f"a process may have {files} files open: {kept} of them are for stores and brokers"
    if files - kept >= connections:
        return ok(what)
    advice = "raise the limit (ulimit -n, LimitNOFILE=), or lower MAX_CONNECTIONS"
    return warning(f"{what}, MAX_CONNECTIONS is {connections}", advice)


async def clock(settings: Settings) -> Sequence[Finding]:
    """Check whether the clock is synchronised, and compare it with a worker's."""
    return [_judge_kernel(), await _against_worker(settings)]


def _judge_kernel() -> Finding:
    kernel = ctypes.CDLL(None)
    # Only Linux has this function.
    if not hasattr(kernel, "adjtimex"):
        return ok("the system does not tell whether its clock is kept right")
    if kernel.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _UNSYNCHRONISED:
        return warning("the system does not say that its clock is kept right", "run an NTP client")
    return ok("the system does not say that its clock is wrong")


async def _against_worker(settings: Settings) -> Finding:
    try:
        answer = await ask(settings)
    except (ClientError, TimeoutError, ValueError):
        return ok("no worker answers whose clock this one could be compared with")
    if answer.ahead_seconds is None:
        return ok("the worker does not tell the time")
    return judge_clock(answer.ahead_seconds)


def judge_clock(ahead_seconds: float) -> Finding:
    """Return whether a worker's clock (in whole seconds) agrees with this one."""
    apart = abs(ahead_seconds)
    what = f"the worker's clock and this one are {apart:.0f} s apart"
    if apart > FAR_APART_SECONDS:
        return problem(what, "run an NTP client on both machines: retention goes by the time")
    if apart > APART_SECONDS:
        return warning(what, "run an NTP client on both machines")
    return ok("the worker's clock and this one show the same time")
