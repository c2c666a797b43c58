"""Repeats a call while the database or the disk fails."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from dicom_node.backoff import backoff_s
from dicom_node.storage.database import UNAVAILABLE

logger = logging.getLogger(__name__)

INITIAL_DELAY_S = 0.1
MAX_DELAY_S = 5.0

T = TypeVar("T")

_stopping = threading.Event()


class RetryStopped(BaseException):
    """A call failed, and is not repeated because this process ends.

    The next worker repeats the work. This class does not inherit from Exception, so
    that code that records an exception as a failure does not catch it.
    """


def retry_until_available(write: Callable[[], T]) -> T:
    """Call `write` until it succeeds, and return its result.

    The call is repeated with a growing delay if the database or the disk fails, because
    the instance is not the cause of such a failure. Other exceptions are raised.

    Raises:
        RetryStopped: The call failed, and this process is to end.
    """
    failures = 0
    while True:
        try:
            return write()
        except (*UNAVAILABLE, OSError) as error:
            logger.warning(
                "The database or the disk failed: %s. The call is repeated.",
                type(error).__name__,
            )
            failures += 1
            if _stopping.wait(backoff_s(failures, INITIAL_DELAY_S, MAX_DELAY_S)):
                raise RetryStopped from None


def stop_retrying() -> None:
    """Let `retry_until_available` repeat no call from now on.

    If a call fails, `retry_until_available` raises RetryStopped instead. A thread that
    already waits before it repeats a call raises RetryStopped at once.
    """
    _stopping.set()
