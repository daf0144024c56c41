"""How fast registrations are settled: three hops, about six records for one.

What counts is what the group has committed of all three topics: registrations, claims, decisions.
An engine may do much of the first hop before the others, so one topic alone would tell of a part of
the work; a third of all three is a user. Claims and decisions have marks of transactions among
their offsets, so what is reported is corrected by the share of records.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from bench.commits import Committed, follow, slope
from bench.engines import Place
from bench.errors import PeerFailed
from bench.flow_engines import Flow, Tuning
from bench.meter import Meter
from bench.workloads import PARTITIONS
from tests.support import kafka

#: Each of which reads a topic.
HOPS = 3

COUNT_SECONDS = 60
COUNT_RECORDS = 10_000


@dataclass(frozen=True, slots=True)
class Settled:
    """One run. CPU is microseconds a user, of the worker and of the broker beside it."""

    per_second: float
    cpu_us: float
    broker_cpu_us: float
    peak_mib: float
    records: int
    finished: bool

    @property
    def per_core(self) -> float:
        """Users a second for each core that the engine keeps busy."""
        return 1e6 / self.cpu_us


def measure(flow: Flow, place: Place, broker_pid: int, users: int, seconds: float) -> Settled:
    """Run an engine until all new users are settled, or for a time from its first commit."""
    between = (flow.claims(place), flow.decisions(place))
    with ExitStack() as stack:
        running = stack.enter_context(flow.running(place, Tuning.THROUGHPUT))
        meter = stack.enter_context(Meter(running.pid))
        broker = stack.enter_context(Meter(broker_pid))
        committed = stack.enter_context(
            Committed(place.brokers, place.group, PARTITIONS, place.topic, *between)
        )
        commits = follow(running, committed, HOPS * users, seconds)
        line = slope(commits, HOPS * users)
        shares = [_share_of_records(place.brokers, topic) for topic in between]
        # So much of a user is one offset.
        user = (1 + sum(shares)) / HOPS / HOPS

        def cpu_us(used: Meter) -> float:
            return used.cpu_seconds(line.began, line.ended) / (line.records * user) * 1e6

        return Settled(
            per_second=line.per_second * user,
            cpu_us=cpu_us(meter),
            broker_cpu_us=cpu_us(broker),
            peak_mib=meter.peak_mib,
            records=round(commits[-1].records * user),
            finished=commits[-1].records >= HOPS * users,
        )


def _share_of_records(brokers: str, topic: str) -> float:
    """Return how many of a topic's offsets are records; the others are marks of transactions."""
    ends = kafka.end_offsets(brokers, topic)
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": "count", "enable.auto.commit": False}
    )
    deadline, records, offsets = time.monotonic() + COUNT_SECONDS, 0, 0
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        # The position passes marks, too, but only with the record after them.
        while offsets < sum(ends.values()) * 0.9:
            records += sum(not m.error() for m in consumer.consume(COUNT_RECORDS, timeout=0.5))
            places = consumer.position(list(map(TopicPartition, [topic] * len(ends), ends)))
            offsets = sum(max(each.offset, 0) for each in places)
            if time.monotonic() > deadline:
                raise PeerFailed("the records could not be counted")
    finally:
        consumer.close()
    return records / offsets
