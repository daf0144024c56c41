"""A broker, and a bad way to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.broker import Broker
from local.broker.options import Membership, new_cluster_id
from local.machine import HOST, free_port
from tests.support.java import QUICK
from tests.support.proxy import Proxy


@dataclass
class Net:
    """A broker, and a bad way to it."""

    broker: Broker
    proxy: Proxy

    @property
    def far(self) -> str:
        """The broker's address for those who are far away."""
        return f"{HOST}:{self.proxy.port}"


@contextmanager
def bad_network(folder: Path) -> Iterator[Net]:
    """Run a broker with a listener that is reached through a proxy."""
    near, far, way, controller = (free_port() for _ in range(4))
    near_and_far = f"PLAINTEXT://{HOST}:{near},FAR://{HOST}"
    properties = {
        "listeners": f"{near_and_far}:{far},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"{near_and_far}:{way}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    member = Membership(1, {1: controller}, new_cluster_id())
    broker = Broker(folder, near, properties, member=member, java_options=QUICK)
    with broker, Proxy(way, far) as proxy:
        yield Net(broker, proxy)
