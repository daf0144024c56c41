"""The archive of Kafka's classes is of these jars, or not used."""

import os
from pathlib import Path

import pytest

from local.broker.archive import archive_of, archive_options
from local.kafka import KafkaJars

JAR = "a-1.jar"


@pytest.fixture
def jars(tmp_path: Path) -> KafkaJars:
    """Return a cache of one jar."""
    checksums = tmp_path / "sums"
    checksums.write_text(f"{'0' * 64}  org/a/1/{JAR}\n")
    made = KafkaJars(tmp_path / "cache", checksums)
    made.folder.mkdir(parents=True)
    (made.folder / JAR).touch()
    return made


def test_without_an_archive_java_is_told_of_none(jars: KafkaJars) -> None:
    assert archive_options(jars) == []


def test_an_archive_that_is_there_is_used(jars: KafkaJars) -> None:
    archive_of(jars).touch()
    assert archive_options(jars) == [f"-XX:AOTCache={archive_of(jars)}"]


def test_an_archive_of_former_jars_is_not_used(jars: KafkaJars) -> None:
    archive_of(jars).touch()
    os.utime(jars.folder / JAR, (1, 1))
    assert archive_options(jars) == []
