"""The private names of Faust and aiokafka that the engine leans on are still there."""

import inspect

import aiohttp
import aiokafka
import faust
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import group_coordinator
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.sender import Sender
from aiokafka.protocol import fetch
from aiokafka.protocol.api import RequestStruct
from faust.app import base as faust_app
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager as FaustTableManager
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from mode.services import Service

from app.config.settings import Settings
from app.engine.assignment import PartitionAssignment, TableManager
from app.engine.consumer import Consumer, ConsumerThread
from app.main import build
from app.worker.registry import Assignor

source = inspect.getsource
app = build(Settings()).app


def test_the_versions_are_those_that_were_read() -> None:
    assert (faust.__version__, aiokafka.__version__) == ("0.15.3", "0.14.0")


def test_the_app_uses_our_consumer_table_manager_and_assignor() -> None:
    assert app.transport.Consumer is Consumer
    assert isinstance(app.tables, TableManager)
    assert isinstance(app.tables.recovery, PartitionAssignment)
    assert isinstance(app.assignor, Assignor)


def test_faust_calls_what_we_override_of_its_consumer() -> None:
    assert "getmany = self.getmany" in source(faust_consumer.Consumer._drain_messages)
    assert "self._read_offset.__getitem__" in source(faust_consumer.Consumer._drain_messages)
    assert "self.suspend_flow.wait()" in source(faust_consumer.Consumer._drain_messages)
    assert "self.seek_to_committed()" in source(faust_consumer.Consumer.perform_seek)
    assert "await self.commit()" in source(faust_consumer)
    assert "self._new_consumer_thread()" in source(faust_consumer.ThreadDelegateConsumer.__init__)
    assert "self._thread.verify_event_path" in source(driver.Consumer.verify_event_path)
    assert "await consumer.wait_empty()" in source(faust_app.App._consumer_wait_empty)
    assert "self._consumer_wait_empty" in source(faust_app.App._on_partitions_revoked)


def test_faust_calls_what_we_override_of_its_thread() -> None:
    listener = driver.ConsumerRebalanceListener
    assert "thread.on_partitions_revoked(" in source(listener.on_partitions_revoked)
    assert "self._thread.on_partitions_assigned(" in source(listener.on_partitions_assigned)
    assert issubclass(ConsumerThread, driver.AIOKafkaConsumerThread)
    assert "self._consumer.stop()" in source(driver.AIOKafkaConsumerThread.on_thread_stop)
    assert "self._stopped_set()" in source(Service.stop)
    assert callable(driver.AIOKafkaConsumerThread._ensure_consumer)
    assert "self._group_instance_id = group_instance_id" in source(GroupCoordinator.__init__)
    # Static members only are waited for; all others leave when they stop.
    assert "self._group_instance_id is None" in source(GroupCoordinator._maybe_leave_group)


def test_faust_calls_what_we_override_of_its_table_manager() -> None:
    assert isinstance(FaustTableManager.recovery, property)
    assert "self.recovery.on_rebalance" in source(FaustTableManager.on_rebalance)
    assert "self.recovery.on_partitions_revoked" in source(FaustTableManager.on_partitions_revoked)
    assert "self.recovery.completed" in source(FaustTableManager.wait_until_recovery_completed)
    assert "self._tables_registered.set()" in source(FaustTableManager._update_channels)
    assert callable(FaustTableManager.on_actives_ready)
    assert callable(FaustTableManager.on_standbys_ready)
    assert "self.conf.PartitionAssignor(" in source(faust_app)
    assert isinstance(PartitionAssignor.name, property)


def test_faust_calls_what_we_override_of_its_worker() -> None:
    ends = source(faust.Worker._shutdown_loop)
    assert "self._gather_all()" in ends
    assert ends.index("self._sentinel_task()") < ends.index("self.loop.close()")
    assert "task.cancel()" in source(faust.Worker._gather_all)


def test_aiokafka_knows_the_group_by_the_name_of_our_assignor() -> None:
    assert Assignor(app).name != "faust"
    assert "assignor.name" in source(group_coordinator)


def test_what_we_ask_faust_to_do_after_a_rebalance_is_there() -> None:
    assert callable(app.flow_control.resume)
    assert callable(app.on_rebalance_complete.send)
    assert callable(app.on_rebalance_end)
    # One that is made has an event loop of its own.
    assert hasattr(type(app), "_fetcher")
    assert callable(app.transport.Fetcher.maybe_start)
    assert "self.can_resume_flow.set()" in source(faust_consumer.Consumer.resume_flow)
    assert "._fetcher.stop()" in source(FaustTableManager.on_stop)


def test_aiokafkas_member_tells_what_we_ask() -> None:
    begun = source(GroupCoordinator.__init__)
    assert "self.generation = " in begun
    assert "self.member_id = " in begun
    assert "self._client.send(" in source(GroupCoordinator._send_req)
    assert "self._rejoin_needed_fut" in source(GroupCoordinator.request_rejoin)


def test_aiokafkas_client_sends_what_we_have_packed() -> None:
    assert set(inspect.signature(AIOKafkaClient.send).parameters) == {
        "self",
        "node_id",
        "request",
        "group",
    }
    sent = source(AIOKafkaConnection.send)
    assert "request.prepare(self._versions)" in sent
    assert "request_struct.encode()" in sent
    assert "request_struct.build_request_header(" in sent
    answered = source(AIOKafkaConnection._handle_frame)
    assert "request.parse_response_header(resp)" in answered
    assert "resp_type = request.RESPONSE_TYPE" in answered
    assert "resp_type.decode(resp)" in answered
    assert "FLEXIBLE_VERSION" in source(RequestStruct.parse_response_header)
    assert {"DEFAULT", "COORDINATION"} <= set(vars(ConnectionGroup))
    for name in ("bootstrap", "close", "force_metadata_update"):
        assert callable(getattr(AIOKafkaClient, name))


def test_verify_reads_by_what_aiokafkas_consumer_reads_by() -> None:
    assert list(inspect.signature(PartitionRecords).parameters) == [
        "tp",
        "records",
        "aborted_transactions",
        "fetch_offset",
        "key_deserializer",
        "value_deserializer",
        "check_crcs",
        "isolation_level",
    ]
    unpack = source(PartitionRecords._unpack_records)
    assert "yield consumer_record" in unpack
    assert "consumer_record = self._consumer_record(tp, record)" in unpack
    assert "self.next_fetch_offset = record.offset + 1" in unpack
    # Brokers since Kafka 2.3 answer in the newest version that aiokafka knows.
    assert not hasattr(fetch, "FetchResponse_v12")
    (_, of_topic) = fetch.FetchResponse_v11.SCHEMA.fields[-1].array_of.fields
    assert of_topic.array_of.names == (
        "partition",
        "error_code",
        "highwater_offset",
        "last_stable_offset",
        "log_start_offset",
        "aborted_transactions",
        "preferred_read_replica",
        "message_set",
    )


def test_the_write_path_can_give_up_aiokafkas_producer() -> None:
    assert isinstance(Sender.sender_task, property)
    assert callable(Sender.close)
    stop = source(aiokafka.AIOKafkaProducer.stop)
    assert "self._closed" in stop
    assert "await self._sender.close()" in stop


def test_the_write_path_finds_what_it_leans_on_in_aiokafka() -> None:
    # Nothing is waited for between the check that a batch is not late and its bytes.
    send = inspect.getsource(AIOKafkaClient.send)
    assert send.index("await") == send.index("await self.ready(")
    get = inspect.getsource(AIOKafkaClient._get_conn)
    assert get.index("return conn") < get.index("await")
    # A request without an answer ends with its connection.
    assert "close(reason=CloseReason.CONNECTION_TIMEOUT)" in send


def test_the_fast_lane_finds_what_it_leans_on_in_aiohttp() -> None:
    assert aiohttp.__version__ == "3.14.5"
    assert "self._next_keepalive_close_time" in source(RequestHandler._process_keepalive)
    leant_on = {"_close", "_current_request", "_force_close", "_messages", "_task_handler"}
    assert leant_on | {"_next_keepalive_close_time"} <= set(RequestHandler.__slots__)
    assert "_ErrInfo(status=400, exc=exc" in source(RequestHandler.data_received)
    assert "self._current_request._cancel(exc)" in source(RequestHandler.connection_lost)
    assert "self._version = message.version" in source(web.BaseRequest.__init__)
    assert "return self._version" in source(web.BaseRequest.version.wrapped)
    assert "_make_handler" in source(web.AppRunner._make_server)
    assert "self._kwargs" in source(web.Server.__call__)
