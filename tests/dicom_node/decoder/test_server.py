"""Decoders share one fork server, and do not disturb each other."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from dicom_node.decoder.client import ChildDiedError, ChildTimeoutError, DecoderProcess
from dicom_node.decoder.server import DecoderServer
from dicom_node.runtime.fork_server import ForkServer
from tests.support.node import alive, wait_for

TAKES_1200_MB = "len(bytes(1200 * 2**20))"  # calloc: the pages are not used


@pytest.fixture(scope="module")
def server() -> Iterator[DecoderServer]:
    """A server for all tests of this file.

    If a test kills the process of the server, the server starts another process.
    """
    server = DecoderServer()
    yield server
    server.close()


@pytest.fixture
def decoders(server: DecoderServer) -> Iterator[list[DecoderProcess]]:
    decoders = [
        DecoderProcess(timeout_s=timeout_s, memory_mb=memory_mb, server=server)
        for timeout_s, memory_mb in [(60, 1024), (2, 2048)]
    ]
    yield decoders
    for each in decoders:
        each.close()


def test_children_of_one_server_have_their_own_memory_limits(
    decoders: list[DecoderProcess],
) -> None:
    one, larger = decoders

    with pytest.raises(ChildDiedError, match="1024 MB"):
        one.run(eval, TAKES_1200_MB)
    assert larger.run(eval, TAKES_1200_MB) == 1200 * 2**20


def test_a_child_that_is_killed_leaves_the_others_running(
    server: DecoderServer, decoders: list[DecoderProcess]
) -> None:
    one, short = decoders
    before = one.pid, server.pid
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(one.run, time.sleep, 1)
        with pytest.raises(ChildTimeoutError):
            short.run(time.sleep, 100)
        call.result()

    assert (one.pid, server.pid) == before


def test_a_closed_decoder_leaves_the_server_of_others_running(
    server: DecoderServer, decoders: list[DecoderProcess]
) -> None:
    one, short = decoders
    closed, before = short.pid, (one.pid, server.pid)
    short.close()

    assert closed is not None
    assert not alive(closed)
    assert one.run(max, 1, 2) == 2
    assert (one.pid, server.pid) == before


def test_all_decoders_of_a_dead_server_continue_with_the_next_one(
    server: DecoderServer, decoders: list[DecoderProcess]
) -> None:
    dead, children = server.pid, [each.pid for each in decoders]
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    for each in children:
        assert each is not None
        wait_for(lambda pid=each: not alive(pid))  # the kernel kills them

    assert [each.run(max, 1, 2) for each in decoders] == [2, 2]
    assert server.pid != dead


def test_no_child_starts_after_the_server_was_closed() -> None:
    server = DecoderServer()
    server.close()

    with pytest.raises(OSError, match="was closed"):
        DecoderProcess(timeout_s=60, memory_mb=1024, server=server)


def test_a_fork_that_fails_leaves_the_other_children_running(
    server: DecoderServer,
    decoders: list[DecoderProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, _ = decoders
    before = one.pid, server.pid
    # As if the server replied that the system allows no further process.
    with monkeypatch.context() as patch:
        refusal = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        patch.setattr(ForkServer, "forked", Mock(side_effect=refusal))
        with pytest.raises(OSError, match="unavailable"):
            DecoderProcess(timeout_s=60, memory_mb=1024, server=server)

    assert (one.pid, server.pid) == before
    assert one.run(max, 1, 2) == 2
