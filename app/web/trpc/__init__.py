"""The tRPC protocol over HTTP, for clients of version 11 and 10: single, batched, streamed.

It follows the servers of version 11. Clients of version 10 accept the same, except for their own
form of a stream.

`procedures` are the calls, `calls` reads them and their inputs from a request, `answers` and
`streams` write the results. `subscriptions` are what clients follow.
"""

from app.web.trpc.answers import refused
from app.web.trpc.procedures import PROCEDURES, Procedure
from app.web.trpc.serving import failure, routes
from app.web.trpc.subscriptions import SUBSCRIPTIONS, Subscription, install

__all__ = [
    "PROCEDURES",
    "SUBSCRIPTIONS",
    "Procedure",
    "Subscription",
    "failure",
    "install",
    "refused",
    "routes",
]
