"""Listening on a port that is in use, and the privacy of a process's memory."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dicom_node.network.sockets import listen
from dicom_node.runtime import process
from dicom_node.runtime.process import listen_or_exit

pytestmark = pytest.mark.integration


def test_process_waits_for_a_port_that_becomes_free(
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


def test_process_exits_with_a_message_if_the_port_stays_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "PORT_WAIT_S", 0)

    with listen("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(SystemExit, match=f"Cannot listen on 127.0.0.1:{port}: Add"):
            listen_or_exit("127.0.0.1", port)


def test_process_exits_immediately_if_the_address_is_not_local(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "PORT_WAIT_S", 1e9)

    with pytest.raises(SystemExit, match=r"Cannot listen on 192\.0\.2\.1:0: "):
        listen_or_exit("192.0.2.1", 0)


# Root may read every process, so the script changes to another user. This makes the
# process not dumpable, so the script makes it dumpable again.
SCRIPT = """
import os, sys
from dicom_node.runtime import prctl
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
prctl.LIBC.prctl(prctl.PR_SET_DUMPABLE, 1, 0, 0, 0)
def can_look():
    looker = os.fork()
    if looker == 0:
        try:
            open(f"/proc/{os.getppid()}/environ").close()
        except PermissionError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(looker, 0)[1]) == 0
before = can_look()
prctl.keep_memory_private()
print(before, can_look())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_another_process_of_the_user_cannot_read_the_environment_of_a_role() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )

    assert ended.stdout == "True False\n"
