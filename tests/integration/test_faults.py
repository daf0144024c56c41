"""Faults at steps of a worker, while clients write and read: what they are told holds."""

import pytest

from tests.faults.__main__ import cells_of, run
from tests.faults.cells import Cells
from tests.faults.steps import STEPS, Kind, Part
from tests.support.worker import Registry

#: Of each part, such as need no start of a worker. What verifies the tables takes longer: soak.
FEW = (
    ("the transaction is ended", Kind.LOSE),
    ("rows are written to a store", Kind.RAISE),
    ("the barrier: offsets are asked for", Kind.LOSE_TWICE),
    ("the fence: partitions join a transaction", Kind.LOSE),
)


def test_faults_at_a_few_steps_break_no_promise(registry: Registry) -> None:
    pair = Cells(registry)
    with pair.running():
        for name, kind in FEW:
            pair.run(STEPS[name], kind)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", Part)
def test_faults_of_every_kind_at_every_step_break_no_promise(
    registry: Registry, part: Part
) -> None:
    assert run(registry, cells_of(part)) == []
