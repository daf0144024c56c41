"""The commands of README and tutorial do what the pages say, on a real registry."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local.broker import Broker
from local.machine import free_port
from tests.support.documents import ROOT, Block, blocks, outside
from tests.support.terminal import CTRL_C, Terminal
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
    port: int = field(default_factory=lambda: free_port(count=3))

    def __post_init__(self) -> None:
        name = f"tutorial-{uuid.uuid4().hex[:8]}"
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
            "6066": str(self.port),
            "6067": str(self.port + 1),
            "6068": str(self.port + 2),
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
    blocks = list(desk.blocks())
    starts = [block.commands for terminal, block in blocks if terminal == "terminal 1"]
    assert [each.splitlines()[1:] for each in starts] == [["make run"], ["make run WORKERS=2"]]
    with ExitStack() as running:
        ends = None
        for terminal, block in blocks:
            if terminal == "terminal 1":
                if ends is not None:
                    ends.type(CTRL_C)
                    assert ends.process.wait(READY_SECONDS) == 0
                command = block.commands.splitlines()[1].split()
                ends = running.enter_context(Terminal(*command, cwd=ROOT, env=desk.env))
                ends.wait_for("The user registry is ready", READY_SECONDS)
            else:
                block.run(ROOT, desk.env, BLOCK_SECONDS)
        assert ends is not None
        assert ends.process.wait(READY_SECONDS) == 0
