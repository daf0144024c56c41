"""The Faust app and what it discovers; nothing else."""

import faust
from faust.app.base import BootStrategy
from mode.types import ServiceT

from app import topics
from app.logs import logging_config
from app.producer import Producer
from app.settings import settings

#: A dead worker's partitions move after this long; a restarted one takes its own at once, because
#: it joins under the same name (static membership).
SESSION_TIMEOUT_SECONDS = 10.0
HEARTBEAT_SECONDS = 3.0
REBALANCE_TIMEOUT_SECONDS = 30.0

_settings = settings()


class _Boot(BootStrategy):
    """Faust's order of services, with our producer beside Faust's: up before, down after all."""

    def kafka_producer(self) -> list[ServiceT]:
        """Return the producers, which stop after everything that may still send."""
        return [*super().kafka_producer(), producer]


class Registry(faust.App):
    """The app, started by our boot strategy."""

    BootStrategy = _Boot


producer = Producer(_settings)
registry_topics = topics.declare(_settings)

app = Registry(
    _settings.app_id,
    broker=[f"registry://{broker}" for broker in _settings.kafka_brokers.split(",")],
    autodiscover=["app.agents"],
    datadir=str(_settings.data_dir),
    store="registry://",
    web="registry://",
    web_bind=_settings.web_host,
    web_port=_settings.web_port,
    canonical_url=_settings.url,
    topic_allow_declare=False,
    topic_disable_leader=True,
    topic_partitions=_settings.partitions,
    consumer_group_instance_id=_settings.worker_id
    or f"{_settings.app_id}-{_settings.url.split('//')[1].replace(':', '-')}",
    consumer_auto_offset_reset="earliest",
    broker_session_timeout=SESSION_TIMEOUT_SECONDS,
    broker_heartbeat_interval=HEARTBEAT_SECONDS,
    broker_rebalance_timeout=REBALANCE_TIMEOUT_SECONDS,
    broker_commit_interval=1.0,
    logging_config=logging_config(_settings),
    worker_redirect_stdouts=False,
)
