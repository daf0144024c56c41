"""The broker's log: the line that says why it ended is found among many."""

from pathlib import Path

import pytest

from local.broker.log import BrokerLog, reason_in

FATAL = """\
2026-01-01T00:00:00,000 WARN something (Other)
2026-01-01T00:00:01,000 ERROR Exiting Kafka due to fatal exception (Kafka$)
org.apache.kafka.common.config.ConfigException: Invalid value abc for configuration x
\tat org.apache.kafka.common.config.ConfigDef.parseType(ConfigDef.java:1)
"""
NESTED = """\
java.lang.RuntimeException: Unable to start acceptor for PLAINTEXT
\tat kafka.Kafka.main(Kafka.scala)
Caused by: java.net.BindException: Address already in use
\t... 18 more
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FATAL, "Invalid value abc for configuration x"),
        (NESTED, "Address already in use"),
        ("2026-01-01T00:00:01,000 ERROR Halting (Kafka$)\nbye\n", "Halting (Kafka$)"),
        ("Error occurred during initialization of VM\nToo small heap\n", "Too small heap"),
        ("WARNING: sun.misc.Unsafe is deprecated\n", ""),
        (
            'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space\n',
            "Java heap space",
        ),
    ],
)
def test_the_reason_is_one_line(text: str, reason: str) -> None:
    assert reason_in(text) == reason


def test_what_an_earlier_run_logged_is_no_reason(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text(FATAL)
    log = BrokerLog(tmp_path)
    log.begin().close()
    assert log.reason() == f"it left no reason in {tmp_path / 'server.log'}"


def test_a_log_that_was_rolled_over_is_read_from_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text(10 * FATAL)
    log = BrokerLog(tmp_path)
    log.begin().close()
    (tmp_path / "server.log").write_text(NESTED)
    assert log.reason() == "Address already in use"
