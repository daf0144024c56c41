"""The tRPC protocol over HTTP, for clients of version 11 and 10: single, batched, streamed.

It is spoken as servers of version 11 speak it; clients of version 10 take the same, but for their
own form of a stream.

`procedures`: what can be called; `calls`: what a request calls, and with what inputs; `answers`
and `streams`: how clients are told.
"""

from app.web.trpc.answers import refused
from app.web.trpc.procedures import PROCEDURES, Procedure
from app.web.trpc.serving import failure, routes

__all__ = ["PROCEDURES", "Procedure", "failure", "refused", "routes"]
