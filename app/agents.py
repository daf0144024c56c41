"""The agents: records in; rows, claims, verdicts, outcomes, dead letters and moved records out.

A cycle hands its records to them, and the engine writes what comes of them at once. A registration
takes three steps: `apply_registrations` claims its address, `settle_email_claims` says who has it,
`apply_email_decisions` completes the user.
"""

import faust
from faust.types import StreamT, TopicT

from app.deciding import Deciding
from app.engine.batches import Batch, BatchSchema
from app.kafka.topics import Topics, TopicSpec


def add(app: faust.App, topics: Topics, deciding: Deciding) -> None:
    """Add the agents to the app: each decides the records of one topic."""

    def source(topic: TopicSpec) -> TopicT:
        return app.topic(topic.name, schema=BatchSchema(), partitions=topic.partitions, acks=False)

    @app.agent(source(topics.user_registrations), name="apply_registrations")
    async def apply_registrations(batches: StreamT[Batch]) -> None:
        """Apply the records of ``user-registrations``, each partition in its order."""
        async for batch in batches:
            async with batch:
                async for partition, records, changes in batch.slices():
                    deciding.decide_registrations(partition, records, changes)

    @app.agent(source(topics.email_claims), name="settle_email_claims")
    async def settle_email_claims(batches: StreamT[Batch]) -> None:
        """Say of each claim in ``email-claims`` whether the address is granted."""
        async for batch in batches:
            async with batch:
                async for partition, records, changes in batch.slices():
                    deciding.decide_claims(partition, records, changes)

    @app.agent(source(topics.email_decisions), name="apply_email_decisions")
    async def apply_email_decisions(batches: StreamT[Batch]) -> None:
        """Complete, or reject, what waits for the verdicts in ``email-decisions``."""
        async for batch in batches:
            async with batch:
                async for partition, records, changes in batch.slices():
                    deciding.decide_verdicts(partition, records, changes)
