"""How a process takes its port, which one that is dying may still hold."""

import threading

import pytest

from dicom_node import process
from dicom_node.listener import listen
from dicom_node.process import listen_or_exit


def test_a_port_that_will_be_free_in_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = listen("127.0.0.1", 0)
    port = held.getsockname()[1]
    tried = threading.Event()

    def let_go(_seconds: float) -> None:
        tried.set()
        held.close()

    monkeypatch.setattr(process.time, "sleep", let_go)
    with listen_or_exit("127.0.0.1", port) as listening:
        assert listening.getsockname()[1] == port
    assert tried.is_set()


def test_a_port_that_stays_taken_ends_the_process_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "FREE_AFTER_S", 0)

    with listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(SystemExit, match=f"Cannot listen on 127.0.0.1:{port}: Add"):
            listen_or_exit("127.0.0.1", port)


def test_an_address_that_is_not_ours_ends_the_process_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "FREE_AFTER_S", 1e9)

    with pytest.raises(SystemExit, match=r"Cannot listen on 192\.0\.2\.1:0: "):
        listen_or_exit("192.0.2.1", 0)
