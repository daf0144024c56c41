"""What every peer is told on its command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arguments:
    """Where to read, under which name to commit, and where to keep the state."""

    brokers: str
    topic: str
    group: str
    folder: Path
    partitions: int
    tuned: bool
    exactly_once: bool

    @property
    def changelog(self) -> str:
        """The name that peers which may choose it give their changelog."""
        return f"{self.group}-users-changelog"


def arguments() -> Arguments:
    """Return what this process was told."""
    parser = argparse.ArgumentParser()
    for name in ("brokers", "topic", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--partitions", required=True, type=int)
    for name in ("tuned", "exactly-once"):
        parser.add_argument(f"--{name}", action="store_true")
    return Arguments(**vars(parser.parse_args()))
