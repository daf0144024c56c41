"""Our worker without the email protocol: ``python -m bench.plain_worker worker``.

It does what the peers do, and no more: validation, get before set, a durable changelog, commit. A
registration makes a registered row at once; nobody is asked for its address.
"""

from collections.abc import Sequence

from app import agents
from app.arrivals import sort
from app.consumed import ConsumedRecord
from app.engine.partitions import Changes
from app.main import registry_topics
from app.records import UserRow, encode_row
from app.registration import Decisions
from tables.recent import recent_registrations
from tables.users import users


def decide(partition: int, arrivals: Sequence[ConsumedRecord], changes: Changes) -> None:
    """Add the rows that registrations make of free ids."""
    batch = sort(partition, arrivals, registry_topics.user_registrations.partitions)
    decisions = Decisions(partition, lambda email: b"")
    changed = decisions.ask_all(batch, users.rows(partition, batch.keys, changes.rows))
    registered: list[UserRow] = []
    for key, row in changed.items():
        if row is not None:
            row["status"] = "registered"
            registered.append(row)
            changes.rows[key] = encode_row(row)
    changes.rows.update(recent_registrations.changed(partition, registered, (), changes.rows))


if __name__ == "__main__":
    from app.__main__ import main

    agents.decide_registrations = decide
    main()
