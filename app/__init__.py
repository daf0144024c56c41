"""A write-intensive user registry on Faust and Kafka. The flow, in five lines.

1. ``web.writes`` and ``web.trpc`` validate a registration and send it to ``user-registrations``.
2. ``agents`` consume that topic and ask ``registration`` what each record means.
3. Rows go to the changelog, then to the RocksDB tables in ``tables``; the unreadable is set aside.
4. ``lookups`` finds a user in this worker's tables or asks the worker that owns the partition.
5. ``web.lookups`` and ``web.pages`` show what was found, as JSON and as pages.
"""

from app.system.environment import forget_foreign

# Before anything else is imported: Faust reads the environment while that happens.
forget_foreign()
