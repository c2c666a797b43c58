"""Exponential back-off: the delay before a call is repeated."""

MOST_DOUBLINGS = 16


def backoff_s(failures: int, initial_s: float, max_s: float) -> float:
    """Return the delay in seconds after a number of failures in a row.

    It is `initial_s` after the first failure, and doubles with each further one, at
    most MOST_DOUBLINGS times and up to `max_s`.
    """
    return min(initial_s * 2.0 ** min(failures - 1, MOST_DOUBLINGS), max_s)
