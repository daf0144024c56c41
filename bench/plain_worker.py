"""Our worker without the email protocol: ``python -m bench.plain_worker worker``.

It does what the peers do, and no more: validation, get before set, a durable changelog, commit. A
registration makes a registered row at once; nobody is asked for its address.
"""

from collections.abc import Sequence

from app.deciding import Deciding
from app.domain.consumed_records import ConsumedRecord
from app.domain.decisions import Decisions
from app.domain.parsing import sort
from app.domain.records import UserRow, encode_row
from app.engine.partitions import Changes


def decide(
    deciding: Deciding, partition: int, arrivals: Sequence[ConsumedRecord], changes: Changes
) -> None:
    """Add the rows that registrations make of free ids."""
    batch = sort(partition, arrivals, deciding.topics.user_registrations.partitions)
    decisions = Decisions(partition, lambda email: b"")
    changed = decisions.ask_all(
        batch, deciding.tables.users.rows(partition, batch.keys, changes.rows)
    )
    registered: list[UserRow] = []
    for key, row in changed.items():
        if row is not None:
            row["status"] = "registered"
            registered.append(row)
            changes.rows[key] = encode_row(row)
    changes.rows.update(deciding.tables.recent.changed(partition, registered, (), changes.rows))


if __name__ == "__main__":
    from app.cli.main import main

    Deciding.decide_registrations = decide  # type: ignore[method-assign, assignment]
    main()
