"""A start that fails in the middle: what was not begun yet stops too, without an error."""

from pathlib import Path

from app.config.settings import Settings
from app.main import build


async def test_services_that_were_never_started_stop(tmp_path: Path) -> None:
    app = build(Settings(data_dir=tmp_path)).app
    for service in reversed([*app.with_producer, *app.with_tables]):
        await service.stop()
        assert not service.started
