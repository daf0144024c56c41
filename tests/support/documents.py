"""The documentation as tests see it: its commands, its links, its anchors."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCED = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Block:
    """Commands of a page, and what it says that they print; ``…`` stands for anything."""

    commands: str
    printed: str

    def run(self, folder: Path, env: Mapping[str, str], within_seconds: float) -> None:
        """Run the commands as a user does; fail if one fails, or prints something else."""
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{self.commands}"],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=within_seconds,
            check=False,
        )
        assert done.returncode == 0, f"{self.commands}\n{done.stdout}\n{done.stderr}"
        at = 0
        for part in filter(None, map(str.strip, re.split("[…\n]", self.printed))):
            found = done.stdout.find(part, at)
            assert found >= 0, f"{self.commands}\nno {part!r} in:\n{done.stdout}\n{done.stderr}"
            at = found + len(part)


def blocks(page: Path, replaced: Mapping[str, str]) -> Iterator[Block]:
    """Yield a page's shell commands in order, with some texts replaced."""
    fenced = [(found["language"], found["text"]) for found in _FENCED.finditer(page.read_text())]
    for (language, text), (after, printed) in zip(fenced, [*fenced[1:], ("", "")], strict=True):
        if language == "sh":
            for old, new in replaced.items():
                text = text.replace(old, new)  # noqa: PLW2901 - the same text, for this run
            yield Block(text, printed if after == "text" else "")


def outside() -> dict[str, str]:
    """Return the environment without what the make that runs the tests tells its children."""
    own = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"}
    return {name: value for name, value in os.environ.items() if name not in own}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the anchor of each link of a page that leads to another file."""
    text = _FENCED.sub("", page.read_text())
    for found in _LINK.finditer(text):
        target = found["target"]
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    plain = (_NOT_IN_ANCHORS.sub("", heading.lower().replace("`", "")) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}
