"""Lets methods of the journal wait while the database does not respond.

A worker cannot continue without the database, so its journal waits. A receiver and the
api respond with an error instead, so their journals do not wait.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class UntilAvailable(Protocol):
    """A function that makes a call, and may repeat it if the database does not respond.

    `call_once` never repeats it.
    """

    def __call__(self, call: Callable[[], T], /) -> T:
        """Call `call`, perhaps several times, and return its result."""


def call_once(call: Callable[[], T]) -> T:
    """Call `call` once, and return its result."""
    return call()


class _Part(Protocol):
    """A class with methods that `waits` decorates, such as Deliveries."""

    _until_available: UntilAvailable


S = TypeVar("S", bound=_Part)


def waits(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Decorate a method of a part of the journal, so that `_until_available` calls it.

    `_until_available` may call the method several times. Therefore the method must make
    all its changes in one transaction.
    """

    @wraps(method)
    def waiting(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._until_available(lambda: method(self, *args, **kwargs))

    return waiting
