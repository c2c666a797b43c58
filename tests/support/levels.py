"""Hooks of pytest: the level of each test, and garbage collection.

The level is unit, integration or acceptance. A test may be marked with its level. If
not, the level follows from its other marks. A mark in WHOLE_NODES means acceptance, a
mark in PEERS means integration, and no such mark means unit.

In unit tests, an audit hook of Python raises RuntimeError if the test binds or connects
an internet socket, or opens an SQLite database.
"""

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

LEVELS = ("unit", "integration", "acceptance")
PEERS = ("dcmtk", "orthanc", "postgresql", "browser")
WHOLE_NODES = ("attack", "chaos", "mutations", "soak")


class NoPeers:
    """An audit hook (PEP 578) that refuses connections while `is_active` is true.

    It raises RuntimeError if the main thread binds or connects an internet socket, or
    opens an SQLite database.
    """

    is_active = False

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        # Threads that an earlier test left may still close their connections.
        if not self.is_active or threading.current_thread() != threading.main_thread():
            return
        is_socket = event in {"socket.bind", "socket.connect"}
        is_internet = is_socket and isinstance(args[1], tuple)
        if is_internet or event == "sqlite3.connect":
            raise RuntimeError(
                f"A unit test calls {event}. Mark it as integration or acceptance."
            )


NO_PEERS = NoPeers()
sys.addaudithook(NO_PEERS)


def level_of(item: pytest.Item) -> str:
    """Return the level of a test: its own mark, else what its other marks imply."""
    marks = [mark.name for mark in item.iter_markers()]
    for mark in marks:
        if mark in LEVELS:
            return mark
    if any(mark in WHOLE_NODES for mark in marks):
        return "acceptance"
    return "integration" if any(mark in PEERS for mark in marks) else "unit"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its level, before tests are selected by marks."""
    for item in items:
        item.add_marker(level_of(item))


def pytest_collection_finish() -> None:
    """Exclude all existing objects from garbage collection.

    Modules and collected tests live until the end of the run. If all tests are
    collected, one full garbage collection would take half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Activate the audit hook during unit tests."""
    NO_PEERS.is_active = level_of(item) == "unit"
    try:
        return (yield)
    finally:
        NO_PEERS.is_active = False
