"""The point of no return of a repartition, where the broker may not say whether it was passed."""

from dataclasses import replace
from typing import Any

import pytest

from app.cli import repartition
from app.config.settings import EXIT_USAGE, Settings
from app.domain.errors import FencedError, NotWrittenError, RegistryError
from app.kafka.partitioning import Partitioning
from app.ops.repartition import steps
from app.ops.repartition.steps import Report, Stage
from app.system import retries

BEFORE = Partitioning(partitions=2)
AFTER = BEFORE.split(4, {})


class Register:
    """Says what a test wants it to say, to a write and to who asks again."""

    def __init__(self, refused: RegistryError | None, *stands: Partitioning | RegistryError):
        self._refused = refused
        self._stands = list(stands)

    async def write(self, _: Partitioning) -> None:
        """Take it, or refuse."""
        if self._refused is not None:
            raise self._refused

    async def start(self) -> Partitioning:
        """Tell what stands."""
        found = self._stands.pop(0) if len(self._stands) > 1 else self._stands[0]
        if isinstance(found, RegistryError):
            raise found
        return found


async def switched(register: Any) -> Stage:
    """Return how far a switch came, whether or not it raised."""
    report = Report(after=4)
    try:
        await steps._Work(Settings(), register, BEFORE, report).switch(AFTER)
    except RegistryError:
        assert report.stage is not Stage.SWITCHED
    return report.stage


UNKNOWN = NotWrittenError("unknown")


@pytest.mark.parametrize(
    ("register", "stage"),
    [
        (Register(None), Stage.SWITCHED),
        (Register(UNKNOWN, AFTER), Stage.SWITCHED),
        (Register(UNKNOWN, UNKNOWN, AFTER), Stage.SWITCHED),
        (Register(UNKNOWN, BEFORE), Stage.BEFORE),
        (Register(FencedError("other"), BEFORE), Stage.BEFORE),
        (Register(UNKNOWN, UNKNOWN), Stage.ASKED),
    ],
)
async def test_what_the_broker_does_not_say_is_found_out(
    monkeypatch: pytest.MonkeyPatch, register: Register, stage: Stage
) -> None:
    monkeypatch.setattr(retries, "SWITCHING", replace(retries.SWITCHING, limit_seconds=0.3))
    assert await switched(register) is stage


@pytest.mark.parametrize(
    ("stage", "cause", "told", "status"),
    [
        (Stage.BEFORE, RegistryError("no broker"), "no broker", EXIT_USAGE),
        (Stage.BEFORE, KeyboardInterrupt(), "interrupted: nothing has changed", 130),
        (Stage.ASKED, RegistryError("no broker"), "whether the registry has 4 partitions now", 1),
        (Stage.ASKED, KeyboardInterrupt(), "is not known: python -m app repartition says", 1),
        (Stage.SWITCHED, RegistryError("no broker"), "the registry has 4 partitions; run the", 1),
        (Stage.SWITCHED, KeyboardInterrupt(), "interrupted; the registry has 4 partitions", 1),
    ],
)
def test_only_what_is_so_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: Stage,
    cause: BaseException,
    told: str,
    status: int,
) -> None:
    async def fails(_: Settings, partitions: int, report: Report, tell: object) -> None:
        report.after, report.stage = partitions, stage
        raise cause

    monkeypatch.setattr(steps, "repartition", fails)
    with pytest.raises(SystemExit) as ended:
        repartition._change(4)
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert ("nothing has changed" in said) == (stage is Stage.BEFORE and status == 130)
