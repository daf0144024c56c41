"""``verify``: whether the table ``users`` is what ``user-registrations`` makes of it.

The topic is folded anew with the very decisions that the agent takes, and compared with what the
changelog, the dead-letter topic and, if asked, the stores hold. In the order of the flow: `reading`
brings the records; `fold` says what they come to; `comparison` and `stores` say where that differs;
`findings` is the report.
"""

from app.verify.findings import Findings
from app.verify.run import verify

__all__ = ["Findings", "verify"]
