"""Formats of log lines: text for people, or one JSON object per line for programs.

Both formats show the type and position of an exception, never its message, because the
message may quote text from a sender. Uncaught exceptions are logged in the same way. By
default, Python would write them to standard error with their messages, on several lines
that do not have the format of the log.
"""

import json
import logging
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from dicom_node.log.context import (
    current_instance,
    describe_exception,
    summarize_exception,
)

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

# The format of Python's tracebacks. Libraries log them as part of a message.
TRACEBACK, FRAME = "Traceback (most recent call last):", '  File "'
# Log lines and warnings of these libraries may quote text from a sender.
SILENCED = (
    "pydicom",
    "pynetdicom",
    "highdicom",
    "py.warnings",
    "PIL",
    "httpx",
    "python_multipart",
)


def configure_logging(role: str, log_format: str = "text") -> None:
    """Configure logging to standard error, from level INFO on.

    Uncaught exceptions are logged, too. The libraries in SILENCED log only critical
    errors.

    Args:
        role: The role of the process, shown in each line.
        log_format: "text" or "json".
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(role) if log_format == "json" else TextFormatter(role)
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(capture=True)
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Lines of DBOS at level INFO are not needed: they are about its own migrations,
    # recovery and threads. If its logger had no handler, DBOS would add a handler with
    # another format. With the NullHandler, its lines have the format of the node.
    dbos = logging.getLogger("dbos")
    dbos.setLevel(logging.WARNING)
    dbos.addHandler(logging.NullHandler())
    log_uncaught()


def log_uncaught() -> None:
    """Log each uncaught exception of this process in one line.

    This covers the main thread, other threads, event loops and exceptions that Python
    ignores, for example in a destructor. The process ends or continues as it would
    without this function.
    """
    sys.excepthook = log_of_main_thread
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_ignored
    asyncio = logging.getLogger("asyncio")
    asyncio.filters[:] = [_shorten]


def log_of_main_thread(
    _kind: type[BaseException], error: BaseException, _trace: "TracebackType | None"
) -> None:
    """Log an uncaught exception of the main thread; used as `sys.excepthook`."""
    logger.critical("Uncaught exception: %s", summarize_exception(error))


def _log_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:  # as in the standard library
        return
    name = args.thread.name if args.thread else "that has ended"
    error = args.exc_value or args.exc_type()
    summary = summarize_exception(error)
    logger.error("Uncaught exception in thread %s: %s", name, summary)


def _log_ignored(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value or args.exc_type()
    logger.error("Ignored exception: %s", summarize_exception(error))


def _shorten(record: logging.LogRecord) -> bool:
    """Shorten a log record of asyncio, so that it shows no message of an exception.

    A record without an exception is cut after its first line.

    Returns:
        True, so that the record is logged.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error:
        summary = summarize_exception(error)
        record.msg = f"Uncaught exception in an event loop: {summary}"
    else:
        record.msg = record.getMessage().partition("\n")[0]
    record.args, record.exc_info = (), None
    return True


class _Handler(logging.StreamHandler[TextIO]):
    """A handler that writes a replacement for a line that cannot be logged."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Write that a line cannot be logged.

        The standard library would print the arguments of the message, which may quote
        text from a sender.
        """
        text = f"A line of {record.name} cannot be logged"
        if error := sys.exc_info()[1]:
            text += f": {summarize_exception(error)}"
        replacement = logging.LogRecord(__name__, logging.ERROR, "", 0, text, (), None)
        with suppress(Exception):  # the disk is full, or the reader of a pipe is gone
            self.stream.write(self.format(replacement) + self.terminator)
            self.flush()


class TextFormatter(logging.Formatter):
    """A formatter for people: time, role, level, message and id of the instance."""

    def __init__(self, role: str) -> None:
        """Create a formatter that writes `role` in each line."""
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, and lines about its exception if it has one."""
        time = self.formatTime(record)
        message, instance = _message(record), current_instance()
        if instance and instance.instance_id not in message:
            message += f" [{instance.instance_id}]"
        line = f"{time} {self._role} {record.levelname} {message}"
        return "\n".join([line, *_exception_lines(record)])


class JsonFormatter(logging.Formatter):
    """A formatter for programs: one JSON object per line, without empty fields."""

    def __init__(self, role: str) -> None:
        """Create a formatter that writes `role` in each line."""
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, a JSON object."""
        instance = current_instance()
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "role": self._role,
            "level": record.levelname,
            "message": _message(record),
            "sop_instance_uid": instance.sop_instance_uid if instance else None,
            "instance_id": instance.instance_id if instance else None,
            "step": getattr(record, "step", None),
            "seconds": getattr(record, "seconds", None),
            "exception": _exception_lines(record) or None,
        }
        known = {key: value for key, value in fields.items() if value is not None}
        return json.dumps(known)


def _message(record: logging.LogRecord) -> str:
    """Return the message of a record.

    If the message contains a traceback, only the text before the traceback and the
    positions of its frames are kept.
    """
    text, trace, more = record.getMessage().partition(TRACEBACK)
    if not trace:
        return text
    frames = [line.strip() for line in more.splitlines() if line.startswith(FRAME)]
    return " ".join([text.strip(), "Traceback:", *frames]).lstrip()


def _exception_lines(record: logging.LogRecord) -> list[str]:
    """Return lines that describe the exception of a record; empty if it has none."""
    error = record.exc_info[1] if record.exc_info else None
    return describe_exception(error) if error else []
