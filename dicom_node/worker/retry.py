"""Repeats a call while the database cannot be reached or the disk is full."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_leaving = threading.Event()


class LeftForLater(BaseException):
    """This process ends while its work waits; the next worker repeats the work.

    It does not inherit from Exception, so that code that records failures does not
    catch it.
    """


def retry_until_available(write: Callable[[], T]) -> T:
    """Repeat a call that fails because of the database or a full disk.

    The instance does not cause such a failure, so the call is repeated until it
    succeeds or this process ends.

    Raises:
        LeftForLater: The call failed, and this process was told to end.
    """
    pause = 0.1
    while True:
        try:
            return write()
        except (OperationalError, PoolTimeoutError, OSError) as error:
            logger.warning("Database or disk: %s; trying again", type(error).__name__)
            if _leaving.wait(pause):
                raise LeftForLater from None
            pause = min(pause * 2, 5.0)


def leave_what_waits() -> None:
    """End the repeated calls, and those that fail from now on."""
    _leaving.set()
