"""Kafka's jars: what is in the cache is what was committed to, or the run ends with one line."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from local import kafka
from local.errors import JarsError
from local.kafka import CHECKSUMS, DOWNLOAD_ATTEMPTS, KafkaJars, read_checksums

JARS = {
    PurePosixPath("org/example/one/1.0/one-1.0.jar"): b"the first jar",
    PurePosixPath("org/example/two/2.0/two-2.0.jar"): b"the second jar",
}


class Registry:
    """A package registry that gives out ``jars``, and counts what it was asked for."""

    def __init__(self, folder: Path, downloads: Path) -> None:
        self._downloads = downloads
        self.jars = dict(JARS)
        self.asked: list[str] = []
        self.failures = 0
        self._folder = folder

    def artifact_at(self, _repository: object, path: PurePosixPath) -> "Artifact":
        return Artifact(self, path)

    def give(self, path: PurePosixPath) -> Path:
        self.asked.append(path.name)
        assert not self._downloads.exists() or os.listdir(self._downloads) == []
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        arrived = self._folder / path.name
        arrived.write_bytes(self.jars[path])
        return arrived


class Artifact:
    """What jgo calls an artifact."""

    def __init__(self, registry: Registry, path: PurePosixPath) -> None:
        self.resolve: Callable[[], Path] = lambda: registry.give(path)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    folder = tmp_path / "registry"
    folder.mkdir()
    registry = Registry(folder, downloads=tmp_path / "cache" / "downloads")
    monkeypatch.setattr(kafka, "artifact_at", registry.artifact_at)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    return registry


@pytest.fixture
def jars(tmp_path: Path, registry: Registry) -> KafkaJars:
    lines = (f"{hashlib.sha256(jar).hexdigest()}  {path}\n" for path, jar in JARS.items())
    checksums = tmp_path / "jars.sha256"
    checksums.write_text("".join(lines))
    return KafkaJars(tmp_path / "cache", checksums)


def test_the_committed_list_names_each_jar_of_kafka_4_3_1_once() -> None:
    names = [path.name for path in read_checksums(CHECKSUMS)]
    assert len(names) == len(set(names)) == 46
    assert {"kafka_2.13-4.3.1.jar", "kafka-clients-4.3.1.jar"} < set(names)


def test_a_first_run_fetches_every_jar(jars: KafkaJars, registry: Registry) -> None:
    jars.ensure()
    assert sorted(registry.asked) == ["one-1.0.jar", "two-2.0.jar"]
    assert [Path(jar).read_bytes() for jar in jars.class_path.split(":")] == list(JARS.values())


def test_a_complete_cache_asks_nobody(jars: KafkaJars, registry: Registry) -> None:
    jars.ensure()
    registry.asked.clear()
    jars.ensure()
    assert registry.asked == []


def test_a_damaged_jar_is_fetched_again(
    jars: KafkaJars, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    jars.ensure()
    registry.asked.clear()
    (jars.folder / "one-1.0.jar").write_bytes(b"the fir")
    jars.ensure()
    assert registry.asked == ["one-1.0.jar"]
    assert "one-1.0.jar in the cache is damaged" in capsys.readouterr().out


def test_a_jar_that_differs_from_its_checksum_is_refused_and_not_kept(
    jars: KafkaJars, registry: Registry
) -> None:
    registry.jars[PurePosixPath("org/example/two/2.0/two-2.0.jar")] = b"another jar"
    with pytest.raises(JarsError, match=r"^two-2\.0\.jar is not what kafka-jars\.sha256 says"):
        jars.ensure()
    assert not (jars.folder / "two-2.0.jar").exists()


def test_an_unknown_jar_in_the_cache_is_refused(jars: KafkaJars) -> None:
    jars.ensure()
    (jars.folder / "three.jar").touch()
    with pytest.raises(JarsError, match=r"three\.jar is not in kafka-jars\.sha256: remove it$"):
        jars.ensure()


def test_a_download_that_fails_for_a_moment_is_tried_again(
    jars: KafkaJars, registry: Registry
) -> None:
    registry.failures = 1
    jars.ensure()
    assert (jars.folder / "one-1.0.jar").exists()
    assert (jars.folder / "two-2.0.jar").exists()


def test_without_a_network_the_error_is_one_line_and_the_next_run_recovers(
    jars: KafkaJars, registry: Registry
) -> None:
    registry.failures = 100
    with pytest.raises(JarsError, match=r"^Kafka's jars cannot be fetched .*check the network"):
        jars.ensure()
    assert len(registry.asked) <= DOWNLOAD_ATTEMPTS * len(JARS)
    registry.failures = 0
    jars.ensure()
    assert (jars.folder / "two-2.0.jar").exists()


def test_half_a_jar_of_a_killed_download_is_not_built_upon(jars: KafkaJars, tmp_path: Path) -> None:
    half = tmp_path / "cache" / "downloads" / "one-1.0.jar"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"the fir")
    jars.ensure()
    assert not half.parent.exists()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JarsError, match="Not a directory"):
        KafkaJars(tmp_path / "file").ensure()
