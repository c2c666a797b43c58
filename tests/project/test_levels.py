"""Every test has one level. Unit tests cannot use internet sockets or databases."""

import socket
import sqlite3

import pytest

from tests.support.levels import LEVELS, level_of


def test_every_test_has_one_level(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        levels = {mark.name for mark in item.iter_markers() if mark.name in LEVELS}

        assert levels == {level_of(item)}, item.nodeid


def test_unit_test_cannot_open_a_socket() -> None:
    with (
        socket.socket() as opened,
        pytest.raises(RuntimeError, match=r"A unit test calls socket\.bind"),
    ):
        opened.bind(("127.0.0.1", 0))


def test_unit_test_cannot_open_a_database() -> None:
    with pytest.raises(RuntimeError, match="A unit test calls sqlite3"):
        sqlite3.connect(":memory:")


@pytest.mark.integration
def test_integration_test_can_open_a_socket() -> None:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
