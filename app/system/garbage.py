"""How often Python looks for cycles of garbage."""

import gc

#: Objects that are made and not freed until Python looks for cycles among them; its own is 700.
THRESHOLD = 100_000


def collect_rarely() -> None:
    """Let Python look for cycles of garbage a hundred times less often than it would.

    What a batch makes, thousands of records and rows, is freed by reference counts; looking for
    cycles among them cost a quarter of the worker's time, and a seventh of its start. What is there
    already, such as modules, is left out for ever.
    """
    gc.freeze()
    gc.set_threshold(THRESHOLD)
