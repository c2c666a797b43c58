"""How log lines look: text for people, or one JSON object a line for programs.

Both say of an exception what kind it was and where, never its message: that may quote
what a sender wrote. This includes exceptions that nothing catches. Python writes them
to standard error with their message, over several lines, beside the log.
"""

import json
import logging
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from dicom_node.steps import in_one_line, subject, told

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

# What Python writes of an exception. Libraries log it as a message.
TRACEBACK, FRAME = "Traceback (most recent call last):", '  File "'
# Their lines and warnings may quote what a sender wrote.
TALKATIVE = (
    "pydicom",
    "pynetdicom",
    "highdicom",
    "py.warnings",
    "PIL",
    "httpx",
    "python_multipart",
)


def configure_logging(role: str, form: str = "text") -> None:
    """Log to standard error, one line for each thing that happened.

    Args:
        role: Stands in each line.
        form: "text" or "json".
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if form == "json" else TextFormatter(role))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(capture=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Its INFO lines are about itself: migrations, recovery, threads. Where it finds a
    # handler it adds none of its own, and its lines look like ours.
    dbos = logging.getLogger("dbos")
    dbos.setLevel(logging.WARNING)
    dbos.addHandler(logging.NullHandler())
    log_uncaught()


def log_uncaught() -> None:
    """Log each exception of this process that nothing catches, in one line.

    Of the main thread, of other threads, of event loops, and of what Python ignores: an
    exception in a destructor, for example. The process ends or goes on as it would
    without this.
    """
    sys.excepthook = _log_of_main_thread
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_ignored
    asyncio = logging.getLogger("asyncio")
    asyncio.filters[:] = [_shorten]


def _log_of_main_thread(
    _kind: type[BaseException], error: BaseException, _trace: "TracebackType | None"
) -> None:
    logger.critical("Uncaught exception: %s", in_one_line(error))


def _log_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:  # as in the standard library
        return
    name = args.thread.name if args.thread else "that has ended"
    error = args.exc_value or args.exc_type()
    logger.error("Uncaught exception in thread %s: %s", name, in_one_line(error))


def _log_ignored(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value or args.exc_type()
    logger.error("Ignored exception: %s", in_one_line(error))


def _shorten(record: logging.LogRecord) -> bool:
    """Cut a line of asyncio, which goes on to show futures with their exceptions."""
    error = record.exc_info[1] if record.exc_info else None
    if error:
        record.msg = f"Uncaught exception in an event loop: {in_one_line(error)}"
    else:
        record.msg = record.getMessage().partition("\n")[0]
    record.args, record.exc_info = (), None
    return True


class _Handler(logging.StreamHandler[TextIO]):
    """Writes log lines, one at a time."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Write that a line cannot be written.

        The standard library would print the message and its arguments.
        """
        words = f"A line of {record.name} cannot be logged"
        if error := sys.exc_info()[1]:
            words += f": {in_one_line(error)}"
        instead = logging.LogRecord(__name__, logging.ERROR, "", 0, words, (), None)
        with suppress(Exception):  # no disk, or nobody who reads
            self.stream.write(self.format(instead) + self.terminator)
            self.flush()


class TextFormatter(logging.Formatter):
    """Lines for people: time, role, level, what happened, and the instance's id."""

    def __init__(self, role: str) -> None:
        """Write lines of a role."""
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, and more where there is a traceback."""
        when = self.formatTime(record)
        message, it = _message(record), subject()
        if it and it.instance_id not in message:
            message += f" [{it.instance_id}]"
        line = f"{when} {self._role} {record.levelname} {message}"
        return "\n".join([line, *_of(record)])


class JsonFormatter(logging.Formatter):
    """Lines for programs: one JSON object each, without what is not known."""

    def __init__(self, role: str) -> None:
        """Write lines of a role."""
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        it = subject()
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "role": self._role,
            "level": record.levelname,
            "message": _message(record),
            "sop_instance_uid": it.sop_instance_uid if it else None,
            "instance_id": it.instance_id if it else None,
            "step": getattr(record, "step", None),
            "seconds": getattr(record, "seconds", None),
            "exception": _of(record) or None,
        }
        known = {key: value for key, value in fields.items() if value is not None}
        return json.dumps(known)


def _message(record: logging.LogRecord) -> str:
    """Return the message of a line. Of a traceback in it the frames are kept."""
    words, trace, more = record.getMessage().partition(TRACEBACK)
    if not trace:
        return words
    frames = [line.strip() for line in more.splitlines() if line.startswith(FRAME)]
    return " ".join([words.strip(), "Traceback:", *frames]).lstrip()


def _of(record: logging.LogRecord) -> list[str]:
    """Say of the exception that a line is about what it was and where."""
    error = record.exc_info[1] if record.exc_info else None
    return told(error) if error else []
