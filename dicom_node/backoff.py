"""Exponential back-off: the delay before a call is repeated."""

MOST_DOUBLINGS = 16


def backoff_s(failures: int, initial_s: float, max_s: float) -> float:
    """Return the seconds to wait before a failed call is repeated.

    The delay is `initial_s` after the first failure. It doubles with each further
    failure, but at most MOST_DOUBLINGS times, and it never exceeds `max_s`.

    Args:
        failures: Number of failures in a row, at least 1.
        initial_s: Delay after the first failure, in seconds.
        max_s: Maximum delay, in seconds.
    """
    return min(initial_s * 2.0 ** min(failures - 1, MOST_DOUBLINGS), max_s)
