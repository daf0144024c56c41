"""Several Kafka nodes on one machine: replicas, and brokers that may fail, as in production."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError

from app.system.files import write_whole
from local.broker.node import DEFAULT_PORT, Broker
from local.broker.options import Membership, new_cluster_id
from local.errors import DataFolderError
from local.kafka import KafkaJars
from local.machine import free_port, require_folder

LAYOUT_FILE = "cluster.json"


class Layout(BaseModel):
    """What the nodes of a cluster must agree on; node ids begin with 1."""

    cluster_id: str
    ports: list[int]
    controller_ports: list[int]
    #: Of the servers, beside our own.
    properties: dict[str, str] = {}

    @classmethod
    def read(cls, data_dir: Path) -> "Layout | None":
        """Return the layout of a folder, None if there is no cluster in it."""
        try:
            return cls.model_validate_json((data_dir / LAYOUT_FILE).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise DataFolderError(f"{data_dir / LAYOUT_FILE} is damaged") from None

    def write(self, data_dir: Path) -> None:
        """Keep the layout."""
        write_whole(data_dir / LAYOUT_FILE, self.model_dump_json())

    def nodes(
        self, data_dir: Path, jars: KafkaJars | None = None, java_options: Sequence[str] = ()
    ) -> list[Broker]:
        """Return the nodes."""
        controllers = dict(enumerate(self.controller_ports, start=1))
        return [
            Broker(
                data_dir / f"node-{number}",
                port,
                self.properties,
                jars,
                Membership(number, controllers, self.cluster_id),
                java_options,
            )
            for number, port in enumerate(self.ports, start=1)
        ]


class Cluster:
    """Kafka nodes that live in ``data_dir``, each broker and controller at once.

    They listen on ``port`` and the ports after it; 0 stands for free ones. With three, every topic
    has three replicas, two of which must have a write before it is acknowledged: one node may be
    killed at any time. As a context manager it runs for the length of a block.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = DEFAULT_PORT,
        brokers: int = 3,
        properties: Mapping[str, str] | None = None,
        jars: KafkaJars | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.nodes: Sequence[Broker] = ()
        self._port = port
        self._brokers = brokers
        self._properties = dict(properties or {})
        self._jars = jars
        self._java_options = java_options

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """``host:port,…``, for clients."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> bool:
        """Start all nodes and wait until each answers; tell whether any had to be started.

        Raises as `Broker.start` does.
        """
        require_folder(self.data_dir, LAYOUT_FILE)
        self.nodes = self._laid_out().nodes(self.data_dir, self._jars, self._java_options)
        (self._jars or KafkaJars()).ensure()  # once, and not by three at a time
        # None answers before most of them are there.
        with ThreadPoolExecutor(len(self.nodes)) as starting:
            try:
                return any(list(starting.map(Broker.start, self.nodes)))
            except BaseException:  # the others wait for it in vain
                self.stop()
                raise

    def stop(self) -> bool:
        """Stop all nodes; tell whether one was running."""
        with ThreadPoolExecutor(max(len(self.nodes), 1)) as stopping:
            return any(list(stopping.map(Broker.stop, self.nodes)))

    def _laid_out(self) -> Layout:
        """Return the layout that is there, or another one while no node runs."""
        there = Layout.read(self.data_dir)
        if there is None and (self.data_dir / "storage").exists():
            raise DataFolderError(f"{self.data_dir} holds the data of a single broker")
        if there is not None and len(there.ports) != self._brokers:
            raise DataFolderError(f"{self.data_dir} holds a cluster of {len(there.ports)} brokers")
        if there is not None and any(node.status() for node in there.nodes(self.data_dir)):
            return self._required(there)
        layout = self._new(None if there is None else there.cluster_id)
        layout.write(self.data_dir)
        return layout

    def _required(self, there: Layout) -> Layout:
        if self._port not in (0, there.ports[0]):
            raise DataFolderError(
                f"{self.data_dir} is in use by brokers on port {there.ports[0]} and on: "
                "stop those first"
            )
        return there

    def _new(self, cluster_id: str | None) -> Layout:
        free = _free_ports()
        ports = range(self._port, self._port + self._brokers)
        return Layout(
            cluster_id=cluster_id or new_cluster_id(),
            ports=list(ports) if self._port else [next(free) for _ in ports],
            controller_ports=[next(free) for _ in ports],
            properties=self._properties,
        )


def _free_ports() -> Iterator[int]:
    """Yield free ports, each once."""
    given: set[int] = set()
    while True:
        port = free_port()
        if port not in given:
            given.add(port)
            yield port


def nodes_in(data_dir: Path) -> list[Broker]:
    """Return the nodes whose data is in a folder: those of a cluster, or the single broker."""
    layout = Layout.read(data_dir.absolute())
    return [Broker(data_dir)] if layout is None else layout.nodes(data_dir.absolute())
