"""The supervisor with stand-ins for Kafka and the app: order, restarts, take-over, exit status."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from local.broker.node import STOP_GRACE_SECONDS
from local.machine import HOST, free_port
from local.places import PROJECT
from local.processes import is_alive
from local.takeover import WORKERS_GRACE_SECONDS

DEADLINE_SECONDS = 60

#: Runs the supervisor on stand-ins that write into one file what happens to them.
RUN = """
import sys
from pathlib import Path
from local import settings, takeover
from local.cli import OneLineErrors
from local.supervisor import Commands, Supervisor
import click

HERE = Path(__file__).parent
takeover.WORKERS_GRACE_SECONDS = 0.5

def event(line):
    with (HERE / "events").open("a") as file:
        file.write(line + "\\n")

class Broker:
    name, address = "the broker", "broker:1"
    def launch(self):
        event("broker up")
        (HERE / "broker-down").unlink(missing_ok=True)
    def services(self):
        return [self]
    def ending(self):
        return "exit status 3" if (HERE / "broker-down").exists() else None
    def stop(self):
        event("broker down")

@click.group(cls=OneLineErrors)
def main(): ...

@main.command()
def run():
    python = sys.executable
    commands = Commands((python, f"{HERE}/topics.py"), (python, f"{HERE}/worker.py"))
    Supervisor(settings.load(), commands, Broker()).run()

main()
"""
TOPICS = """
import os, sys
from pathlib import Path
HERE = Path(__file__).parent
with (HERE / "events").open("a") as file:
    file.write(f"topics on {os.environ['KAFKA_BROKERS']}\\n")
if (HERE / "topics-fail").exists():
    print("warm-up", file=sys.stderr)
    print("PARTITIONS: 8 asked for, 4 exist", file=sys.stderr)
    sys.exit(2)
"""
WORKER = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
HERE = Path(__file__).parent
NAME = Path(os.environ["DATA_DIR"]).name

def event(line):
    with (HERE / "events").open("a") as file:
        file.write(f"{NAME} {line}\\n")

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health/ready" else 404)
        self.end_headers()
    def log_message(self, *_): ...

def leave(*_):
    event("down")
    if not (HERE / "stubborn").exists():
        os._exit(0)

signal.signal(signal.SIGTERM, leave)
if (HERE / "wrong-settings").exists():
    print("CACHE_MIB: must be at least 8", flush=True)
    sys.exit(2)
server = HTTPServer(("127.0.0.1", int(os.environ["INTERNAL_PORT"])), Ready)
event("up")
server.serve_forever()
"""


class Run:
    """One supervisor on stand-ins, and what is seen of it."""

    def __init__(self, folder: Path, *command: str, **settings: object) -> None:
        self.folder = folder
        self.output = folder / "output"
        environment = {name: str(value) for name, value in settings.items()}
        self.env = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
        self.port = int(environment["WEB_PORT"])
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command or (sys.executable, str(folder / "run.py"), "run"),
                cwd=PROJECT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def says(self, text: str) -> bool:
        return text in self.output.read_text()

    def wait_until_it_says(self, text: str) -> None:
        wait_until(lambda: self.says(text), lambda: f"{text!r} in {self.output.read_text()!r}")

    def wait_until_ready(self) -> None:
        self.wait_until_it_says("Ctrl-C\n")

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "local", name],
            cwd=PROJECT,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )

    def worker(self, number: int = 1) -> psutil.Process:
        record = json.loads((self.folder / "data/run" / f"worker-{number}.json").read_text())
        return psutil.Process(record["pid"])

    def events(self) -> list[str]:
        return (self.folder / "events").read_text().splitlines()


Start = Callable[..., Run]


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start supervisors on one data folder; nothing of them outlives the test."""
    for name, program in {"run": RUN, "topics": TOPICS, "worker": WORKER}.items():
        (tmp_path / f"{name}.py").write_text(program)
    runs: list[Run] = []
    # Workers take the ports after it.
    port = free_port(count=3)
    settings = {"DATA_DIR": tmp_path / "data", "WEB_PORT": port, "WORKERS": 1}

    def start_run(*command: str, **more: object) -> Run:
        runs.append(Run(tmp_path, *command, **(settings | more)))
        return runs[-1]

    yield start_run
    kill_recorded(tmp_path / "data/run")
    for run in runs:
        run.process.kill()
        run.process.wait()


def kill_recorded(folder: Path) -> None:
    for file in folder.glob("*.json"):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(json.loads(file.read_text())["pid"]).kill()


def test_everything_starts_in_order_and_stops_in_reverse(start: Start) -> None:
    run = start()
    run.wait_until_ready()
    assert run.end() == 0
    assert run.events() == [
        "broker up",
        "topics on broker:1",
        "worker-1 up",
        "worker-1 down",
        "broker down",
    ]


def test_the_last_lines_say_what_to_open_and_what_to_type(start: Start) -> None:
    port = free_port()
    run = start(WEB_PORT=port)
    run.wait_until_ready()
    run.end()
    url = f"http://{HOST}:{port}"
    assert run.says(f"ready: {url}/\n")
    assert run.says(f'curl {url}/users -H \'Content-Type: application/json\' -d \'{{"id":"ada",')
    assert run.says(f"curl {url}/users/ada\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_to_end_ends_with_status_0(
    start: Start, number: signal.Signals
) -> None:
    run = start()
    run.wait_until_ready()
    assert run.end(number) == 0
    assert run.events()[-1] == "broker down"


def test_ctrl_c_while_it_is_starting_takes_everything_down(start: Start) -> None:
    run = start(WORKERS=2)
    run.wait_until_it_says("Starting 2 worker(s)")
    assert run.end() == 0
    assert run.events()[-1] == "broker down"


def test_each_worker_has_a_port_and_a_folder_of_its_own(start: Start) -> None:
    run = start(WORKERS=2)
    run.wait_until_ready()
    run.end()
    assert {"worker-1 up", "worker-2 up", "worker-1 down", "worker-2 down"} < set(run.events())


def test_a_worker_that_is_killed_is_started_again(start: Start) -> None:
    run = start()
    run.wait_until_ready()
    run.worker().kill()
    run.wait_until_it_says("worker 1 ended (killed by SIGKILL): starting it again in 0.5 s")
    wait_until(lambda: run.events().count("worker-1 up") == 2, lambda: str(run.events()))
    assert run.end() == 0


def test_workers_are_restarted_one_after_the_other(start: Start) -> None:
    run = start(WORKERS=2)
    run.wait_until_ready()
    former = [run.worker(number) for number in (1, 2)]
    done = run.command("restart")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Restarted.")
    assert [run.worker(number).pid == old.pid for number, old in enumerate(former, 1)] == [
        False
    ] * 2
    since = run.events()[run.events().index("worker-1 down") :]
    assert since == ["worker-1 down", "worker-1 up", "worker-2 down", "worker-2 up"]
    assert run.end() == 0
    assert run.command("restart").stdout == "Not running.\n"


def test_who_connects_while_no_worker_listens_waits(start: Start) -> None:
    run = start()
    run.wait_until_ready()
    run.worker().kill()
    with socket.create_connection((HOST, run.port), timeout=DEADLINE_SECONDS) as waiting:
        assert waiting.getpeername() == (HOST, run.port)
    assert run.end() == 0


def test_a_broker_that_ends_is_started_again(start: Start) -> None:
    run = start()
    run.wait_until_ready()
    (run.folder / "broker-down").touch()
    run.wait_until_it_says("the broker ended (exit status 3): starting it again in 0.5 s")
    wait_until(lambda: run.events().count("broker up") == 2, lambda: str(run.events()))
    assert run.end() == 0


def test_wrong_settings_of_a_worker_end_the_start_with_its_own_line(start: Start) -> None:
    run = start()
    run.wait_until_ready()
    run.end()
    (run.folder / "wrong-settings").touch()
    again = start()
    assert again.process.wait(DEADLINE_SECONDS) == 2
    assert again.output.read_text().endswith("\nCACHE_MIB: must be at least 8\n")
    assert run.events()[-1] == "broker down"


def test_topics_that_cannot_be_had_end_the_start_with_their_own_line(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "topics-fail").touch()
    run = start()
    assert run.process.wait(DEADLINE_SECONDS) == 2
    assert run.output.read_text() == "PARTITIONS: 8 asked for, 4 exist\n"
    assert run.events()[-1] == "broker down"


def test_a_wrong_setting_is_one_line_and_status_2(start: Start) -> None:
    run = start(WORKERS=0)
    assert run.process.wait(DEADLINE_SECONDS) == 2
    assert run.output.read_text() == "WORKERS: must be at least 1 (got 0)\n"


def test_the_graces_of_workers_and_broker_leave_time_within_ten_seconds() -> None:
    assert WORKERS_GRACE_SECONDS + STOP_GRACE_SECONDS < 10


@pytest.mark.parametrize("process", ["supervisor", "worker-1"])
def test_a_taken_port_is_one_line_and_status_2(start: Start, process: str) -> None:
    first = start()
    first.wait_until_ready()
    port = json.loads((first.folder / "data/run" / f"{process}.json").read_text())["port"]
    second = start(DATA_DIR=first.folder / "other", WEB_PORT=port)
    assert second.process.wait(DEADLINE_SECONDS) == 2
    line = f"port {port} is used by another program: end it, or choose another (WEB_PORT)\n"
    assert second.output.read_text().endswith(line)


def test_a_second_run_beside_the_first_is_refused_and_changes_nothing(start: Start) -> None:
    first = start()
    first.wait_until_ready()
    first.output = first.folder / "elsewhere"
    second = start()
    assert second.process.wait(DEADLINE_SECONDS) == 1
    assert second.says(f"already running (process {first.process.pid}): http://127.0.0.1:")
    assert second.says("`make stop` ends it\n")
    assert first.process.poll() is None
    assert first.end() == 0


def test_a_run_whose_make_was_killed_is_ended_by_the_next(start: Start, tmp_path: Path) -> None:
    script = shlex.join([sys.executable, str(tmp_path / "run.py"), "run"])
    first = start("sh", "-c", f"{script}; exit")  # a shell that waits, as make does
    first.wait_until_ready()
    (orphan,) = psutil.Process(first.process.pid).children()
    first.process.kill()
    first.process.wait()
    second = start()
    second.wait_until_ready()
    assert second.says(f"whose make is gone (process {orphan.pid})")
    assert second.events()[-4:] == ["broker down", "broker up", "topics on broker:1", "worker-1 up"]
    assert second.end() == 0


def test_workers_of_a_killed_supervisor_are_stopped_by_the_next_run(start: Start) -> None:
    first = start()
    first.wait_until_ready()
    left = first.worker()
    first.process.kill()
    first.process.wait()
    second = start()
    second.wait_until_ready()
    assert second.says(f"Stopped workers that an earlier run left (process {left.pid})")
    assert second.end() == 0
    assert not is_alive(left)


def test_a_worker_that_does_not_obey_is_killed(start: Start) -> None:
    run = start()
    run.wait_until_ready()
    (run.folder / "stubborn").touch()
    stubborn = run.worker()
    assert run.end() == 0
    assert not is_alive(stubborn)
