"""A write-intensive user registry on Faust and Kafka. The flow, in five lines.

1. `web` validates a registration, and `ingest` sends it to the topic ``user-registrations``.
2. The `agents` consume that topic; `domain.decisions` says what each record means.
3. The `engine` writes rows to the changelog, then to the RocksDB tables in `tables`.
4. `query` finds a user in this worker's tables, or asks the worker that owns the partition.
5. `web` shows what was found, as JSON and as pages.

docs/explanation/architecture.md has the plan of the house.
"""

from app.system.environment import forget_foreign

# Before anything else is imported: Faust reads the environment while that happens.
forget_foreign()
