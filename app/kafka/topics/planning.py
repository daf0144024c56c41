"""Plans changes of topics; pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.kafka.topics.declaration import TopicSpec


class Action(StrEnum):
    """What a step does."""

    CREATE = "create"
    GROW = "grow"
    ALTER = "alter"
    MOVE = "move"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is: the brokers of each partition (the preferred one first), and its settings.

    The settings in ``own`` are the topic's, and not defaults of the brokers.
    """

    replicas: Sequence[Sequence[int]]
    own: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan, or the reason why nothing can be done."""

    action: Action
    spec: TopicSpec
    #: The change in words.
    change: str
    #: The settings that the topic has afterwards (alter).
    config: Mapping[str, str] | None = None
    #: The brokers of each partition afterwards (move).
    replicas: Sequence[Sequence[int]] | None = None

    def line(self) -> str:
        """Return the step in one line."""
        return f"{self.action:<6}  {self.spec.name}: {self.change}"

    def members(self) -> dict[str, str]:
        """Return the step for programs."""
        return {"action": self.action, "topic": self.spec.name, "change": self.change}


def steps(
    specs: Sequence[TopicSpec],
    there: Mapping[str, Found],
    brokers: Sequence[int],
    *,
    may_grow: bool = False,
) -> list[Step]:
    """Return the steps that make the topics as declared; none if they are.

    Settings that the declaration does not mention stay. Partitions are added only if the tables
    already have them (``may_grow``).
    """
    return [step for spec in specs for step in _of(spec, there.get(spec.name), brokers, may_grow)]


def _of(
    spec: TopicSpec, found: Found | None, brokers: Sequence[int], may_grow: bool
) -> Iterator[Step]:
    if spec.replication_factor > len(brokers):
        yield Step(
            Action.REFUSE,
            spec,
            f"REPLICATION_FACTOR: {spec.replication_factor} copies of topic {spec.name} need as "
            f"many brokers, and there are {len(brokers)}",
        )
    elif found is None:
        yield Step(Action.CREATE, spec, _described(spec))
    elif may_grow and len(found.replicas) < spec.partitions:
        yield Step(Action.GROW, spec, f"partitions: {len(found.replicas)} -> {spec.partitions}")
        yield from _altered(spec, found)
    elif len(found.replicas) != spec.partitions:
        yield Step(
            Action.REFUSE,
            spec,
            f"PARTITIONS: topic {spec.name} has {len(found.replicas)} partitions and the setting "
            f"is {spec.partitions}; to have more: python -m app repartition",
        )
    else:
        yield from _altered(spec, found)
        yield from _moved(spec, found, brokers)


def _described(spec: TopicSpec) -> str:
    copies = "the brokers' default of" if spec.replication_factor < 0 else spec.replication_factor
    settings = ", ".join(f"{name}={value}" for name, value in sorted(spec.config.items()))
    return f"{spec.partitions} partitions, {copies} copies, {settings}"


def _altered(spec: TopicSpec, found: Found) -> Iterator[Step]:
    changes = spec.unlike(found.own)
    if changes:
        told = (f"{name}: {found.own.get(name, 'unset')} -> {changes[name]}" for name in changes)
        yield Step(Action.ALTER, spec, ", ".join(told), config={**found.own, **changes})


def _moved(spec: TopicSpec, found: Found, brokers: Sequence[int]) -> Iterator[Step]:
    wanted = spec.replication_factor
    if wanted < 0 or all(len(replicas) == wanted for replicas in found.replicas):
        return
    there = sorted({len(replicas) for replicas in found.replicas})
    replicas = [_spread(each, wanted, brokers, n) for n, each in enumerate(found.replicas)]
    told = " or ".join(map(str, there))
    yield Step(Action.MOVE, spec, f"copies: {told} -> {wanted}", replicas=replicas)


def _spread(replicas: Sequence[int], wanted: int, brokers: Sequence[int], number: int) -> list[int]:
    """Return the brokers of a partition: those that have it, and others in turn."""
    turned = [brokers[(number + index) % len(brokers)] for index in range(len(brokers))]
    others = [broker for broker in turned if broker not in replicas]
    return [*replicas, *others][:wanted]
