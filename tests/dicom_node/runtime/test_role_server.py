"""The fork server of the roles, with real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicom_node.commands.role_modules import API, DECODERS, RECEIVER, WORKER
from dicom_node.runtime import fork_server
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from tests.support.node import alive, memory, process_name, wait_for

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
NAME = "ARCHIVE_TOKEN"
DATABASE = "postgresql://node:a-password@server/node"
WAITING = "tests.support.waiting_role"


@pytest.fixture(scope="module")
def server() -> Iterator[RoleServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv(NAME, "hunter2")
        patch.setenv("DATABASE", DATABASE)
        patch.setenv("LONG", "x" * 100_000)
        server = RoleServer.start(secrets={NAME})
    yield server
    server.close()


@pytest.fixture(params=["first server", "forked server"])
def either(server: RoleServer, request: pytest.FixtureRequest) -> Iterator[RoleServer]:
    """The first server, or a second server that the first one forked."""
    if request.param == "first server":
        yield server
    else:
        other = server.fork_server("others", 0)
        yield other
        other.close()


def report(server: RoleServer, folder: Path, **process: Any) -> dict[str, Any]:  # noqa: ANN401
    """Start a role and end it; return what it reported, its name and its niceness.

    `process` has further fields of RoleProcess, and may have `files`: the descriptors
    that the role inherits.
    """
    path = folder / "report"
    files = process.pop("files", [])
    role = RoleProcess("a-role", WAITING, [f"--report={path}"], **process)
    pid = server.fork_role(role, files)
    wait_for(path.exists)
    result: dict[str, Any] = json.loads(path.read_text()) | {
        "name": process_name(pid),
        "niceness": os.getpriority(os.PRIO_PROCESS, pid),
    }
    server.end(pid, 0)
    return result


@pytest.mark.alone  # other tests have the niceness 19, which cannot be increased
def test_role_gets_its_niceness_and_that_of_its_server(
    server: RoleServer, tmp_path: Path
) -> None:
    other = server.fork_server("others", 3)
    told = report(other, tmp_path, niceness=5)
    other.close()

    assert told["niceness"] == os.getpriority(os.PRIO_PROCESS, 0) + 8


def test_role_gets_its_name_and_secrets(server: RoleServer, tmp_path: Path) -> None:
    told = report(server, tmp_path, environment={NAME: "mine"})

    assert told["name"] == "a-role"
    assert told["environment"][NAME] == "mine"
    assert "hunter2" not in told["initial"]


def test_role_gets_the_environment_of_the_supervisor(
    server: RoleServer, tmp_path: Path
) -> None:
    told = report(server, tmp_path)

    assert told["environment"]["DATABASE"] == DATABASE
    assert told["environment"]["LONG"] == "x" * 100_000


def test_server_gets_no_variable_that_may_contain_a_secret(
    server: RoleServer, tmp_path: Path
) -> None:
    told = report(server, tmp_path, has_environment=False)

    assert "DATABASE" not in told["environment"]
    assert DATABASE.encode() not in memory(server.pid)


def test_secret_of_one_role_does_not_reach_another(
    server: RoleServer, tmp_path: Path
) -> None:
    report(server, tmp_path.parent, environment={NAME: "mine"})
    told = report(server, tmp_path)

    assert NAME not in told["environment"]


def test_server_has_no_secret_of_a_role_in_its_memory(
    either: RoleServer, tmp_path: Path
) -> None:
    value = "a-value-that-no-other-test-uses"
    told = report(either, tmp_path, environment={NAME: value})

    assert told["environment"][NAME] == value
    assert value[2:].encode() not in memory(either.pid)


def test_role_inherits_its_sockets_and_no_other_files(
    either: RoleServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = report(
            either,
            tmp_path,
            files=[listening.fileno()],
            file_options=["--fd"],
        )
        own = str(Path(f"/proc/self/fd/{listening.fileno()}").readlink())
    (option,) = [each for each in told["arguments"] if each.startswith("--fd=")]

    assert int(option.partition("=")[2]) > 2
    assert [each for each in told["files"] if each.startswith("socket:")] == [own]
    assert not [each for each in told["files"] if each.startswith("pipe:")]
    assert f"--supervisor={told['parent']}" in told["arguments"]
    assert told["parent"] == either.pid


def test_role_obeys_signals_that_the_server_blocks(
    server: RoleServer, tmp_path: Path
) -> None:
    assert report(server, tmp_path)["blocked"] == []
    os.kill(server.pid, signal.SIGTERM)
    os.kill(server.pid, signal.SIGINT)
    pid = server.fork_role(RoleProcess("ended", WAITING), [])
    server.terminate(pid)

    assert server.end(pid, 60) == -signal.SIGTERM


def test_server_that_imported_all_roles_has_one_thread(server: RoleServer) -> None:
    # If another thread held a lock during a fork, the fork could wait for it forever.
    for module in (RECEIVER, DECODERS, WORKER, API):
        # The role ends at once, because its command line is wrong.
        process = RoleProcess("wrong", module, ["--no-such-option"])
        if module in {WORKER, API}:
            process = replace(process, preload=["", "cpu"])
        pid = server.fork_role(process, [])
        assert server.end(pid, 60) == 2

    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 1


def test_forked_server_is_the_parent_of_its_roles(
    server: RoleServer, tmp_path: Path
) -> None:
    other = server.fork_server("others", 0)
    told = report(other, tmp_path)

    assert process_name(other.pid) == "others"
    assert told["parent"] == other.pid
    assert other.close() == other.close() == -signal.SIGKILL
    assert alive(server.pid)


def test_forked_server_dies_with_the_first_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    first = RoleServer.start(secrets=())
    second = first.fork_server("second", 0)
    role = second.fork_role(RoleProcess("role", WAITING), [])
    first.close()

    for pid in (second.pid, role):
        wait_for(lambda: not alive(pid))  # noqa: B023
    with pytest.raises(ConnectionError):
        second.status(role)
    assert second.close() == -signal.SIGKILL


def test_order_during_an_import_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHON_IMPORT_WAITS_FOR", str(file))
    server = RoleServer.start(secrets=())
    first = server.fork_role(RoleProcess("first", WAITING), [])
    server.begin(RoleProcess("slow", "tests.support.slow_role"), [])
    begun = server.begun(0)
    file.touch()
    status = server.status(first)
    second = server.begun(0)

    assert (begun, status) == (None, None)
    assert second is not None
    assert server.end(second, 60) == 0
    assert server.end(first, 0) == -signal.SIGKILL
    server.close()


def test_server_imports_modules_before_its_first_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHON_IMPORT_WAITS_FOR", str(file))
    slow = "tests.support.slow_role"
    server = RoleServer.start(secrets=(), imports=["this_is_no_module", slow])
    server.begin(RoleProcess("role", WAITING), [])
    begun = server.begun(0.2)
    file.touch()
    pid = server.begun(60)

    assert begun is None
    assert pid is not None
    assert server.end(pid, 0) == -signal.SIGKILL
    server.close()


def test_forked_server_preloads_once_and_before_its_first_order(
    server: RoleServer, tmp_path: Path
) -> None:
    path = tmp_path / "calls"
    process = RoleProcess("role", "tests.support.preloading_role", preload=[str(path)])
    absent = RoleProcess("absent", "this_is_no_module")
    other = server.fork_server("others", 0, [absent, process])
    first = other.fork_role(RoleProcess("role", WAITING), [])
    calls = path.read_text().split()
    second = other.fork_role(process, [])

    assert calls == ["preloaded", "waited"]
    assert other.end(second, 60) == 0
    assert path.read_text().split() == calls
    assert other.end(first, 0) == -signal.SIGKILL
    other.close()


def test_module_that_cannot_be_imported_fails_only_its_role(
    server: RoleServer,
) -> None:
    pid = server.fork_role(RoleProcess("absent", "this_is_no_module"), [])

    assert server.end(pid, 60) == 1
    assert alive(server.pid)


def test_roles_die_with_their_supervisor() -> None:
    script = (
        "from dicom_node.runtime.role_server import RoleProcess, RoleServer\n"
        "server = RoleServer.start(secrets=())\n"
        f"pid = server.fork_role(RoleProcess('role', {WAITING!r}), [])\n"
        "print(server.pid, pid, flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(each) for each in supervisor.stdout.readline().split()]
        supervisor.kill()

    for pid in pids:
        wait_for(lambda: not alive(pid))  # noqa: B023


def test_late_reply_is_not_taken_for_the_reply_to_the_next_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = RoleServer.start(secrets=())
    first, second = (server.fork_role(RoleProcess(n, WAITING), []) for n in ("a", "b"))
    monkeypatch.setattr(fork_server, "REPLY_TIMEOUT_S", 0.1)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        server.terminate(first)

    with pytest.raises(ConnectionError):
        server.status(second)
    for pid in (first, second):
        wait_for(lambda: not alive(pid))  # noqa: B023


def test_other_processes_of_the_user_cannot_read_the_server_and_its_forks(
    either: RoleServer, tmp_path: Path
) -> None:
    # Forks have the flag of their server. test_process.py tests the effect of the flag.
    assert report(either, tmp_path)["dumpable"] == 0
