"""A process that has imported the libraries of roles, and forks the roles.

Most roles need the same libraries. Forks of one process share the memory of the
libraries that the process has imported. The server imports the modules that its command
line names. It also imports the module of a role when the role is first ordered, unless
`RoleProcess.is_shared` is False.

A server can fork a second server. The second server shares the libraries of the first
one. The kernel kills the second server if the first one dies. If the second server
imports a large library, the import neither delays nor ends the roles of the first
server.

This module needs Linux, as the command `fracture-node serve` does.

The server runs `main` of this module, with a socket, the process id of the parent, the
format of the log and the modules as arguments. The supervisor uses `RoleServer`.
"""

import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Self

from dicom_node.log.format import configure_logging
from dicom_node.runtime.fork_server import (
    ForkServer,
    Order,
    command_line,
    serve_forks,
    share_memory,
)
from dicom_node.runtime.prctl import keep_memory_private, name_process

MODULE = "dicom_node.runtime.role_server"
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
MFD_NOEXEC_SEAL = 0x0008  # linux/memfd.h
START_S = 60.0
"""Maximum time to start the server, in seconds."""

IMPORT_S = 300.0
"""Maximum time to import the libraries of a role, in seconds.

The time is long, because the machine may be slow and busy.
"""

PASSED_VARIABLES = ("HOME", "LANG", "PATH", "TEMP", "TMP", "TMPDIR", "TZ")
PASSED_PREFIXES = (
    "COV_CORE_",
    "COVERAGE_",
    "FAKETIME",
    "GLIBC_",
    "GOMP_",
    "KMP_",
    "LC_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "NPY_",
    "OMP_",
    "OPENBLAS_",
    "OPENSSL_",
    "PSYCOPG_",
    "PYTHON",
)
"""Environment variables that the first server gets, by name and by prefix.

Python, the C library, a preloaded library and the libraries of the receivers read these
variables when they are loaded. The first server gets no other variables of the
supervisor. They may contain secrets, such as the password of the database, and each
fork has the memory of the server.
"""

# If the OpenMP threads of several processes wait in busy loops, they slow each other
# down. If OpenBLAS started threads, the server would not be a process with one thread.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class RoleProcess:
    """The description of a process to start: a role or another server.

    Attributes:
        name: The name that `ps -e` shows, at most 15 characters.
        module: The module with the `main` of the process.
        arguments: The arguments of the command line.
        file_options: One option of the command line for each file that the process
            inherits. The value of the option is the descriptor of the file.
        niceness: Added to the niceness of the server that forks the process, as in
            nice(2).
        environment: Environment variables that only this process gets.
        has_environment: Whether the process gets the environment of the supervisor,
            without the secrets. If False, the process gets only the variables that its
            server has. The first server has those of PASSED_VARIABLES, PASSED_PREFIXES
            and ENVIRONMENT. In both cases, the process also gets the variables of
            `environment`.
        is_shared: Whether the server imports the module, so that all forks share it. If
            False, the process imports the module itself.
        preload: Arguments for the function `preload` of the module; None if the server
            must not call it. The server calls `preload` after it has imported the
            module. The call returns a function. The server calls this function, too,
            before the next fork.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    file_options: Sequence[str] = ()
    niceness: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    has_environment: bool = True
    is_shared: bool = True
    preload: Sequence[str] | None = None


class RoleServer:
    """The supervisor's interface to a fork server: starts and ends the forked roles.

    Only one thread may use it at a time.
    """

    def __init__(
        self,
        server: ForkServer,
        log_format: str,
        *,
        secrets: Collection[str] = (),
        environment: Mapping[str, str] = NO_VARIABLES,
        parent: "RoleServer | None" = None,
    ) -> None:
        """Create the interface to a fork server that runs this module.

        Args:
            server: The fork server.
            log_format: The format of the server's log lines, "text" or "json".
            secrets: Names of environment variables that the server did not get. A role
                gets them only if `RoleProcess.environment` contains them.
            environment: Environment variables that the server did not get. A role gets
                them if `RoleProcess.has_environment` is True.
            parent: The server that forked this one; None if no server did.
        """
        self._server = server
        self._log_format = log_format
        self._secrets = frozenset(secrets)
        self._environment = environment
        self._parent = parent
        self._import_until = 0.0

    @classmethod
    def start(
        cls,
        secrets: Collection[str],
        log_format: str = "text",
        imports: Sequence[str] = (),
    ) -> Self:
        """Start a server, and return it when it accepts orders; see `begin_start`."""
        server = cls.begin_start(secrets, log_format, imports)
        server.wait_until_ready()
        return server

    @classmethod
    def begin_start(
        cls,
        secrets: Collection[str],
        log_format: str = "text",
        imports: Sequence[str] = (),
    ) -> Self:
        """Start a server, and return it without waiting for it.

        Call `wait_until_ready` before any other method except `close`.

        The kernel kills the server when the thread that called this function ends.

        Args:
            secrets: Names of environment variables that a role gets only if
                `RoleProcess.environment` contains them.
            log_format: The format of the log lines, "text" or "json".
            imports: Modules that the server imports before its first order. If a module
                cannot be imported, the server continues without it.

        Raises:
            OSError: The process cannot be created.
        """
        others = {k: v for k, v in os.environ.items() if k not in secrets}
        passed = {name: others.pop(name) for name in list(others) if _is_passed(name)}
        # The server inherits this mask, so a signal during its start does not end it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            server = ForkServer.begin_start(
                MODULE,
                *(log_format, *imports),
                environment=passed | ENVIRONMENT,
                is_silent=False,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return cls(server, log_format, secrets=secrets, environment=others)

    def wait_until_ready(self) -> None:
        """Wait until the server runs and accepts orders.

        Raises:
            OSError: The server has ended, or is not ready after START_S seconds.
        """
        self._server.wait_until_ready(START_S)

    def suits(self, secrets: Collection[str], log_format: str) -> bool:
        """Return whether the server can be used with these arguments of `begin_start`.

        The log format must be equal. The server must have been started with all of
        these secrets, and may have been started with more.
        """
        return self._secrets.issuperset(secrets) and self._log_format == log_format

    def fork_server(
        self, name: str, niceness: int, roles: Sequence[RoleProcess] = ()
    ) -> "RoleServer":
        """Fork another server, which shares the libraries of this one, and return it.

        Args:
            name: The name that `ps -e` shows, at most 15 characters.
            niceness: Added to the niceness of this server, as in nice(2). The roles of
                the new server inherit the sum.
            roles: Roles that the new server will fork. Before its first order, the new
                server imports and preloads their modules.

        Raises:
            OSError: This server has ended, or has too few resources to fork; or the new
                server is not ready after START_S seconds.
        """
        ours, theirs = socket.socketpair()
        modules = {each.module: each.preload for each in roles}
        arguments = [self._log_format, *modules, f"--preload={json.dumps(modules)}"]
        process = RoleProcess(
            *(name, MODULE, arguments, ["--orders"], niceness), is_shared=False
        )
        try:
            with theirs:
                pid = self.fork_role(process, [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        # The process id belongs to the new server until its exit status is read, so the
        # status is read only once.
        server = ForkServer(ours, pid, cache(partial(self._kill, pid)))
        server.wait_until_ready(START_S)
        return RoleServer(server, self._log_format, parent=self)

    def _kill(self, pid: int) -> int:
        try:
            return self.end(pid, 0)
        except OSError:  # the kernel killed it with this server
            return -signal.SIGKILL

    @property
    def has_lost_its_parent(self) -> bool:
        """Whether another server forked this one, and that server was closed."""
        return self._parent is not None and self._parent._server.is_closed  # noqa: SLF001

    @property
    def pid(self) -> int:
        """The process id of the server, which is the parent of the roles."""
        return self._server.pid

    def fork_role(self, process: RoleProcess, files: Sequence[int]) -> int:
        """Start a process, and wait until it runs; return its process id.

        Args:
            process: The process.
            files: The descriptors of the files to inherit, in the order of
                `process.file_options`.

        Raises:
            OSError: The server has ended, has imported for more than IMPORT_S seconds,
                or has too few resources to fork.
            RuntimeError: `begun` has not yet returned the id of an earlier process.
        """
        self.begin(process, files)
        while (pid := self.begun(IMPORT_S)) is None:
            pass
        return pid

    def begin(self, process: RoleProcess, files: Sequence[int]) -> None:
        """Order a process, without waiting for it.

        The arguments are those of `fork_role`. Call `begun` to get the process id. Do
        not order another process before `begun` has returned the id. Orders of other
        kinds wait until this process runs.

        Raises:
            OSError: The server has ended, or there are too few resources for the order.
            RuntimeError: `begun` has not yet returned the id of an earlier process.
        """
        without_variables = replace(process, environment={})
        content = json.dumps(asdict(without_variables)).encode()
        common = self._environment if process.has_environment else NO_VARIABLES
        variables = json.dumps({**common, **process.environment}).encode()
        with _file_of(variables) as file:
            self._server.begin_fork(content, [file, *files])
        self._import_until = time.monotonic() + IMPORT_S

    def begun(self, timeout_s: float) -> int | None:
        """Wait for the process that `begin` ordered; return its process id.

        Args:
            timeout_s: Maximum time to wait, in seconds.

        Returns:
            The process id. None if the process does not run after `timeout_s`, for
            example because the server still imports the module of the role.

        Raises:
            OSError: The server has ended, has imported for more than IMPORT_S seconds,
                or has too few resources to fork.
        """
        pid = self._server.forked(timeout_s)
        if pid is None and time.monotonic() > self._import_until:
            self.close()
            raise TimeoutError(f"The import takes longer than {IMPORT_S:.0f} s")
        return pid

    def status(self, pid: int) -> int | None:
        """Return the exit status of a process; None while it runs.

        If a signal ended the process, the status is the negative number of the signal.
        Do not use the process id after this method has returned a status, because
        another process may get the same id.

        Raises:
            OSError: The server and the process have ended.
        """
        return self._server.status(pid)

    def terminate(self, pid: int) -> None:
        """Send SIGTERM to a process.

        Do not call this after `status` or `end` has returned the exit status of the
        process, because another process may have the same id.

        Raises:
            OSError: The server and the process have ended.
        """
        self._server.signal(pid, signal.SIGTERM)

    def end(self, pid: int, patience_s: float) -> int:
        """Wait until a process ends; kill it after `patience_s` seconds.

        Returns:
            The exit status; if a signal ended the process, the negative number of the
            signal.

        Raises:
            OSError: The server and the process have ended.
        """
        return self._server.end(pid, patience_s)

    def close(self) -> int:
        """Kill the server and its forks; return the exit status of the server.

        May be called repeatedly.
        """
        return self._server.close()


def _is_passed(name: str) -> bool:
    """Return whether the first server gets an environment variable of this name."""
    return name in PASSED_VARIABLES or name.startswith(PASSED_PREFIXES)


def _memory_file(name: str) -> int:
    """Create an empty file in memory; return its descriptor."""
    try:
        # The kernel may refuse files that could be executed (vm.memfd_noexec).
        return os.memfd_create(name, os.MFD_CLOEXEC | MFD_NOEXEC_SEAL)
    except OSError:  # a kernel before 6.3 does not know the flag
        return os.memfd_create(name)


@contextmanager
def _file_of(content: bytes) -> Iterator[int]:
    """Yield the descriptor of a file in memory that contains `content`.

    The server gives the file to a role, and does not read it. If the server read a
    secret, each later fork would have the secret in its memory.
    """
    descriptor = _memory_file("variables")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def main() -> None:
    """Carry out the orders of the supervisor. Each fork runs a role or a server."""
    parser = command_line()
    parser.add_argument("log_format")
    parser.add_argument("imports", nargs="*")
    parser.add_argument("--preload", type=json.loads, default={})
    arguments = parser.parse_args()
    keep_memory_private()
    os.umask(0o077)  # the roles inherit it: see runtime/process.py
    # Ctrl-C and `systemctl stop` send a signal to every process. If the signal ended
    # the server, the kernel would kill the roles before they finish their work. A new
    # fork inherits the mask, and gets the signals as soon as it unblocks them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    configure_logging("roles", log_format=arguments.log_format)
    load = partial(_import_all, arguments.imports, arguments.preload)
    _run(serve_forks(arguments.orders, arguments.supervisor, _import_role, load))


def _import_all(
    modules: Sequence[str], preload: Mapping[str, Sequence[str] | None]
) -> None:
    """Import modules, and call the function `preload` of some of them.

    `preload` loads data that forks share, and may begin a test of the data in another
    process. It returns a function that waits for the end of the test. That function is
    called before the next call of `preload`, or at the end. So the next module can be
    imported during the test.

    Errors are ignored, because the fork of the role fails in the same way. If a test
    fails, `preload` is not called again.

    Args:
        modules: The names of the modules.
        preload: The arguments of `preload`, by module. If they are None or absent, the
            module is only imported.
    """

    def wait() -> None:
        pass

    for each in modules:
        with suppress(Exception):  # the fork of a role fails in the same way
            imported: Any = importlib.import_module(each)
            if (arguments := preload.get(each)) is not None:
                wait()
                wait = imported.preload(*arguments)
    with suppress(Exception):
        wait()


def _import_role(content: bytes) -> None:
    """Import the module of a role in the server, so that all forks share the module.

    Do nothing if `RoleProcess.is_shared` is False, or if the module is already
    imported.

    Args:
        content: The content of the order, a RoleProcess as JSON.
    """
    order = json.loads(content)
    module = order["module"]
    if module in sys.modules or not order["is_shared"]:
        return
    _import_all([module], {module: order["preload"]})
    share_memory()


def _run(order: Order) -> None:
    """Run the role or the second server that an order names, in this process."""
    process = RoleProcess(**json.loads(order.content))
    # Python's handler of SIGINT would write a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if process.module != MODULE:  # another server: see main
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    os.nice(process.niceness)
    name_process(process.name)
    variables, *files = order.files
    with os.fdopen(variables, "rb") as file:
        os.environ.update(json.load(file))
    sys.argv = [process.module, *_arguments(process, files)]
    module: Any = importlib.import_module(process.module)
    logging.getLogger().handlers.clear()  # the role configures its own
    module.main()


def _arguments(process: RoleProcess, files: Sequence[int]) -> list[str]:
    """Return the arguments of a role, with options for its files and its parent."""
    pairs = zip(process.file_options, files, strict=True)
    inherited = [f"{option}={number}" for option, number in pairs]
    return [*process.arguments, *inherited, f"--supervisor={os.getppid()}"]
