"""Kafka's jars: fetched from the package registry once, and compared with committed checksums.

`kafka-jars.sha256` is the lock file: it names every jar by its path in a Maven repository, as
`sha256sum` writes it. No dependency is resolved here, so what arrives cannot drift. The list is
what Maven itself makes of org.apache.kafka:kafka_2.13:4.3.1 and
org.apache.logging.log4j:log4j-slf4j-impl:2.25.1; docs/operations.md says how to renew it.
"""

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from local.console import console, say
from local.errors import JarsError
from local.places import cache_folder

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

KAFKA_VERSION = "4.3.1"
CHECKSUMS = Path(__file__).with_name("kafka-jars.sha256")
DEFAULT_CACHE = cache_folder() / f"kafka-{KAFKA_VERSION}"

DOWNLOADS_AT_ONCE = 8
DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT_SECONDS = 10


class KafkaJars:
    """The jars of one Kafka release, in a cache folder of the project's own.

    A jar gets to its place in the cache only after its checksum was found right, so an interrupted
    download leaves a smaller cache, never a wrong one.
    """

    def __init__(self, cache: Path = DEFAULT_CACHE, checksums: Path = CHECKSUMS) -> None:
        self.folder = cache / "jars"
        self._downloads = cache / "downloads"
        self._lock = cache / "lock"
        self._checksums = read_checksums(checksums)

    @property
    def class_path(self) -> str:
        """Return what Java's ``-cp`` takes: exactly the listed jars."""
        return os.pathsep.join(str(self._place(path)) for path in self._checksums)

    def ensure(self) -> None:
        """Make the cache complete, and verify it; ask the registry only for what is missing.

        Raises `JarsError` when a jar cannot be had, differs from its checksum or is unknown.
        """
        try:
            with self._locked():
                self._refuse_extra()
                self._complete()
        except OSError as error:  # what jgo's HTTP library raises is an OSError too
            reason = error.strerror or type(error).__name__
            raise JarsError(
                f"Kafka's jars cannot be fetched into {self.folder} ({reason}): "
                "check the network and the disk, and run this again"
            ) from None
        except RuntimeError:  # jgo's word for a no from the registry
            raise JarsError(
                "the package registry did not give out all of Kafka's jars: run this again later"
            ) from None

    @retry(
        retry=retry_if_exception_type((OSError, RuntimeError)),
        stop=stop_after_attempt(DOWNLOAD_ATTEMPTS),
        wait=wait_exponential(multiplier=0.5),
        before_sleep=lambda _: say("The download was cut short: trying again"),
        reraise=True,
    )
    def _complete(self) -> None:
        if wanted := self._wanted():
            with empty_folder(self._downloads):
                self._fetch_all(wanted)

    def _place(self, path: PurePosixPath) -> Path:
        return self.folder / path.name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _refuse_extra(self) -> None:
        known = {path.name for path in self._checksums}
        for file in sorted(self.folder.iterdir()):
            if file.name not in known:
                raise JarsError(f"{file} is not in {CHECKSUMS.name}: remove it")

    def _wanted(self) -> list[PurePosixPath]:
        # All 46 are read anew each time: that takes a tenth of a second, and needs no marker file
        # that could itself be wrong.
        wanted = [path for path in self._checksums if not self._is_right(path)]
        for damaged in filter(Path.exists, map(self._place, wanted)):
            say(f"{damaged.name} in the cache is damaged: fetching it again")
        return wanted

    def _is_right(self, path: PurePosixPath) -> bool:
        place = self._place(path)
        return place.exists() and sha256_of(place) == self._checksums[path]

    def _fetch_all(self, wanted: list[PurePosixPath]) -> None:
        cancelled = threading.Event()
        repository = maven_repository(self._downloads, cancelled)
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool, jar_progress(len(wanted)) as advance:
            fetches = [pool.submit(self._fetch, repository, path) for path in wanted]
            try:
                for fetch in as_completed(fetches):
                    fetch.result()
                    advance()
            finally:  # on an error, and on Ctrl-C: the rest of the downloads ends too
                cancelled.set()
                pool.shutdown(cancel_futures=True)

    def _fetch(self, repository: "MavenContext", path: PurePosixPath) -> None:
        arrived = Path(artifact_at(repository, path).resolve())
        if sha256_of(arrived) != self._checksums[path]:
            raise JarsError(f"{path.name} is not what {CHECKSUMS.name} says: it was thrown away")
        arrived.replace(self._place(path))


@contextmanager
def empty_folder(folder: Path) -> Iterator[None]:
    """Have nothing of an earlier download in a folder, and leave nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_checksums(file: Path) -> Mapping[PurePosixPath, str]:
    """Return the sha256 of each jar by its path in a Maven repository."""
    pairs = (line.split() for line in file.read_text().splitlines())
    return {PurePosixPath(path): digest for digest, path in pairs}


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def maven_repository(folder: Path, cancelled: threading.Event) -> "MavenContext":
    """Return jgo's view of the package registry, downloading into a folder until cancelled."""
    # It takes a quarter of a second to import, and a complete cache never needs it.
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    @contextmanager
    def watch(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield lambda _received: stop_if(cancelled)

    resolver = PythonResolver(progress_callback=watch)
    return MavenContext(resolver, repo_cache=folder, timeout=DOWNLOAD_TIMEOUT_SECONDS)


def stop_if(cancelled: threading.Event) -> None:
    """Raise `InterruptedError` once the event is set."""
    if cancelled.is_set():
        raise InterruptedError


def artifact_at(repository: "MavenContext", path: PurePosixPath) -> "Artifact":
    """Return the artifact whose path in a Maven repository is given."""
    *group, name, version, _file = path.parts
    return repository.project(".".join(group), name).at_version(version).artifact()


@contextmanager
def jar_progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, one line elsewhere; yield what to call after each jar."""
    title = f"Fetching Kafka {KAFKA_VERSION}"
    if not console.is_terminal:
        say(f"{title}: {total} jars, up to 45 MB")
        yield lambda: None
        return
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
