"""Runs all roles on one machine, each in a process that is restarted if it dies."""

# The supervisor binds the sockets, and the roles inherit them. If a role is killed, no
# waiting connection is lost, and the new process does not have to bind the port. The
# supervisor imports neither the model nor the api nor the libraries for the database: a
# fork of the first server migrates the database (commands/node_database.py). The
# supervisor stores no state, because the journal records everything.
#
# Two servers fork the roles (runtime/role_server.py):
# - The first server has imported the libraries of the receivers, and forks the
#   receivers. Then it imports the codecs, and forks the common decoding server
#   (decoder/common_server.py). So the codecs are imported only once.
# - The second server is a fork of the first server, and forks the other roles. It
#   imports torch. The receivers do not wait for this import, and they continue if it
#   fails.
#
# If the import of the codecs ends the first server, the receivers end, too. They are
# restarted. The common decoding server then imports the codecs itself.

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from config.destinations import Secret
from config.settings import Settings
from dicom_node.commands.role_modules import (
    API,
    DATABASE,
    DECODERS,
    RECEIVER,
    WORKER,
)
from dicom_node.receiver.ports import FD, TLS_FD, open_ports
from dicom_node.runtime.process import (
    begin_role,
    listen_or_exit,
    load_or_exit,
    role_parser,
    verify_access_or_exit,
)
from dicom_node.runtime.role_group import Role, RoleGroup
from dicom_node.runtime.role_server import RoleProcess, RoleServer
from dicom_node.storage.run_folder import run_folder
from dicom_node.storage.unwritable import unwritable

logger = logging.getLogger(__name__)

DECODERS_FD = "--decoders"
WATCH_S = 0.2
POLL_S = 0.01
DRAIN_S = 40.0
COMMON_SERVER_END_S = 1.0
# The niceness of the roles other than receivers (nice(2)). Senders wait for the
# receivers, so a receiver must start quickly: when all roles start at once, and when a
# receiver was killed while the workers use all cores. If two processes compete for a
# core, the one with a niceness higher by 10 gets a tenth of the core. Without a
# competitor, a process with any niceness gets the whole core.
LOWER_PRIORITY = 10


def run(server: RoleServer | None = None) -> None:
    """Run the node until SIGTERM or Ctrl-C, then finish the work in progress.

    Args:
        server: A fork server for the receivers that has begun to start. None means that
            this function starts it.
    """
    arguments = role_parser("serve", __doc__).parse_args()
    settings = load_or_exit(arguments.config)
    stop = begin_role("serve", None, settings.log.format)
    verify_access_or_exit(settings.api)
    with Node(settings, arguments.config, server) as node:
        # The receivers accept instances before the other roles start, so from here on
        # the roles must end with a drain.
        stop.ready(DRAIN_S)
        node.watch(stop)


class Node:
    """All roles of a node, as a context manager that ends them on exit.

    Attributes:
        receiver_port: The port of the Storage SCP; the TLS port if there is no other.
        api_port: The port of the web pages and the API; 0 if the settings start no api.
        receivers: The group of the receivers and of the common decoding server, with
            the server that forks them.
        others: The group of the other roles, with the server that forks them.
    """

    def __init__(
        self,
        settings: Settings,
        config: Path | None,
        server: RoleServer | None = None,
    ) -> None:
        """Bind the sockets and prepare the roles.

        The process exits with a message if a port cannot be opened.

        Args:
            settings: The settings of the node.
            config: The settings file, which each role reads again. None means the
                defaults.
            server: A fork server for the receivers that has begun to start. If this
                server does not suit the settings, this object ends it and starts
                another one. If None, this object starts the server.
        """
        self._receiver = open_ports(settings)
        api = settings.api
        # The port is opened only if a process serves it. Otherwise clients would wait
        # for ever.
        self._api = [listen_or_exit(api.host, api.port) for _ in range(api.processes)]
        # The roles and a new common decoding server use the same two sockets.
        self._requests, self._decoders = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.receiver_port = _port(next(iter(self._receiver.values())))
        self.api_port = _port(self._api[0]) if self._api else 0
        self._settings = settings
        pages, archives = _secrets(settings)
        self._secrets = pages | archives
        self._begun = server
        read = [] if config is None else [f"--config={config}"]
        self._arguments = read
        decoders = _decoders(self._requests)
        self.receivers = RoleGroup(
            "the server of the receivers",
            [*_receivers(settings, read, self._receiver), decoders],
            self._start_server,
        )
        self.others = RoleGroup(
            "the server of the other roles",
            _others(settings, read, self._api, self._decoders),
            self._fork_server,
        )
        # The first time, the second server imports the libraries of all its roles at
        # once. If such an import ends the server, the next one imports them one by one,
        # so that `start_roles` finds out which role is the cause.
        self._early = [each.process for each in self.others.roles]

    def __enter__(self) -> Self:
        """Migrate the database if it is SQLite, and report the start of the node.

        The addresses are logged, the ports are written to ports.json, and the start is
        recorded in the audit trail. The process exits with a message if the storage
        cannot be written. The server of the receivers is started, but no role: `watch`,
        `watched` or `start_roles` starts the roles.
        """
        self.receivers.start_server()
        if status := self._run_step("start"):
            sys.exit(status)
        try:
            self._announce()
        except OSError as error:
            sys.exit(unwritable(self._settings.storage, error))
        return self

    def _run_step(self, step: str) -> int:
        """Run a step of node_database.py in a fork of the server of the receivers.

        If there is no server, or the fork fails or is killed, the step runs in this
        process.

        Args:
            step: "start" or "end".

        Returns:
            The exit status of the step; 0 if it succeeded.
        """
        process = RoleProcess(
            *("database", DATABASE, [*self._arguments, step, str(os.getpid())])
        )
        status = None
        if server := self.receivers.server:
            with suppress(OSError, RuntimeError):
                pid = server.fork_role(process, [])
                while pid and (status := server.status(pid)) is None:
                    time.sleep(POLL_S)
        if status is None or status < 0:
            from dicom_node.commands.node_database import run  # noqa: PLC0415

            run(step, self._settings)
            return 0
        return status

    def __exit__(self, *_: object) -> None:
        """End the roles after they have finished their work in progress.

        The listening sockets are closed first, so that new callers are refused while
        the roles finish their work. A role that does not end within about DRAIN_S
        seconds is killed. The end of the node is recorded in the audit trail.
        """
        for each in (*self._receiver.values(), *self._api):
            each.close()
        for group in (self.receivers, self.others):
            group.terminate()
        self._run_step("end")
        deadline = time.monotonic() + DRAIN_S
        self.others.end(deadline)
        # The common decoding server ends only now, when no process has this socket. So
        # it gets some time after the deadline, too.
        self._decoders.close()
        self.receivers.end(max(deadline, time.monotonic() + COMMON_SERVER_END_S))
        self._requests.close()

    @property
    def roles(self) -> Sequence[Role]:
        """All roles of the node, with or without a running process."""
        return [*self.receivers.roles, *self.others.roles]

    def watch(self, stop: threading.Event) -> None:
        """Start the roles, and restart those that die, until `stop` is set."""
        while not stop.is_set():
            self.start_roles(stop)
            # While a server imports libraries, `start_roles` itself waits for a moment.
            if not (self.receivers.is_starting or self.others.is_starting):
                stop.wait(WATCH_S)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Start the roles, and restart those that die, within the block.

        After the block, the roles continue until the context of the node ends. There is
        one exception: if the server of the receivers died in the block, all roles are
        killed at the end of the block. The reason is that a thread of this method has
        started the new server. The kernel kills the server when this thread ends.
        """
        done = threading.Event()
        self.start_roles(done)
        watcher = threading.Thread(target=self.watch, args=(done,))
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def start_roles(self, stop: threading.Event) -> bool:
        """Start each role that does not run, unless its restart is delayed.

        Call this method repeatedly until it returns True. It returns early while a
        server imports libraries, which takes some seconds after the start of the node.

        Args:
            stop: If it is set, no further role is started.

        Returns:
            Whether all roles run.
        """
        receivers_run = self.receivers.start_roles(stop)
        first = self.receivers
        if self.others.server is None and (first.server is None or first.is_starting):
            return False  # the second server is a fork of the first
        return self.others.start_roles(stop) and receivers_run

    def _start_server(self) -> RoleServer:
        log_format = self._settings.log.format
        begun, self._begun = self._begun, None
        if begun is not None and begun.suits(self._secrets, log_format):
            begun.wait_until_ready()
            return begun
        if begun is not None:
            begun.close()
        return RoleServer.start(self._secrets, log_format)

    def _fork_server(self) -> RoleServer:
        if self.receivers.server is None:
            raise ConnectionError("There is no process to fork")
        early, self._early = self._early, []
        return self.receivers.server.fork_server("roles", LOWER_PRIORITY, early)

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


def _receivers(
    settings: Settings, arguments: Sequence[str], sockets: Mapping[str, socket.socket]
) -> list[Role]:
    listening = list(sockets.values())
    return [
        Role(
            RoleProcess(f"receiver-{number}", RECEIVER, arguments, list(sockets)),
            listening,
        )
        for number in range(settings.receiver.processes)
    ]


def _decoders(requests: socket.socket) -> Role:
    return Role(
        RoleProcess(
            *("decoders", DECODERS, [], ["--requests"], LOWER_PRIORITY),
            has_environment=False,
        ),
        [requests],
    )


def _others(
    settings: Settings,
    arguments: Sequence[str],
    sockets: Sequence[socket.socket],
    decoders: socket.socket,
) -> list[Role]:
    pages, archives = (_variables(names) for names in _secrets(settings))
    model = str(settings.model.weights or ""), settings.model.device
    workers = [
        Role(
            RoleProcess(
                *(f"worker-{number}", WORKER, [*arguments, f"--slot={number}"]),
                file_options=[DECODERS_FD],
                environment=archives,
                preload=model,
            ),
            [decoders],
        )
        for number in range(settings.worker.processes)
    ]
    secrets = archives | pages
    apis = [
        Role(
            RoleProcess(
                *("api", API, arguments, [FD, DECODERS_FD]),
                environment=secrets,
                preload=model,
            ),
            [each, decoders],
        )
        for each in sockets
    ]
    return [*workers, *apis]


def _variables(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _secrets(settings: Settings) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the environment variables that hold secrets.

    Returns:
        The variables with tokens for the web pages and the API, and the variables with
        credentials for archives. The api needs both sets, because it tests connections
        to archives.
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
