"""Logs: one line for each event, as text or JSON, without personal data."""

import asyncio
import logging
import math
import sys
import traceback
from time import monotonic
from typing import Any, TextIO

import structlog
from aiokafka.errors import KafkaError
from structlog.typing import EventDict, Processor, WrappedLogger

from app.config.settings import Settings
from app.domain.errors import RegistryError
from app.system.memory import end_if_none_is_left

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]

#: A line is logged once in this time. While a broker is away, aiokafka repeats itself ten times a
#: second.
REPEAT_AFTER_SECONDS = 10.0
_MAX_REMEMBERED_LINES = 1_000

#: Errors whose texts are about settings, files and brokers, and never about users.
_DISCREET = (RegistryError, KafkaError, OSError, ImportError, TypeError, AttributeError)

#: Libraries whose INFO lines are for their own developers.
_QUIET = ("aiokafka", "faust", "mode", "asyncio", "aiohttp")


class Stderr(logging.StreamHandler[TextIO]):
    """Writes lines to stderr."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Report that a line cannot be written."""
        end_if_none_is_left(sys.exc_info()[1])
        super().handleError(record)


class _Repeats(logging.Filter):
    """Drops a library's line if the same line was logged shortly before.

    Our own lines always pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] not in _QUIET:
            return True
        line = (record.name, record.getMessage())
        now = monotonic()
        if now - self._last.get(line, -math.inf) < REPEAT_AFTER_SECONDS:
            return False
        if len(self._last) >= _MAX_REMEMBERED_LINES:
            self._last.clear()
        self._last[line] = now
        return True


def configure() -> None:
    """Send structlog's lines through the standard library, which Faust sets up."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def logging_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration of the standard library's logging, for Faust's worker."""
    configure()
    quiet = "DEBUG" if settings.log_level == "DEBUG" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_SHARED, _one_line],
                "processors": [
                    _discreet_exception,
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_renderers(settings.log_format),
                ],
            }
        },
        "filters": {"repeats": {"()": _Repeats}},
        "handlers": {
            "stderr": {
                "()": Stderr,
                "formatter": "line",
                "filters": ["repeats"],
            }
        },
        "root": {"level": settings.log_level, "handlers": ["stderr"]},
        "loggers": {name: {"level": quiet} for name in _QUIET},
    }


def _renderers(log_format: str) -> list[Processor]:
    if log_format == "json":
        return [structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=False)]


def _discreet_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Show where an exception was raised. Show its text only if that cannot hold personal data."""
    error = _exception(event.pop("exc_info", None))
    end_if_none_is_left(error)
    if isinstance(error, KafkaError | RegistryError):
        # The cause is a broker, a disk or a setting, and the text says so. A traceback adds
        # nothing.
        event["cause"] = f"{type(error).__name__}: {error}"
    elif error is not None and not isinstance(error, asyncio.CancelledError):
        text = str(error) if isinstance(error, _DISCREET) else "(its text may be personal)"
        frames = "".join(traceback.format_tb(error.__traceback__))
        event["exception"] = f"{frames}{type(error).__name__}: {text}"
    return event


def _exception(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return _exception(exc_info[1])
    return sys.exc_info()[1] if exc_info else None


def _one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    # Faust and mode log tables of several lines.
    event["event"] = " ".join(str(event["event"]).split())
    return event
