"""The commands of README and tutorial do what the pages say, on a real registry."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local.broker import Broker
from local.machine import free_port
from tests.support.documents import ROOT, Block, blocks, outside
from tests.support.terminal import Terminal
from tests.support.worker import Worker

READY_SECONDS = 60
BLOCK_SECONDS = 60


def test_the_minute_of_the_readme(worker: Worker, tmp_path: Path) -> None:
    fresh = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in ("ada", "eve")}
    replaced = {"127.0.0.1:6066": f"127.0.0.1:{worker.port}"}
    replaced |= {f'"{name}"': f'"{new}"' for name, new in fresh.items()}
    replaced |= {f"users/{name}": f"users/{new}" for name, new in fresh.items()}
    replaced |= {"ada@": f"{fresh['ada']}@"}
    (block,) = blocks(ROOT / "README.md", replaced)
    user = f'"id":"{fresh["ada"]}"'
    printed = f'"accepted"…{user}…"version":2…{user}…{user}…email-taken…"erased"'
    Block(block.commands, printed).run(tmp_path, outside(), BLOCK_SECONDS)


@dataclass
class Desk:
    """The terminals of a reader, and where their commands lead instead."""

    folder: Path
    brokers: str
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        name = f"tutorial-{uuid.uuid4().hex[:8]}"
        self.second_port = free_port(besides=self.port)
        self.env = outside() | {
            "APP_ID": name,
            "DATA_DIR": str(self.folder / "data"),
            "KAFKA_BROKERS": self.brokers,
            "PARTITIONS": "4",
            "TOPIC_PREFIX": f"{name}.",
            "WEB_PORT": str(self.port),
            "SESSION_TIMEOUT_SECONDS": "6",
        }
        self.replaced = {
            "127.0.0.1:9092": self.brokers,
            "6066": str(self.port),
            "6067": str(self.second_port),
            "data/": f"{self.folder}/data/",
        }

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Yield the terminal of each block of the tutorial, and the block."""
        for block in blocks(ROOT / "docs" / "tutorial" / "index.md", self.replaced):
            terminal, _, _ = block.commands.partition("\n")
            yield terminal.removeprefix("# "), block


@pytest.fixture
def desk(broker: Broker, tmp_path: Path) -> Iterator[Desk]:
    """Return a place for one reader; nothing of it outlives the test."""
    desk = Desk(tmp_path, broker.address)
    yield desk
    subprocess.run(["make", "stop"], cwd=ROOT, env=desk.env, capture_output=True, check=False)


@pytest.mark.timeout(300)
def test_the_tutorial(desk: Desk) -> None:
    (first, start), *rest = desk.blocks()
    assert first == "terminal 1"
    assert start.commands.splitlines()[1:] == ["make run"]
    second = next(block for terminal, block in rest if terminal == "terminal 3")
    with Terminal("make", "run", cwd=ROOT, env=desk.env) as running:
        running.wait_for("The user registry is ready", READY_SECONDS)
        with Later(second.commands, desk) as later:
            for terminal, block in rest:
                if terminal == "terminal 3":
                    later.start()
                else:
                    block.run(ROOT, desk.env, BLOCK_SECONDS)
        assert running.process.wait(READY_SECONDS) == 0


class Later:
    """A command in a third terminal, from when it is started until the block ends."""

    def __init__(self, commands: str, desk: Desk) -> None:
        self._commands = commands
        self._desk = desk
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Later":
        return self

    def start(self) -> None:
        """Run the commands."""
        log = (self._desk.folder / "second.log").open("wb")
        with log:
            self._process = subprocess.Popen(
                ["bash", "-c", self._commands],
                cwd=ROOT,
                env=self._desk.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(READY_SECONDS)
