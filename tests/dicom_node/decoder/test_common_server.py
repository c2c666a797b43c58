"""The roles of a node get their decoding servers from one process."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.commands.role_modules import DECODERS, RECEIVER
from dicom_node.decoder import server
from dicom_node.decoder.client import ChildDiedError, DecoderProcess
from dicom_node.decoder.server import DecoderServer
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from tests.support.node import SERVER, alive, children, memory, process_name, wait_for

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
PASSWORD = "a-password-of-a-database"  # noqa: S105
TAKES_1200_MB = "len(bytes(1200 * 2**20))"  # calloc: the pages are not used


class Common:
    """The common decoding server, and the socket for requests to the server."""

    def __init__(self, roles: RoleServer) -> None:
        self._roles = roles
        self._end, self.requests = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.start()

    def start(self) -> None:
        process = RoleProcess(
            *("decoders", DECODERS, [], ["--requests"]), has_environment=False
        )
        self.pid = self._roles.fork_role(process, [self._end.fileno()])

    def kill(self) -> None:
        assert self._roles.end(self.pid, 0) == -signal.SIGKILL

    def close(self) -> int:
        """Close the socket; return the exit status of the server."""
        self._end.close()
        self.requests.close()
        return self._roles.end(self.pid, 60)


@pytest.fixture(scope="module")
def roles() -> Iterator[RoleServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("DATABASE", PASSWORD)
        roles = RoleServer.start(secrets=(), imports=[RECEIVER, DECODERS])
    yield roles
    roles.close()


@pytest.fixture
def common(roles: RoleServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Common]:
    common = Common(roles)
    monkeypatch.setattr(server, "_common", common.requests)
    yield common
    assert common.close() == 0


@pytest.fixture
def child(common: Common) -> Iterator[DecoderProcess]:
    child = DecoderProcess(timeout_s=20, memory_mb=1024)
    assert common.pid
    yield child
    child.close()


def test_fork_servers_of_roles_are_forks_of_the_common_server(
    common: Common, child: DecoderProcess
) -> None:
    other = DecoderProcess(timeout_s=20, memory_mb=1024)
    servers = {child.server.pid, other.server.pid}
    forks = set(children(common.pid, SERVER))
    other.close()

    assert len(servers) == 2
    assert forks == servers
    assert child.run(max, 1, 2) == 2


def test_child_is_confined_and_has_the_limits_of_the_settings(
    child: DecoderProcess,
) -> None:
    larger = DecoderProcess(timeout_s=20, memory_mb=2048)
    ignored = child.run(eval, "__import__('signal').getsignal(15)")

    assert child.pid is not None
    assert child.confinement.seccomp
    assert process_name(child.pid) == "decoder"
    assert ignored == signal.SIG_IGN
    with pytest.raises(ChildDiedError, match="1024 MB"):
        child.run(eval, TAKES_1200_MB)
    assert larger.run(eval, TAKES_1200_MB) == 1200 * 2**20
    larger.close()


def test_child_works_with_the_smallest_limit_of_the_settings(common: Common) -> None:
    child = DecoderProcess(timeout_s=20, memory_mb=512)

    assert common.pid
    assert child.run(eval, "len(bytes(50 * 2**20))") == 50 * 2**20
    child.close()


def test_child_has_no_secret_and_does_not_import_torch(child: DecoderProcess) -> None:
    names = child.run(eval, "' '.join(__import__('os').environ)")
    is_torch = child.run(eval, "'torch' in __import__('sys').modules")

    allowed = {*server.PASSED_VARIABLES, *server.ONE_THREAD}
    assert set(names.split()) <= allowed
    assert not is_torch
    # The child is a fork of other processes. They must not have the password, either.
    assert child.pid is not None
    assert PASSWORD.encode() not in memory(child.pid)


def test_fork_server_has_one_thread_and_no_extra_file_descriptors(
    common: Common, child: DecoderProcess
) -> None:
    for pid in (common.pid, child.server.pid, child.pid):
        process = Path(f"/proc/{pid}")
        files = [str(each.readlink()) for each in (process / "fd").iterdir()]

        assert len(list((process / "task").iterdir())) == 1
        # /dev/null three times, and the socket for requests, orders or calls.
        assert files.count("/dev/null") == 3
        assert len(files) == 4


def test_dead_fork_server_is_replaced_by_another_fork(
    common: Common, child: DecoderProcess
) -> None:
    dead, pid = child.server.pid, child.pid
    assert dead is not None
    assert pid is not None
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: not alive(pid))  # the kernel kills the child

    assert child.run(max, 1, 2) == 2
    assert children(common.pid, SERVER) == [child.server.pid]


def test_request_waits_for_the_next_common_server(
    common: Common, child: DecoderProcess
) -> None:
    before = child.server.pid, child.pid
    common.kill()
    for pid in before:
        assert pid is not None
        wait_for(lambda pid=pid: not alive(pid))
    common.start()

    assert child.run(max, 1, 2) == 2
    assert children(common.pid, SERVER) == [child.server.pid]


def test_process_starts_its_own_server_if_the_common_one_does_not_respond(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    end, requests = socket.socketpair(type=socket.SOCK_SEQPACKET)
    monkeypatch.setattr(server, "_common", requests)
    monkeypatch.setattr(server, "REQUEST_S", 0.1)
    own = DecoderServer()
    child = DecoderProcess(timeout_s=20, memory_mb=1024, server=own)

    assert child.run(max, 1, 2) == 2
    assert own.pid in children(os.getpid(), server.MODULE)
    assert "The common decoding server does not respond" in caplog.text
    child.close()
    own.close()
    end.close()
    requests.close()


def test_fork_server_ends_with_the_process_that_requested_it(common: Common) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(common.requests, [b"\0"], [theirs.fileno()])
    wait_for(lambda: children(common.pid, SERVER) != [])
    ours.close()  # as the kernel does when the process ends

    wait_for(lambda: children(common.pid, SERVER) == [])


def test_close_ends_the_child_and_its_fork_server(common: Common) -> None:
    child = DecoderProcess(timeout_s=20, memory_mb=1024)
    pids = child.server.pid, child.pid
    child.close()

    assert alive(common.pid)
    for pid in pids:
        assert pid is not None
        assert not alive(pid)
