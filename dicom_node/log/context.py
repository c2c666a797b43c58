"""Logs one line for each processing step of an instance, usually with the duration.

In the block of an `instance_context`, such a line contains the SOP Instance UID and the
node's own id of the instance. The id is the same in all processes and for all steps, so
users can find all lines of an instance by its id. Other lines that are logged in the
block also contain the id.
"""

import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

MOST_FRAMES = 20


@dataclass(frozen=True, slots=True)
class LoggedInstance:
    """The instance that log lines are about.

    Attributes:
        sop_instance_uid: Its SOP Instance UID.
        instance_id: The node's own id of the instance; "-" if it has none, for example
            because it was refused before a file was created.
    """

    sop_instance_uid: str
    instance_id: str


_instance: ContextVar[LoggedInstance | None] = ContextVar("instance", default=None)


@contextmanager
def instance_context(sop_instance_uid: str, instance_id: str) -> Iterator[None]:
    """Add the ids of an instance to the log lines of this thread during the block.

    Args:
        sop_instance_uid: See LoggedInstance.
        instance_id: See LoggedInstance.
    """
    token = _instance.set(LoggedInstance(sop_instance_uid, instance_id))
    try:
        yield
    finally:
        _instance.reset(token)


def current_instance() -> LoggedInstance | None:
    """Return the instance of the current `instance_context`; None if there is none."""
    return _instance.get()


def log_step(
    logger: logging.Logger,
    step: str,
    details: str,
    *,
    seconds: float | None = None,
    level: int = logging.INFO,
) -> None:
    """Log that a step was done, or that it failed.

    Args:
        logger: The logger of the calling module.
        step: The step in a few fixed words, such as "received".
        details: Further details, without text from a sender.
        seconds: The duration of the step; None to omit it.
        level: The logging level.
    """
    instance = current_instance()
    ids = f" {instance.sop_instance_uid} [{instance.instance_id}]" if instance else ""
    time = "" if seconds is None else f" in {seconds:.3f} s"
    fields = {"step": step, "seconds": seconds}
    name = step.capitalize()
    logger.log(level, "%s%s%s: %s", name, ids, time, details, extra=fields)


def describe_exception(error: BaseException) -> list[str]:
    """Return lines with the type and stack frames of an exception and of its causes.

    The message of the exception is omitted, because it may quote text from a sender.
    """
    frames = traceback.extract_tb(error.__traceback__)
    locations = [f'  File "{f.filename}", line {f.lineno}, in {f.name}' for f in frames]
    lines = [type(error).__name__, *locations]
    cause = _cause(error)
    return lines if cause is None else [*lines, *describe_exception(cause)]


def summarize_exception(error: BaseException) -> str:
    """Return one line with the type and frames of an exception and of its causes.

    The line has at most MOST_FRAMES frames of each exception, the innermost frame
    first. It contains no messages of exceptions and no folders.
    """
    trace = traceback.extract_tb(error.__traceback__, limit=-MOST_FRAMES)
    frames = [f"{f.name} ({Path(f.filename).name}:{f.lineno})" for f in trace]
    line = type(error).__name__ + " in " * bool(frames) + " < ".join(reversed(frames))
    cause = _cause(error)
    return line if cause is None else f"{line}, from {summarize_exception(cause)}"


def _cause(error: BaseException) -> BaseException | None:
    hidden = error.__suppress_context__
    return error.__cause__ or (None if hidden else error.__context__)


class Stopwatch:
    """The durations of stages that run one after the other."""

    def __init__(self) -> None:
        """Create a stopwatch without measurements."""
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> Mapping[str, float]:
        """The duration of each stage in seconds, by the name of the stage."""
        return dict(self._seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record the duration of a block. A block that raises is not recorded."""
        began = monotonic()
        yield
        self._seconds[name] = monotonic() - began
