"""How log lines look: text for people, or one JSON object a line for programs.

Both say of an exception what kind it was and where, never its message: that may quote
what a sender wrote.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from dicom_node.steps import subject, told

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
    handler = logging.StreamHandler(sys.stderr)
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


class TextFormatter(logging.Formatter):
    """Lines for people: time, role, level, what happened, and the instance's id."""

    def __init__(self, role: str) -> None:
        """Write lines of a role."""
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, and more where there is a traceback."""
        when = self.formatTime(record)
        message, it = record.getMessage(), subject()
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
            "message": record.getMessage(),
            "sop_instance_uid": it.sop_instance_uid if it else None,
            "instance_id": it.instance_id if it else None,
            "step": getattr(record, "step", None),
            "seconds": getattr(record, "seconds", None),
            "exception": _of(record) or None,
        }
        known = {key: value for key, value in fields.items() if value is not None}
        return json.dumps(known)


def _of(record: logging.LogRecord) -> list[str]:
    """Say of the exception that a line is about what it was and where."""
    error = record.exc_info[1] if record.exc_info else None
    return told(error) if error else []
