"""The delay before the next attempt of a delivery."""

import random

from dicom_node.backoff import backoff_s

RETRY_INITIAL_DELAY_S = 2.0
RETRY_MAX_DELAY_S = 300.0


def retry_delay_s(attempts: int) -> float:
    """Return the delay in seconds before the next attempt.

    The longest delay is RETRY_INITIAL_DELAY_S after the first attempt. It doubles with
    each further attempt, up to RETRY_MAX_DELAY_S. The returned delay is drawn at random
    between half the longest delay and the longest delay, so that workers do not all
    call an archive at the same moment.

    Args:
        attempts: Number of attempts that were made, at least 1.
    """
    longest = backoff_s(attempts, RETRY_INITIAL_DELAY_S, RETRY_MAX_DELAY_S)
    return random.uniform(longest / 2, longest)  # noqa: S311 - not a secret
