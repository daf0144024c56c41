"""`load` against a real worker: what it says was acknowledged is in the table."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from tests.support.worker import Worker, wait_until
from tools.load import Options, drive
from tools.load.options import MODES, Mode


@pytest.mark.parametrize("mode", MODES)
def test_every_id_that_is_kept_is_registered(worker: Worker, mode: Mode, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    options = Options(
        url=worker.url,
        mode=mode,
        batch=20,
        registrations=200,
        warmup=0,
        duplicates=0.2,
        retry=5,
        keep_ids=ids,
    )
    told = asyncio.run(drive(options))
    assert (told.acknowledged, told.refused, told.errors) == (200, {}, {})
    kept = ids.read_text().split()
    assert len(kept) == 200
    registered: set[str] = set()
    wait_until(partial(all_are_registered, worker, set(kept), registered), 30, "all are registered")


def all_are_registered(worker: Worker, ids: set[str], registered: set[str]) -> bool:
    """Look for the ids that were not registered yet; return whether all are."""
    for user_id in ids - registered:
        answer = worker.get("/users", params={"id": user_id})
        if answer.status_code == 200 and answer.json()["status"] == "registered":
            registered.add(user_id)
    return ids == registered
