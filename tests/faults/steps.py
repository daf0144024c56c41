"""Every step of a worker at which a fault can be injected: of its start, its work and its end.

A step is a call: of a request to a broker, of the disk, or from one stage to the next. Requests are
met where all of them pass: `AIOKafkaClient.send`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from aiokafka.errors import (
    KafkaConnectionError,
    OutOfOrderSequenceNumber,
    RequestTimedOutError,
)

from app.domain.errors import CorruptBatchError, OverloadedError, StoreError
from app.kafka.protocol import Call


class Part(StrEnum):
    """What a step belongs to."""

    LOOK = "Before a start"
    CYCLE = "A cycle"
    TAKEOVER = "A takeover"
    WRITE_PATH = "The write path"
    STOP = "A stop"


class Kind(StrEnum):
    """What goes wrong."""

    KILL_BEFORE = "kill before"
    KILL_AFTER = "kill after"
    STAND = "stand still"
    DELAY = "delay"
    LOSE = "lose answer"
    RAISE = "raise"
    LOSE_TWICE = "lose twice"
    LOSE_AND_KILL = "lose, then kill"

    @property
    def faults(self) -> tuple["Kind", ...]:
        """What strikes, one after the other: the second while the first is mended."""
        match self:
            case Kind.LOSE_TWICE:
                return Kind.LOSE, Kind.LOSE
            case Kind.LOSE_AND_KILL:
                return Kind.LOSE, Kind.KILL_BEFORE
            case _:
                return (self,)


class Scene(StrEnum):
    """What must be so that a worker comes to a step."""

    #: Clients write, and nothing else is needed.
    WRITES = "writes"
    #: The worker is about to start, and looks whether it can.
    LOOK = "look"
    #: The worker starts, and takes the partitions over that it had when it was killed.
    START = "start"
    #: The same without its stores.
    START_WITHOUT_STORES = "start without stores"
    #: A cycle fails: its partitions are opened again, as they are when they are taken over.
    OPENED_AGAIN = "opened again"
    #: The same after a worker has died that left a transaction open in the changelogs.
    OPENED_AFTER_DEATH = "opened after a death"
    #: The other worker dies, and this one takes over what it had.
    OTHER_DIES = "other dies"
    #: Records lie in wrong partitions.
    STRAYS = "strays"
    #: A batch was given up a moment ago.
    GIVEN_UP = "given up"
    #: The worker is asked to end.
    STOP = "stop"


#: Why a cell is left out.
NOBODY_IS_ASKED = "nobody is asked, so there is no answer"
NOTHING_FAILS = "works in memory only, nothing there fails"
SAME_MOMENT = "the moment of killing before the next step"
NOT_TRIED_AGAIN = "is not tried again"


@dataclass(frozen=True)
class Step:
    """A call that a worker makes on its way; ``owner.attribute`` is what is called."""

    part: Part
    name: str
    owner: str
    attribute: str
    #: The kind of request, if it is one.
    request: str = ""
    #: Only if this function, by its qualified name, is calling.
    within: str = ""
    #: Only if the request names this, and does not name that.
    about: str = ""
    but_not: str = ""
    #: Only of clients with so many topics: it tells the clients of one worker apart.
    topics: int = 0
    #: What may really be raised there.
    error: Callable[[], Exception] = KafkaConnectionError
    #: What is raised where the call was made, and its answer is lost.
    lost: Callable[[], Exception] = RequestTimedOutError
    scene: Scene = Scene.WRITES
    #: At which time that the worker comes there.
    number: int = 1
    left_out: Mapping[Kind, str] = field(default_factory=dict)
    #: Kinds that end the worker, as they should, and what its line says.
    ends: Mapping[Kind, str] = field(default_factory=dict)

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of fault that are tried here."""
        return [kind for kind in Kind if self.why_not(kind) is None]

    def why_not(self, kind: Kind) -> str | None:
        """Return why a kind of fault is left out here; None if it is tried."""
        whys = (self.left_out.get(each) for each in (kind, *kind.faults))
        return next(filter(None, whys), None)

    def is_at(self, args: tuple[Any, ...]) -> bool:
        """Return whether a call is this step."""
        return (
            (not self.request or self._asks(args[2]))
            and (not self.topics or len(args[0]._topics) == self.topics)
            and (not self.within or _is_within(self.within))
        )

    def _asks(self, request: Any) -> bool:
        if kind_of(request) != self.request:
            return False
        text = str(request.arguments if isinstance(request, Call) else vars(request))
        return self.about in text and not (self.but_not and self.but_not in text)


def kind_of(request: Any) -> str:
    """Return the name of a request's kind."""
    struct = request.struct if isinstance(request, Call) else type(request)
    return str(struct.__name__).strip("_")


def _is_within(name: str) -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_qualname == name:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _request(part: Part, name: str, request: str, **more: Any) -> Step:
    return Step(part, name, "aiokafka.client:AIOKafkaClient", "send", request, **more)


def _here(part: Part, name: str, at: str, **more: Any) -> Step:
    """Return a step at which nobody else is asked."""
    owner, _, attribute = at.rpartition(".")
    left_out = {Kind.LOSE: NOBODY_IS_ASKED, **more.pop("left_out", {})}
    return Step(part, name, owner, attribute, left_out=left_out, **more)


def _asked(part: Part, name: str, at: str, **more: Any) -> Step:
    """Return a step of several requests, or of one that is sent by a task of its own."""
    owner, _, attribute = at.rpartition(".")
    return Step(part, name, owner, attribute, **more)


def _full_disk() -> Exception:
    return StoreError("IO error: No space left on device")


def _bad_disk() -> Exception:
    return Exception("IO error: Input/output error")  # as rocksdict raises it


def _client_is_gone() -> Exception:
    return ConnectionResetError("Cannot write to closing transport")


_CANNOT_FAIL = {Kind.RAISE: NOTHING_FAILS}
_ONCE = {Kind.LOSE_TWICE: NOT_TRIED_AGAIN, Kind.LOSE_AND_KILL: NOT_TRIED_AGAIN}
#: In the transactional ids of the write path, and of a worker that has died.
_WRITES, _GHOST = "-writes-", "-ghost-"
_OF_ENGINE = {"but_not": _WRITES}
_OF_WRITES = {"about": _WRITES}
_CONNECT = "PartitionAssignment._connect"
_PRODUCER = "TransactionalProducer.start"
_DAMAGED = "a batch is damaged"

LOOK = tuple(
    replace(step, scene=Scene.LOOK)
    for step in (
        _request(Part.LOOK, "topics are looked at", "MetadataRequest", within="plan"),
        _asked(
            Part.LOOK,
            "the partitioning is read",
            "app.kafka.partitioning._newest",
            within="current_partitioning",
        ),
        # Who gets no answer goes on: brokers that are away say nothing of rights.
        _request(Part.LOOK, "rights to topics are looked at", "TopicRights", left_out=_ONCE),
        _request(Part.LOOK, "rights to the group are looked at", "GroupRights", left_out=_ONCE),
        _request(
            Part.LOOK,
            "a transaction is tried",
            "InitProducerIdRequest",
            about="-access-check",
        ),
        _request(
            Part.LOOK,
            "workers of other versions are looked for",
            "DescribeGroups",
            within="others_leave",
        ),
        _asked(
            Part.LOOK,
            "the secret is compared",
            "app.kafka.partitioning._newest",
            within="share_secret",
        ),
    )
)

CYCLE = (
    _asked(
        Part.CYCLE,
        "records of the sources are fetched",
        "app.kafka.cluster:Cluster.send",
        request="Fetch",
        topics=3,
    ),
    _here(
        Part.CYCLE,
        "what waits is taken",
        "app.engine.cycles:Cycles._take",
        error=lambda: CorruptBatchError(_DAMAGED),
        ends={Kind.RAISE: _DAMAGED},
    ),
    _here(
        Part.CYCLE,
        "registrations are decided",
        "app.deciding:Deciding.decide_registrations",
        error=_full_disk,
    ),
    _here(
        Part.CYCLE, "claims are decided", "app.deciding:Deciding.decide_claims", error=_full_disk
    ),
    _here(
        Part.CYCLE,
        "verdicts are decided",
        "app.deciding:Deciding.decide_verdicts",
        error=_full_disk,
    ),
    _asked(
        Part.CYCLE,
        "records are sent ahead",
        "app.kafka.transactions:TransactionalProducer.send",
        scene=Scene.STRAYS,
    ),
    _request(Part.CYCLE, "partitions join the transaction", "AddPartitionsToTxn", **_OF_ENGINE),
    _request(Part.CYCLE, "offsets join the transaction", "AddOffsetsToTxn"),
    _request(Part.CYCLE, "rows and records are produced", "Produce"),
    _request(Part.CYCLE, "offsets are committed", "TxnOffsetCommit"),
    _request(Part.CYCLE, "the transaction is ended", "EndTxn"),
    _asked(
        Part.CYCLE,
        "rows are written to a store",
        "rocksdict:Rdict.write",
        within="OwnedPartition.apply",
        error=_bad_disk,
        lost=_bad_disk,
    ),
    _here(
        Part.CYCLE,
        "who waits is woken",
        "app.engine.partitions:OwnedPartition._wake",
        within="OwnedPartition.apply",
        left_out=_CANNOT_FAIL,
    ),
)

TAKEOVER = (
    _request(Part.TAKEOVER, "the group is joined", "JoinGroupRequest", scene=Scene.START),
    _request(Part.TAKEOVER, "the assignment is asked for", "SyncGroupRequest", scene=Scene.START),
    _here(
        Part.TAKEOVER,
        "cycles are settled for a rebalance",
        "app.engine.cycles:Cycles.settle",
        scene=Scene.OTHER_DIES,
        left_out=_CANNOT_FAIL,
    ),
    _here(
        Part.TAKEOVER,
        "partitions are assigned",
        "app.engine.assignment:PartitionAssignment.on_rebalance",
        scene=Scene.START,
        left_out=_CANNOT_FAIL,
    ),
    _asked(
        Part.TAKEOVER,
        "the engine connects",
        "aiokafka.client:AIOKafkaClient.bootstrap",
        within=_CONNECT,
        scene=Scene.START,
    ),
    _request(
        Part.TAKEOVER,
        "leaders are asked for",
        "Metadata",
        within=_PRODUCER,
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "coordinators are looked for",
        "FindCoordinatorRequest",
        within=_PRODUCER,
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "it is asked how the last transaction ended",
        "DescribeTransactions",
        within=_PRODUCER,
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "it is asked whether its markers are there",
        "DescribeProducers",
        within=_PRODUCER,
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "an identity is obtained",
        "InitProducerIdRequest",
        within=_PRODUCER,
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "the barrier: offsets are asked for",
        "OffsetFetch",
        scene=Scene.OPENED_AGAIN,
    ),
    _asked(
        Part.TAKEOVER,
        "the barrier: the changelog's end",
        "app.kafka.cluster:Cluster.ends",
        within="Barrier._end_of",
        scene=Scene.OPENED_AGAIN,
    ),
    _asked(
        Part.TAKEOVER,
        "the barrier: the changelog's stable end",
        "app.kafka.cluster:Cluster.stable_ends",
        within="Barrier._is_decided",
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "an open transaction: whose is it",
        "DescribeProducers",
        within="end_abandoned",
        scene=Scene.OPENED_AFTER_DEATH,
    ),
    _request(
        Part.TAKEOVER,
        "an open transaction: transactions are listed",
        "ListTransactions",
        scene=Scene.OPENED_AFTER_DEATH,
    ),
    _request(
        Part.TAKEOVER,
        "an open transaction: who is in the group",
        "DescribeGroups",
        scene=Scene.OPENED_AFTER_DEATH,
    ),
    _request(
        Part.TAKEOVER,
        "an open transaction: it is ended",
        "InitProducerIdRequest",
        about=_GHOST,
        scene=Scene.OPENED_AFTER_DEATH,
        left_out=_ONCE,
    ),
    _asked(
        Part.TAKEOVER,
        "where the changelog begins",
        "app.kafka.cluster:Cluster.starts",
        within="Changelog._begin",
        scene=Scene.OPENED_AGAIN,
    ),
    _here(
        Part.TAKEOVER,
        "a store is opened",
        "tables.store:PartitionedStore.open",
        within="Changelog.recover",
        error=_full_disk,
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "the newest marker is read",
        "Fetch",
        within="newest_marker",
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "the changelog is read",
        "Fetch",
        within="Changelog.recover",
        scene=Scene.START_WITHOUT_STORES,
    ),
    _asked(
        Part.TAKEOVER,
        "rows are recovered to a store",
        "rocksdict:Rdict.write",
        within="Changelog.recover",
        error=_bad_disk,
        lost=_bad_disk,
        scene=Scene.START_WITHOUT_STORES,
        number=3,
    ),
    _here(
        Part.TAKEOVER,
        "the store's marker is read",
        "app.engine.changelog:Changelog.marker",
        within="Changelog.recover",
        error=_full_disk,
        scene=Scene.OPENED_AGAIN,
    ),
    _asked(
        Part.TAKEOVER,
        "where the sources begin and end",
        "app.kafka.cluster:Cluster.ends",
        within="OwnedPartition._within_logs",
        scene=Scene.OPENED_AGAIN,
    ),
    _request(
        Part.TAKEOVER,
        "the lease: is this a member",
        "Heartbeat",
    ),
    _here(
        Part.TAKEOVER,
        "the sources are read on",
        "app.engine.cycles:Cycles.read",
        scene=Scene.OPENED_AGAIN,
        left_out=_CANNOT_FAIL,
    ),
    _asked(
        Part.TAKEOVER,
        "a standby reads",
        "app.kafka.cluster:Cluster.send",
        request="Fetch",
        topics=1,
    ),
    _asked(
        Part.TAKEOVER,
        "a standby writes to its store",
        "rocksdict:Rdict.write",
        within="Changelog._follow_some",
        error=_bad_disk,
        lost=_bad_disk,
    ),
)

WRITE_PATH = (
    _here(
        Part.WRITE_PATH,
        "a write is handed over",
        "app.ingest.producer:Producer.send",
        error=lambda: OverloadedError("more writes wait than this worker may keep"),
    ),
    _here(
        Part.WRITE_PATH,
        "a batch is built",
        "app.ingest.producer:Producer._batch",
        left_out=_CANNOT_FAIL,
    ),
    _asked(
        Part.WRITE_PATH,
        "a connection is asked for",
        "aiokafka.client:AIOKafkaClient.ready",
        within="Producer._ask",
    ),
    _request(Part.WRITE_PATH, "the batch is produced", "ProduceRequest"),
    _request(
        Part.WRITE_PATH,
        "the broker does not know the sequence",
        "ProduceRequest",
        error=OutOfOrderSequenceNumber,
        left_out=dict.fromkeys(
            (kind for kind in Kind if kind is not Kind.RAISE), "as when the batch is produced"
        ),
    ),
    _here(
        Part.WRITE_PATH,
        "the acknowledgement is taken in",
        "app.ingest.accumulator:PartitionBatcher.acknowledge",
        left_out=_CANNOT_FAIL,
    ),
    _asked(
        Part.WRITE_PATH,
        "the client is answered",
        "aiohttp.web:StreamResponse.prepare",
        error=_client_is_gone,
        lost=_client_is_gone,
    ),
    _asked(
        Part.WRITE_PATH,
        "the fence: a connection is made",
        "aiokafka.client:AIOKafkaClient.bootstrap",
        within="Producer._connect",
        scene=Scene.GIVEN_UP,
    ),
    _asked(
        Part.WRITE_PATH,
        "the fence: another one is made",
        "aiokafka.client:AIOKafkaClient.bootstrap",
        within="WriteFence.renew",
        scene=Scene.GIVEN_UP,
    ),
    _request(
        Part.WRITE_PATH,
        "the fence: partitions join a transaction",
        "AddPartitionsToTxn",
        scene=Scene.GIVEN_UP,
        **_OF_WRITES,
    ),
    _request(
        Part.WRITE_PATH,
        "the fence: its state is asked for",
        "DescribeTransactions",
        scene=Scene.GIVEN_UP,
        **_OF_WRITES,
    ),
    _request(
        Part.WRITE_PATH,
        "the fence: the next identity ends it",
        "InitProducerIdRequest",
        scene=Scene.GIVEN_UP,
        **_OF_WRITES,
    ),
    _request(
        Part.WRITE_PATH,
        "the fence: the markers are looked for",
        "DescribeProducers",
        within="_require_markers",
        scene=Scene.GIVEN_UP,
    ),
    _request(
        Part.WRITE_PATH,
        "the fence of a start",
        "InitProducerIdRequest",
        scene=Scene.START,
        **_OF_WRITES,
    ),
)

STOP = tuple(
    replace(step, scene=Scene.STOP, left_out={**step.left_out, **_ONCE})
    for step in (
        _here(
            Part.STOP,
            "what is under way is answered",
            "app.worker.shutdown:Shutdown.wind_down",
            left_out=_CANNOT_FAIL,
        ),
        _here(
            Part.STOP,
            "cycles are settled",
            "app.engine.cycles:Cycles.settle",
            within="PartitionAssignment.on_stop",
            left_out=_CANNOT_FAIL,
        ),
        _asked(
            Part.STOP,
            "a store is closed",
            "rocksdict:Rdict.close",
            within="PartitionAssignment.on_stop",
            error=_bad_disk,
            lost=_bad_disk,
        ),
        _here(
            Part.STOP,
            "the engine disconnects",
            "app.kafka.cluster:Cluster.close",
            left_out=_CANNOT_FAIL,
        ),
        _here(
            Part.STOP,
            "the consumer disconnects",
            "aiokafka.consumer.consumer:AIOKafkaConsumer.stop",
            left_out=_CANNOT_FAIL,
        ),
        _here(
            Part.STOP,
            "the write path disconnects",
            "app.ingest.producer:Producer.on_stop",
            left_out=_CANNOT_FAIL,
        ),
    )
)

#: Steps behind which another one does not follow at once, so that to be killed there is a case of
#: its own; of a cycle all are tried.
_LAST = {
    "the secret is compared",
    "the group is joined",
    "an open transaction: it is ended",
    "the sources are read on",
    "a standby writes to its store",
    "the batch is produced",
    "the acknowledgement is taken in",
    "the client is answered",
    "the fence: the markers are looked for",
    "the fence of a start",
    "the write path disconnects",
}


def _without_the_same(step: Step) -> Step:
    if step.name in _LAST:
        return step
    return replace(step, left_out={Kind.KILL_AFTER: SAME_MOMENT, **step.left_out})


STEPS: Mapping[str, Step] = {
    step.name: step
    for step in (
        *map(_without_the_same, LOOK),
        *CYCLE,
        *map(_without_the_same, (*TAKEOVER, *WRITE_PATH, *STOP)),
    )
}

#: Requests of no step, and why.
_AIOKAFKAS = (
    "of aiokafka's consumers: Faust's, which is paused, and those of topics beside the engine"
)
WITHOUT_STEPS = {
    **dict.fromkeys(
        ("FetchRequest", "MetadataRequest", "OffsetFetchRequest", "OffsetRequest"), _AIOKAFKAS
    ),
    "HeartbeatRequest": "aiokafka's own: the lease asks the same",
    "LeaveGroupRequest": "only who starts anew after a repartition leaves the group: others keep "
    "their place for a session",
    "ListOffsets": "sent by tasks: the steps are what asks for them, `Cluster.ends` and others",
    "WriteTxnMarkers": "needs Kafka's fault of markers that are never written: `test_cluster.py`",
}
