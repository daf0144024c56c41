"""``verify``: recomputes the tables from the topics, and reports every difference.

The topics are folded anew with the very decisions that the agents take, and everything that they
must have left behind is compared with what is there. In the order of the flow: `logs` says what
there is to read, and `markers` up to where it is applied; `emails` and `users` are the folds, with
`verdicts` between them and `queues` beside them; `tables`, `outcomes`, `letters` and `moves` are
what was left behind; `comparison` and `stores` say where that differs; `findings` and `report` are
what is told.
"""

from app.ops.verify.findings import Findings
from app.ops.verify.run import verify

__all__ = ["Findings", "verify"]
