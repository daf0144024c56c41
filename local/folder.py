"""The data folder: what lies where in it, and how it is told from anybody else's folder."""

from pathlib import Path

from app.system.files import write_whole
from local.errors import DataFolderError
from local.machine import require_folder
from local.places import IS_CHECKOUT, named
from local.processes import RecordFile
from local.removal import MARKER

_REMOVED = f"{named('clean-data')} removes it" if IS_CHECKOUT else "remove it to begin anew"
MARKER_TEXT = f"Everything in this folder belongs to the user registry; {_REMOVED}.\n"


class DataFolder:
    """Where `make run` keeps Kafka's storage, the workers' tables, logs and records."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.kafka = self.path / "kafka"
        self.lock = self.path / "run" / "lock"
        self.supervisor = RecordFile(self.path / "run" / "supervisor.json")

    def claim(self) -> None:
        """Make the folder ours; raise `DataFolderError` if it cannot be, or holds other files."""
        require_folder(self.path, MARKER)
        marker = self.path / MARKER
        if not marker.exists():
            self._refuse_strange_files()
            write_whole(marker, MARKER_TEXT)
        for folder in (self.logs, self.lock.parent):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _refuse_strange_files(self) -> None:
        if any(self.path.iterdir()):
            raise DataFolderError(
                f"{self.path} holds files that are not the registry's: "
                "set DATA_DIR to a new or empty folder"
            )

    def is_ours(self) -> bool:
        """Tell whether the folder was claimed by a run."""
        return (self.path / MARKER).exists()

    def worker(self, number: int) -> Path:
        """Return the folder of a worker's own; numbers begin with 1."""
        return self.path / f"worker-{number}"

    def worker_log(self, number: int) -> Path:
        """Return where a worker's output goes."""
        return self.logs / f"worker-{number}.log"

    def worker_record(self, number: int) -> RecordFile:
        """Return where a worker's process is recorded."""
        return RecordFile(self.path / "run" / f"worker-{number}.json")

    def worker_records(self) -> list[RecordFile]:
        """Return the records of all workers that this or an earlier run has started."""
        return [RecordFile(path) for path in sorted(self.lock.parent.glob("worker-*.json"))]
