"""The broker manager with a real Kafka: it answers, keeps its data, and says what is wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from local.broker import Broker
from local.errors import DataFolderError, PortTakenError
from local.machine import free_port
from local.places import PROJECT
from tests.support.worker import wait_until

ANSWER_SECONDS = 15


@pytest.fixture(scope="module")
def node(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Run a broker of this module's own, in a folder with a difficult name."""
    folder = tmp_path_factory.mktemp("Käse, und Brot")
    with Broker(folder, port=0, properties={"message.max.bytes": "12345"}) as running:
        yield running


def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.address})


def topics(broker: Broker) -> set[str]:
    return set(admin(broker).list_topics(timeout=ANSWER_SECONDS).topics)


def create_topic(broker: Broker, name: str) -> None:
    client = admin(broker)
    client.create_topics([NewTopic(name, 1, 1)])[name].result(ANSWER_SECONDS)


def manager(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "local.broker", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def process_of(broker: Broker) -> psutil.Process:
    record = broker.status()
    assert record is not None
    return psutil.Process(record.pid)


def test_java_reads_kafkas_classes_from_the_archive(archive: Path, node: Broker) -> None:
    files = {each.path for each in process_of(node).memory_maps()}
    assert str(archive) in files


def test_a_broker_that_has_started_takes_topics_at_once(node: Broker) -> None:
    create_topic(node, "at-once")
    assert "at-once" in topics(node)


def test_no_topic_comes_into_being_by_being_named(node: Broker) -> None:
    settings = {"bootstrap.servers": node.address, "message.timeout.ms": 1000, "log_level": 0}
    producer = Producer(settings)
    producer.produce("by-mistake", b"x")
    producer.flush(ANSWER_SECONDS)
    assert "by-mistake" not in topics(node)


def test_properties_win_over_the_manager_s_own(node: Broker) -> None:
    resource = ConfigResource(ResourceType.BROKER, "1")
    client = admin(node)
    settings = client.describe_configs([resource])[resource].result(ANSWER_SECONDS)
    assert settings["message.max.bytes"].value == "12345"


def test_it_listens_on_loopback_only(node: Broker) -> None:
    listening = [c for c in process_of(node).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_it_runs_in_a_session_of_its_own(node: Broker) -> None:
    pid = process_of(node).pid
    assert os.getsid(pid) == pid


def test_a_second_start_finds_it_running(node: Broker) -> None:
    assert Broker(node.data_dir, node.port).start() is False
    found = Broker(node.data_dir, port=0)
    assert found.start() is False
    assert found.port == node.port


def test_a_folder_in_use_is_not_given_to_another_port(node: Broker) -> None:
    with pytest.raises(DataFolderError, match=rf"is in use by the broker on port {node.port} "):
        Broker(node.data_dir, free_port()).start()


def test_a_folder_in_use_is_noticed_without_a_record_too(node: Broker) -> None:
    record = node.data_dir / "broker.json"
    kept = record.read_bytes()
    record.unlink()
    try:
        with pytest.raises(DataFolderError, match=r"is in use by another broker$"):
            Broker(node.data_dir, free_port()).start()
    finally:
        record.write_bytes(kept)
    assert node.status() is not None
    assert isinstance(topics(node), set)  # it still answers


def test_a_taken_port_is_one_line(node: Broker, tmp_path: Path) -> None:
    with pytest.raises(PortTakenError, match=rf"^port {node.port} is used by another program"):
        Broker(tmp_path, node.port).start()


def test_a_setting_that_kafka_refuses_is_told_in_kafka_s_words(tmp_path: Path) -> None:
    done = manager(
        *("start", "--data-dir", str(tmp_path), "--port", str(free_port())),
        *("--property", "log.retention.ms=for ever"),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Invalid value for ever for configuration log.retention.ms" in done.stderr
    assert Broker(tmp_path).status() is None


def test_a_killed_broker_comes_back_with_its_topics(tmp_path: Path) -> None:
    broker = Broker(tmp_path, port=0)
    try:
        broker.start()
        create_topic(broker, "kept")
        broker.kill()
        assert broker.ending() == "killed by SIGKILL"
        assert broker.status() is None
        assert Broker(tmp_path, broker.port).start() is True
        assert "kept" in topics(broker)
    finally:
        broker.stop()


def test_the_command_tells_whether_it_runs(node: Broker, tmp_path: Path) -> None:
    running = manager("status", "--data-dir", str(node.data_dir))
    assert running.returncode == 0
    assert f"port {node.port}, data in {node.data_dir}" in running.stdout
    elsewhere = manager("status", "--data-dir", str(tmp_path))
    assert (elsewhere.returncode, elsewhere.stdout.split(":")[0]) == (1, "broker not running")


def test_the_command_stops_what_it_started(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path))
    assert manager("start", *where, "--port", "0").returncode == 0
    process = process_of(Broker(tmp_path))
    assert manager("stop", *where).stdout == "broker stopped\n"
    assert manager("stop", *where).stdout == "broker not running\n"
    assert Broker(tmp_path).status() is None
    assert not psutil.pid_exists(process.pid) or process.status() == psutil.STATUS_ZOMBIE


def test_in_the_foreground_it_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local.broker", "run", "--data-dir", str(tmp_path)]
    with subprocess.Popen([*command, "--port", str(free_port())]) as foreground:
        wait_until(Broker(tmp_path).status, ANSWER_SECONDS, "the broker runs")
        foreground.terminate()
        assert foreground.wait(ANSWER_SECONDS) == 0
    assert Broker(tmp_path).status() is None
