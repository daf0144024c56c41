"""``verify``: recomputes the tables from the topics, and reports every difference.

It folds the topics with the decisions of the agents, and compares the result with everything that
workers have written. In the order of the flow: `logs` has the logs to read, and `markers` how far
they are applied. `emails` and `users` are the folds, `verdicts` connects them, and `queues` checks
rejections. `expected_claims`, `expected_outcomes` and `copies` follow from the fold of users.
`tables`, `outcomes`, `letters` and `moves` are what workers wrote. `comparison` and `stores`
compare. `emails_pass`, `users_pass` and `across` are the steps on one `state`. `findings` and
`report` are the result.
"""

from app.ops.verify.findings import Findings
from app.ops.verify.run import verify

__all__ = ["Findings", "verify"]
