"""Importing a module of the product does nothing: it reads no setting, opens and starts nothing."""

import subprocess
import sys

from local.places import PROJECT

#: Wrong settings end whoever reads them.
IMPORTS_ALL = """
import os, pkgutil, sys, threading
import app, tables
for package in (app, tables):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
from app.config.settings import settings
open_files = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[3:-1])
print(settings.cache_info().misses, threading.active_count(), len(sys.modules) > 500)
print([name for name in open_files if name.startswith("socket:")])
"""


def test_importing_every_module_does_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_ALL],
        cwd=PROJECT,
        env={"PATH": "/nowhere", "WEB_PORT": "none at all"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0 1 True", "[]"]
