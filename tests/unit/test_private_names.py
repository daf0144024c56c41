"""The private names of Faust and aiokafka that the engine leans on are still there."""

import inspect

import aiohttp
import aiokafka
import faust
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.producer.sender import Sender
from aiokafka.producer.transaction_manager import TransactionManager
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver

from app.engine.consumer import Consumer
from app.engine.takeover import TableManager
from app.main import app


def test_the_versions_are_those_that_were_read() -> None:
    assert (faust.__version__, aiokafka.__version__) == ("0.15.3", "0.14.0")


def test_the_app_uses_our_consumer_and_table_manager() -> None:
    assert app.transport.Consumer is Consumer
    assert isinstance(app.tables, TableManager)


def test_faust_calls_what_we_override() -> None:
    thread = driver.AIOKafkaConsumerThread
    assert "self._fetch_records" in inspect.getsource(thread.getmany)
    assert "self._create_worker_consumer" in inspect.getsource(thread._create_consumer)
    assert "self._getmany(" in inspect.getsource(faust_consumer.Consumer._wait_next_records)
    assert "self.seek_to_committed()" in inspect.getsource(faust_consumer.Consumer.perform_seek)
    assert "get_read_offset(tp)" in inspect.getsource(faust_consumer.Consumer._drain_messages)
    assert "self._new_consumer_thread()" in inspect.getsource(
        faust_consumer.ThreadDelegateConsumer.__init__
    )
    assert "self._is_changelog_tp" not in inspect.getsource(driver)
    assert callable(faust_consumer.Consumer._is_changelog_tp)


def test_aiokafka_reads_what_we_set() -> None:
    started = inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    assert "isolation_level=self._isolation_level" in started
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in started
    assert callable(GroupCoordinator.request_rejoin)
    assert isinstance(Sender.sender_task, property)
    assert callable(Sender.close)
    # The state that transactions.py takes for a failure of the producer.
    assert "assert TransactionState.is_transition_valid" in inspect.getsource(
        TransactionManager._transition_to
    )
    stop = inspect.getsource(aiokafka.AIOKafkaProducer.stop)
    assert "self._closed" in stop
    assert "await self._sender.close()" in stop
    # The futures whose failures nobody else reads.
    assert "self._drain_waiter.set_exception" in inspect.getsource(MessageBatch.failure)
    assert "in self._batches.values()" in inspect.getsource(MessageAccumulator.fail_all)
    assert "self._transaction_waiter.set_exception" in inspect.getsource(
        TransactionManager.error_transaction
    )


def test_the_fast_lane_finds_what_it_leans_on_in_aiohttp() -> None:
    assert aiohttp.__version__ == "3.14.5"
    assert "self._next_keepalive_close_time" in inspect.getsource(RequestHandler._process_keepalive)
    assert {"_close", "_force_close", "_next_keepalive_close_time"} <= set(RequestHandler.__slots__)
    assert "_make_handler" in inspect.getsource(web.AppRunner._make_server)
    assert "self._kwargs" in inspect.getsource(web.Server.__call__)
