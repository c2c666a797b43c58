"""Runs all roles on one machine, each in a process that is restarted if it dies.

The supervisor binds the sockets, and the roles inherit them. If a role is killed, no
waiting connection is lost, and its successor needs no free port. The roles are forks of
one process that has imported their libraries (runtime/role_server.py). The supervisor
imports neither the model nor the api. It has no state of its own, because the journal
records everything.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from config.destinations import Secret
from config.settings import Settings
from dicom_node.audit.trail import record, started, stopped
from dicom_node.backoff import backoff_s
from dicom_node.receiver.ports import FD, TLS_FD, open_ports
from dicom_node.runtime.process import (
    begin_role,
    listen_or_exit,
    load_or_exit,
    role_parser,
    verify_access_or_exit,
)
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from dicom_node.storage.migration import migrate, writing_or_exit
from dicom_node.storage.run_folder import run_folder

logger = logging.getLogger(__name__)

RECEIVER, WORKER, API = (
    f"{package}.__main__"
    for package in ("dicom_node.receiver", "dicom_node.worker", "api")
)
WATCH_S = 0.2
# A role that ends sooner than this after its start counts as broken. It is restarted
# with increasing delays. A role that was killed does not count as broken.
STABLE_AFTER_S = 10.0
RESTART_MAX_DELAY_S = 30.0
DRAIN_S = 40.0
# Senders wait for the receivers, so receivers have priority: when all roles start at
# once, and when one is killed while the workers use all cores. See nice(2): if two
# processes compete for a core, one that is nicer by 10 gets a tenth of it; alone, it
# gets all of it. The import of the libraries has the priority of the receivers, because
# they are forks of the process that imports.
LOWER_PRIORITY = 10


def main() -> None:
    """Run the node until SIGTERM or Ctrl-C, and finish the work in progress."""
    arguments = role_parser("serve", __doc__).parse_args()
    settings = load_or_exit(arguments.config)
    stop = begin_role("serve", None, settings.log.format)
    verify_access_or_exit(settings.api)
    with Node(settings, arguments.config) as node:
        # The receivers accept instances before the other roles start, so from here on
        # the roles must end with a drain.
        stop.ready(DRAIN_S)
        node.watch(stop)


@dataclass
class Restarts:
    """Decides when a process that died is started again.

    Attributes:
        name: The name of the process in log lines.
    """

    name: str
    _started: float = 0.0
    _early_exits: int = 0
    _not_before: float = 0.0

    def started(self) -> None:
        """Note that the process was started."""
        self._started = time.monotonic()

    def died(self, code: int) -> None:
        """Note that the process died; `code` is its exit status."""
        now = time.monotonic()
        quick = now - self._started < STABLE_AFTER_S and code != -signal.SIGKILL
        self._early_exits = self._early_exits + 1 if quick else 0
        repeated = self._early_exits - 1  # the first restart has no delay
        delay_s = backoff_s(repeated, 1.0, RESTART_MAX_DELAY_S)
        self._not_before = now + (delay_s if repeated > 0 else 0)
        logger.warning("%s exited with status %s; restarting it", self.name, code)

    def failed(self, error: OSError) -> None:
        """Note that the process could not be started."""
        logger.error("Cannot start %s: %s", self.name, error.strerror or error)
        self._not_before = time.monotonic() + STABLE_AFTER_S

    @property
    def are_due(self) -> bool:
        """Whether the process may be started now."""
        return time.monotonic() >= self._not_before


class Role:
    """One role of the node, across restarts.

    Attributes:
        process: The process to start.
        files: The sockets that the process inherits.
        pid: The id of the process; None without one.
    """

    def __init__(
        self, process: RoleProcess, files: Sequence[socket.socket] = ()
    ) -> None:
        """Prepare the role, without a process."""
        self.process = process
        self.pid: int | None = None
        self.files = files
        self._restarts = Restarts(process.name)

    def start_if_ended(self, server: RoleServer) -> None:
        """Start the process if it does not run, with a delay if it keeps dying.

        Raises:
            ConnectionError, TimeoutError: The server has ended, or does not respond.
        """
        if self.pid is not None:
            code = server.status(self.pid)
            if code is None:
                return
            self.died(code)
        if self._restarts.are_due:
            self._start(server)

    def died(self, code: int) -> None:
        """Note that the process died; `code` is its exit status."""
        self.pid = None
        self._restarts.died(code)

    def end(self, server: RoleServer, patience_s: float) -> None:
        """Wait for the end of the process, and kill it after `patience_s`.

        Raises:
            ConnectionError, TimeoutError: The server has ended, or does not respond.
        """
        if self.pid is None:
            return
        if server.end(self.pid, patience_s) == -signal.SIGKILL:
            logger.warning("%s did not end in time and was killed", self.process.name)
        self.pid = None

    def _start(self, server: RoleServer) -> None:
        try:
            files = [each.fileno() for each in self.files]
            self.pid = server.start(self.process, files)
            self._restarts.started()
        except (ConnectionError, TimeoutError):
            # The import may have ended the server, and with it all roles.
            self.process = replace(self.process, is_shared=False)
            raise
        except OSError as error:  # no process available; the other roles continue
            self._restarts.failed(error)


class Node:
    """All roles of a node, as a context manager that ends them on exit.

    Attributes:
        receiver_port: The port of the Storage SCP; the TLS port if that is the only
            one.
        api_port: The port of the page and /predict; 0 if the settings have no api.
        roles: The processes.
    """

    def __init__(self, settings: Settings, config: Path | None) -> None:
        """Bind the sockets and prepare the roles.

        Args:
            settings: The settings of the node.
            config: The file from which the roles read the settings again.
        """
        self._receiver = open_ports(settings)
        api = settings.api
        # Open it only if a process serves it: a client would wait for ever otherwise.
        self._api = [listen_or_exit(api.host, api.port) for _ in range(api.processes)]
        self.receiver_port = _port(next(iter(self._receiver.values())))
        self.api_port = _port(self._api[0]) if self._api else 0
        self._settings = settings
        pages, archives = _secrets(settings)
        self._secrets = pages | archives
        self._server: RoleServer | None = None
        self._server_restarts = Restarts("the server of the roles")
        self.roles = _roles(settings, config, self._receiver, self._api)

    def __enter__(self) -> Self:
        """Migrate the database if it is SQLite, and report the start of the node.

        The addresses are logged, and the start is recorded in the audit trail. The
        process exits with a message if the storage cannot be written. `watch` or
        `start_roles` starts the roles.
        """
        storage = self._settings.storage
        with writing_or_exit(storage):
            if not storage.database:
                migrate(storage)
            self._announce()
            record(self._settings, "serve", started(self._settings))
        return self

    def __exit__(self, *_: object) -> None:
        """End the roles; each finishes its work in progress."""
        server = self._server
        if server is not None:
            self._terminate_roles(server)
        record(self._settings, "serve", stopped())
        if server is not None:
            self._wait_for_roles(server)
            server.close()
        for each in (*self._receiver.values(), *self._api):
            each.close()

    def watch(self, stop: threading.Event) -> None:
        """Start the roles, and restart those that die, until `stop` is set."""
        while not stop.is_set():
            self.start_roles(stop)
            stop.wait(WATCH_S)

    def start_roles(self, stop: threading.Event | None = None) -> None:
        """Start each role that does not run, except those that wait for a restart.

        The first time, this takes seconds, because the server imports the libraries.

        Args:
            stop: If it is set, no other role is started.
        """
        if self._server is None:
            self._server = self._start_server()
        if self._server is None:
            return
        try:
            for role in self.roles:
                if stop is None or not stop.is_set():
                    role.start_if_ended(self._server)
        except (ConnectionError, TimeoutError):
            self._roles_ended_with(self._server)
            self._server = None

    def _start_server(self) -> RoleServer | None:
        if not self._server_restarts.are_due:
            return None
        try:
            server = RoleServer(self._secrets, self._settings.log.format)
        except OSError as error:
            self._server_restarts.failed(error)
            return None
        self._server_restarts.started()
        return server

    def _roles_ended_with(self, server: RoleServer) -> None:
        """Close a server that ended or does not respond. The roles end with it."""
        self._server_restarts.died(server.close())
        for role in self.roles:
            if role.pid is not None:
                role.died(-signal.SIGKILL)

    def _terminate_roles(self, server: RoleServer) -> None:
        with suppress(ConnectionError, TimeoutError):  # the roles ended with the server
            for role in self.roles:
                if role.pid is not None:
                    server.terminate(role.pid)

    def _wait_for_roles(self, server: RoleServer) -> None:
        deadline = time.monotonic() + DRAIN_S
        with suppress(ConnectionError, TimeoutError):  # the roles ended with the server
            for role in self.roles:
                role.end(server, max(deadline - time.monotonic(), 0))

    def _announce(self) -> None:
        """Log the addresses of the node, and write the ports to ports.json."""
        receiver, api = self._settings.receiver, self._settings.api
        names = {FD: "receiver", TLS_FD: "receiver_tls"}
        ports = {names[option]: _port(each) for option, each in self._receiver.items()}
        for name, port in ports.items():
            suffix = " for TLS" if name == names[TLS_FD] else ""
            title = receiver.ae_title
            logger.info("%s listens on %s:%s%s", title, receiver.host, port, suffix)
        if self._api:
            logger.info("The page is at http://%s:%s/", api.host, self.api_port)
        folder = run_folder(self._settings.storage)
        folder.mkdir(parents=True, exist_ok=True)
        ports["api"] = self.api_port
        (folder / "ports.json").write_text(json.dumps(ports))


def _roles(
    settings: Settings,
    config: Path | None,
    receiver: Mapping[str, socket.socket],
    api: Sequence[socket.socket],
) -> list[Role]:
    read = [] if config is None else [f"--config={config}"]
    pages, archives = _secrets(settings)
    listening = list(receiver.values())
    return [
        *(
            Role(
                RoleProcess(f"receiver-{number}", RECEIVER, read, list(receiver)),
                listening,
            )
            for number in range(settings.receiver.processes)
        ),
        *(
            Role(
                RoleProcess(
                    f"worker-{number}",
                    WORKER,
                    [*read, f"--slot={number}"],
                    niceness=LOWER_PRIORITY,
                    environment=_variables(archives),
                )
            )
            for number in range(settings.worker.processes)
        ),
        *(
            Role(
                RoleProcess(
                    *("api", API, read, [FD]),
                    niceness=LOWER_PRIORITY,
                    environment=_variables(archives | pages),
                ),
                [each],
            )
            for each in api
        ),
    ]


def _variables(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _secrets(settings: Settings) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the environment variables that hold secrets.

    The first set has the variables with tokens for the page and /predict. The second
    set has the variables with credentials for archives.

    The api needs both, because it tests connections to archives.
    """
    pages = (token.env for token in settings.api.tokens)
    archives = (
        value
        for each in settings.destinations
        for _, value in each
        if isinstance(value, Secret)
    )
    names = [[each.variable for each in group if each] for group in (pages, archives)]
    return frozenset(names[0]), frozenset(names[1])


def _port(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
