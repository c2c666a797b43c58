"""Roles in separate processes, for tests that stop them.

`running` starts a new Python, which is how a role runs alone. `forked` forks a server
that has imported the libraries and loaded the model, which is how a role runs in a
complete node. A fork needs three seconds of processor time less than a new Python.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.commands.role_modules import API, WORKER
from dicom_node.runtime.role_server import RoleProcess, RoleServer

SOON_S = 10.0  # for a busy machine; an idle one needs one to five seconds
ROOT = Path(__file__).parents[2]


class Fork:
    """A fork of a server of roles, with some methods and attributes of Popen.

    Attributes:
        stderr: The standard error of the fork.
    """

    def __init__(self, server: RoleServer, role: RoleProcess) -> None:
        self._server = server
        reading, writing = os.pipe()
        self.stderr = os.fdopen(reading)
        try:
            self._pid = server.fork_role(role, [writing])
        finally:
            os.close(writing)
        self._has_ended = False

    def send_signal(self, number: int) -> None:
        os.kill(self._pid, number)

    def wait(self, timeout: float) -> int:
        """Wait until the fork ends, and return its exit status.

        A fork that has not ended after `timeout` seconds is killed.
        """
        self._has_ended = True
        return self._server.end(self._pid, timeout)

    def close(self) -> None:
        """Kill the fork if `wait` was not called."""
        if not self._has_ended:
            self.wait(0)


class Role:
    """A role in a separate process, and its log lines.

    Attributes:
        process: The process. Its standard error is a pipe with the log.
    """

    def __init__(self, process: "subprocess.Popen[str] | Fork") -> None:
        self.process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()

    def has_logged(self, words: str) -> None:
        """Wait until the log of the role contains `words`.

        Raises:
            AssertionError: The role has not logged them within 120 seconds.
        """
        with self._news:
            assert self._news.wait_for(lambda: words in "".join(self._lines), 120), (
                "".join(self._lines)
            )

    def end(self, number: int) -> str:
        """Send a signal, and require that the role ends within SOON_S with status 0.

        Returns:
            The log of the role.
        """
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> str:
        """Require that the role ends within SOON_S with status 0; return its log."""
        start = time.monotonic()
        status = self.process.wait(60)
        took = time.monotonic() - start
        self._reader.join()
        log = "".join(self._lines)
        assert (status, took < SOON_S) == (0, True), f"{status} after {took:.1f} s{log}"
        return log


@contextmanager
def running(arguments: Sequence[str], folder: Path) -> Iterator[Role]:
    """Run Python with some arguments during the block, and kill it afterwards.

    Args:
        arguments: The arguments of Python, such as "-m" and the module of a role.
        folder: The working directory.
    """
    with subprocess.Popen(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # The role imports the modules of this checkout from any working directory.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield Role(process)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def role_server() -> Iterator[RoleServer]:
    """Yield a server that has imported worker and api, and loaded the shipped model."""
    roles = [
        RoleProcess(*(module, module), preload=["", "cpu"]) for module in (WORKER, API)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        first = RoleServer.start(secrets=())
    server = first.fork_server("roles", 0, roles)
    yield server
    server.close()
    first.close()


@contextmanager
def forked(
    server: RoleServer, script: str, config: Path, folder: Path
) -> Iterator[Role]:
    """Run a script in a fork of a server during the block, and kill it afterwards.

    Args:
        server: The fixture `role_server`.
        script: Python code, such as the result of `main_of`. Its arguments are `config`
            and the process id of the server, as in a node.
        config: The settings.
        folder: The working directory.
    """
    arguments = [script, str(folder), f"--config={config}"]
    module = "tests.support.logged_role"
    process = Fork(server, RoleProcess("role", module, arguments, ["--log"]))
    try:
        yield Role(process)
    finally:
        process.close()


def main_of(module: str) -> str:
    """Return Python code that runs a role, such as "dicom_node.worker"."""
    return f"from {module}.__main__ import main; main()"


def configured(folder: Path, storage: str = "", model: str = "") -> Path:
    """Write settings to a file, and return its path. The roles choose free ports.

    Args:
        folder: The folder for the settings and the storage directory.
        storage: Further keys of the section [storage], as TOML.
        model: The keys of the section [model], as TOML.
    """
    config = folder / "node.toml"
    config.write_text(
        f'[storage]\ndirectory = "node"\nmin_free_mb = 1\n{storage}\n'
        '[receiver]\nhost = "127.0.0.1"\nport = 0\n'
        f"[api]\nport = 0\n[model]\n{model}\n"
    )
    return config
