"""Chaos: clients write and readers look up, while workers and the broker are killed under them.

`run` starts a broker and workers of its own, does the faults of a seeded schedule to them, and then
looks whether every promise held: nothing acknowledged is lost, nothing is applied twice, no lookup
lied, and the tables come back the same from nothing but the topics
(docs/explanation/promises.md, "Chaos"). ``python -m tests.chaos`` is the same as a command.
"""

from tests.chaos.report import Report
from tests.chaos.run import Config, run

__all__ = ["Config", "Report", "run"]
