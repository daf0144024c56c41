"""Restarts the workers of a run one after the other.

A worker that is asked to stop leaves new connections to the others, and is started again by its
supervisor: with the program and the packages that lie here now.
"""

from collections.abc import Sequence

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from local.console import say
from local.errors import WorkerError
from local.folder import DataFolder
from local.probe import http_answers_ok
from local.processes import RecordFile, stop
from local.settings import LocalSettings

#: How long a worker has beyond STOP_GRACE_SECONDS to end what is under way.
END_SECONDS = 30.0
#: How long the supervisor and a worker have until that is ready again.
READY_TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.1


def restart_workers(folder: DataFolder, settings: LocalSettings) -> None:
    """Restart each worker once all are ready; raise `WorkerError` if they do not become so."""
    records = folder.worker_records()
    _wait_until_ready(records, settings)
    for record in records:
        if process := record.find():
            say(f"Restarting {record.path.stem} (process {process.pid}) ...")
            stop(process, settings.stop_grace_seconds + END_SECONDS)
        _wait_until_ready(records, settings)


def _wait_until_ready(records: Sequence[RecordFile], settings: LocalSettings) -> None:
    attempts = Retrying(
        retry=retry_if_result(bool),
        stop=stop_after_delay(READY_TIMEOUT_SECONDS),
        wait=wait_fixed(POLL_SECONDS),
    )
    try:
        attempts(lambda: [each for each in records if not _is_ready(each, settings)])
    except RetryError as error:
        late = error.last_attempt.result()[0].path.stem
        raise WorkerError(
            f"{late} is not ready after {READY_TIMEOUT_SECONDS:.0f} s: the others go on as they are"
        ) from None


def _is_ready(file: RecordFile, settings: LocalSettings) -> bool:
    record = file.read()
    if record is None or record.find() is None:
        return False
    return http_answers_ok(f"{settings.url_of(settings.internal_host, record.port)}/health/ready")
