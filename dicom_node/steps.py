"""A log line for each step of an instance: what was done, to which, in what time.

Each line of a step holds the SOP Instance UID and our own id of the instance, which is
the same in all processes and for all its steps: by it, the lines of one instance are
found. What else is logged meanwhile, by whatever code, is about the same instance.
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
class Subject:
    """What log lines are about.

    Attributes:
        sop_instance_uid: Of the instance; nothing else of it may be logged.
        instance_id: Ours, of the journal; "-" for what never came that far.
    """

    sop_instance_uid: str
    instance_id: str


_subject: ContextVar[Subject | None] = ContextVar("subject", default=None)


@contextmanager
def about(sop_instance_uid: str, instance_id: str) -> Iterator[None]:
    """Say what is worked on; log lines of this thread are about it meanwhile."""
    token = _subject.set(Subject(sop_instance_uid, instance_id))
    try:
        yield
    finally:
        _subject.reset(token)


def subject() -> Subject | None:
    """What is worked on, if it is an instance."""
    return _subject.get()


def log_step(
    logger: logging.Logger,
    step: str,
    words: str,
    *,
    seconds: float | None = None,
    level: int = logging.INFO,
) -> None:
    """Log that a step was done, or failed.

    Args:
        logger: Of the module.
        step: A word or two, from a closed set: "received", "not analyzed" …
        words: What more is to be said; no text of a sender's.
        seconds: What it took.
        level: As for any line.
    """
    it = subject()
    which = f" {it.sop_instance_uid} [{it.instance_id}]" if it else ""
    time = "" if seconds is None else f" in {seconds:.3f} s"
    fields = {"step": step, "seconds": seconds}
    logger.log(level, "%s%s%s: %s", step.capitalize(), which, time, words, extra=fields)


def told(error: BaseException) -> list[str]:
    """Say of an exception what kind it is and where it was, and so of its causes.

    Its message may quote what a sender wrote, and stays out of the log.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = [f'  File "{f.filename}", line {f.lineno}, in {f.name}' for f in frames]
    lines = [type(error).__name__, *where]
    cause = _cause(error)
    return lines if cause is None else [*lines, *told(cause)]


def in_one_line(error: BaseException) -> str:
    """Say of an exception and its causes what `told` says, innermost frame first.

    At most MOST_FRAMES frames of each are named, without their folders.
    """
    where = traceback.extract_tb(error.__traceback__, limit=-MOST_FRAMES)
    frames = [f"{f.name} ({Path(f.filename).name}:{f.lineno})" for f in where]
    line = type(error).__name__ + " in " * bool(frames) + " < ".join(reversed(frames))
    cause = _cause(error)
    return line if cause is None else f"{line}, from {in_one_line(cause)}"


def _cause(error: BaseException) -> BaseException | None:
    hidden = error.__suppress_context__
    return error.__cause__ or (None if hidden else error.__context__)


class Stopwatch:
    """Measures stages, one after the other."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> Mapping[str, float]:
        """What each stage took, by its name."""
        return dict(self._seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage; one that fails is not counted."""
        began = monotonic()
        yield
        self._seconds[name] = monotonic() - began
