"""Load: sends registrations to any deployment over HTTP, and reports what it measured.

`options` say what to do, `registrations` which records come next, `modes` how they travel and what
an answer says of them, `connection` one keep-alive connection, `schedule` when a request is due,
`latencies` and `tally` what was measured, `driving` the run itself, `report` its result,
`printing` how, and `commands` is the command line. docs/guides/load.md tells how it is used.

It is a client: it knows nothing of the registry but its public HTTP interface.
"""

from tools.load.driving import drive
from tools.load.options import LoadError, Options
from tools.load.report import Report

__all__ = ["LoadError", "Options", "Report", "drive"]
