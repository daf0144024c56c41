"""Stores of tables on disk, without a worker."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from app.config.settings import Settings
from tables.store import PartitionedStore, StoreOptions


def open_store(
    folder: Path, name: str = "users", options: StoreOptions | None = None
) -> PartitionedStore:
    """Return a store in a folder, as Faust would make it; it has no open partition."""
    options = options or StoreOptions.of(Settings())
    app = cast(Any, SimpleNamespace(conf=SimpleNamespace(tabledir=folder), loop=None))
    table = cast(Any, SimpleNamespace(name=name))
    return PartitionedStore("registry://", app, table, options=options.as_mapping())
