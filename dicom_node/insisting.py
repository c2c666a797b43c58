"""What a worker does while the database is away or the disk is full: wait for them."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def insist(write: Callable[[], T]) -> T:
    """Repeat what fails because the database is away or the disk is full.

    For as long as it takes: an instance is not to blame for that, and a worker that is
    told to end meanwhile leaves the work for the next.
    """
    pause = 0.1
    while True:
        try:
            return write()
        except (OperationalError, PoolTimeoutError, OSError) as error:
            logger.warning("Database or disk: %s; trying again", type(error).__name__)
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
