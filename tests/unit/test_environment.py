"""What the surroundings say to others is not heard: by Faust, and by what we start."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import faust
import pytest

from app.system.environment import handed_down
from local.broker.options import java_environment
from local.places import PROJECT
from local.probe import http_answers_ok
from local.settings import LocalSettings, environment

OURS = {name.upper() for name in LocalSettings.model_fields}
#: All that Faust takes from the environment by its settings, and what it reads otherwise.
SETTINGS = {each.env_name for each in faust.Settings.SETTINGS.values() if each.env_name}
PREFIXED = ("BLOCKING_TIMEOUT", "CONSOLE_PORT", "DATADIR", "DEBUG", "LOOP", "WEB_PORT", "WORKDIR")
FLAGS = ("DEVLOG", "DJANGO_SETTINGS_MODULE", "NO_CYTHON", "SSLKEYLOGFILE", "TYPEXPR_DEBUG")

#: Tells what Faust was configured with, but for a name of chance and addresses in memory.
CONFIGURED = """
import json, os
from app.main import build
from app.config.settings import settings
app = build(settings()).app
told = {name: repr(getattr(app.conf, name)) for name in sorted(app.conf.SETTINGS)}
told = {name: value for name, value in told.items() if " at 0x" not in value and name != "reply_to"}
print(json.dumps([told, sorted(os.environ)]))
"""


def configured(folder: Path, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return Faust's settings, and the names in the environment, under a given one."""
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(folder), **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, names = json.loads(done.stdout)
    return told, names


def test_no_environment_bends_faust(tmp_path: Path) -> None:
    known = {
        *SETTINGS,
        *(f"{prefix}{name}" for prefix in ("FAUST_", "F_") for name in (*SETTINGS, *PREFIXED)),
        *FLAGS,
    } - OURS
    assert {"WEB_BIND", "BROKER_URL", "APP_VERSION", "TIMEZONE"} <= known
    plain, _ = configured(tmp_path, {})
    assert plain["web_bind"] == "'127.0.0.1'"
    assert len(plain) > 50
    for value in ("nonsense", "7"):
        bent, names = configured(tmp_path, dict.fromkeys(known, value))
        assert bent == plain
        assert not set(FLAGS).intersection(names)


def test_faust_takes_the_longest_session(tmp_path: Path) -> None:
    told, _ = configured(tmp_path, {"SESSION_TIMEOUT_SECONDS": "300"})
    assert told["broker_session_timeout"] == "300.0"
    assert float(told["broker_request_timeout"]) >= 300


def test_the_broker_s_java_sees_nothing_that_bends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"):
        monkeypatch.setenv(name, "-nonsense")
    monkeypatch.setenv("HOME", "/home/of/mine")
    seen = java_environment()
    assert (seen["HOME"], seen["LC_ALL"]) == ("/home/of/mine", "C.UTF-8")
    assert {name for name, value in seen.items() if value == "-nonsense"} == set()


def test_workers_see_settings_and_the_system_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "WEB_BIND", "http_proxy", "partitions", "WORKER"):
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setenv("EMAIL_SECRET", "0123456789abcdef")
    seen = environment("broker:1")
    assert set(seen) <= OURS | set(handed_down())
    assert (seen["EMAIL_SECRET"], seen["KAFKA_BROKERS"]) == ("0123456789abcdef", "broker:1")
    assert "nonsense" not in seen.values()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_this_machine_is_asked_past_any_proxy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            pass

    monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert http_answers_ok(f"http://127.0.0.1:{server.server_port}/health/ready")
        finally:
            server.shutdown()
