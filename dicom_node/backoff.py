"""Exponential back-off: the delay before a call is repeated."""

MOST_DOUBLINGS = 16


def backoff_s(failures: int, initial_s: float, max_s: float) -> float:
    """Return the delay in seconds after a number of failures in a row.

    The delay is `initial_s` after the first failure. It doubles with each further
    failure, but at most MOST_DOUBLINGS times, and it never exceeds `max_s`.
    """
    return min(initial_s * 2.0 ** min(failures - 1, MOST_DOUBLINGS), max_s)
