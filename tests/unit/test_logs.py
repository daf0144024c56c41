"""Logs: one line an event, and nothing personal in them."""

import io
import logging
import logging.config
from asyncio import CancelledError
from collections.abc import Iterator

import pytest
import structlog
from aiokafka.errors import GroupAuthorizationFailedError

from app.config.settings import Settings
from app.domain.errors import BrokerUnavailableError
from app.telemetry.logs import configure, logging_config


@pytest.fixture(autouse=True)
def _logging_left_as_found() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    # As the app has it: other tests of this process look for lines of the standard library.
    configure()


def logged(log_format: str, error: BaseException) -> str:
    """Return what is logged of an exception."""
    config = logging_config(Settings.model_validate({"log_format": log_format}))
    logging.config.dictConfig(config)
    out = io.StringIO()
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(out)
    try:
        raise error
    except BaseException:
        structlog.get_logger("x").exception("it broke")
    return out.getvalue()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_exceptions_text_is_not_logged_if_it_may_be_personal(log_format: str) -> None:
    text = logged(log_format, ValueError("no such user: ada@example.com"))
    assert "it broke" in text
    assert "ValueError" in text
    assert "test_logs.py" in text
    assert "ada@example.com" not in text.replace("raise error", "")


def test_the_text_of_our_own_errors_is_logged() -> None:
    assert "no broker" in logged("console", BrokerUnavailableError("no broker"))


def test_json_logs_are_one_object_a_line() -> None:
    assert len(logged("json", ValueError("x")).splitlines()) == 1


def test_what_brokers_refuse_is_told_in_one_line() -> None:
    (line,) = logged("console", GroupAuthorizationFailedError("group")).splitlines()
    assert "it broke" in line
    assert "GroupAuthorizationFailedError" in line


def test_where_something_was_cancelled_is_not_told() -> None:
    assert len(logged("console", CancelledError()).splitlines()) == 1


def test_a_library_that_repeats_itself_is_heard_once() -> None:
    logging.config.dictConfig(logging_config(Settings()))
    out = io.StringIO()
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(out)
    for _ in range(3):
        logging.getLogger("aiokafka.client").error("Unable to connect to node %s", 1)
        logging.getLogger("app.agents").error("ours")
    assert [line.count("Unable") for line in out.getvalue().splitlines()].count(1) == 1
    assert out.getvalue().count("ours") == 3
