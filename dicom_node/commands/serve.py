"""`serve`: run all roles on one machine, each in a process that restarts if it dies.

The supervisor binds the sockets, and the roles inherit them: if a role is killed, no
waiting connection is lost, and its successor needs no free port. The supervisor imports
neither the model nor the api. It has no state of its own, because the journal records
everything.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from config.destinations import StowDestination
from config.settings import Settings
from dicom_node.audit.trail import record, started, stopped
from dicom_node.backoff import backoff_s
from dicom_node.receiver.ports import FD, TLS_FD, open_ports
from dicom_node.runtime.parent_death import die_with_parent
from dicom_node.runtime.process import (
    begin_role,
    listen_or_exit,
    load_or_exit,
    role_parser,
    verify_access_or_exit,
)
from dicom_node.storage.migration import migrate, writing_or_exit
from dicom_node.storage.run_folder import run_folder

logger = logging.getLogger(__name__)

WATCH_S = 0.2
# A role that ends sooner than this after its start counts as broken. It is restarted
# with increasing delays. A role that was killed does not count as broken.
STABLE_AFTER_S = 10.0
RESTART_MAX_DELAY_S = 30.0
DRAIN_S = 40.0
# Senders wait for the receivers, so receivers have priority: when all roles start at
# once, and when one is killed while the workers use all cores. See nice(2): if two
# processes compete for a core, one that is nicer by 10 gets a tenth of it; alone, it
# gets all of it.
LOWER_PRIORITY = 10


def main() -> None:
    """Run the node until SIGTERM or Ctrl-C, and finish the work in progress."""
    arguments = role_parser("serve", __doc__).parse_args()
    settings = load_or_exit(arguments.config)
    stop = begin_role("serve", None, settings.log.format)
    verify_access_or_exit(settings.api)
    with Node(settings, arguments.config) as node:
        stop.ready(DRAIN_S)
        node.watch(stop)


@dataclass
class Role:
    """One process of the node, across restarts.

    Attributes:
        name: The name in each log line.
        arguments: The module and its options.
        listening: The sockets that it inherits, by their options.
        niceness: The niceness of the process, as in nice(2).
        withheld: Environment variables that it does not get.
    """

    name: str
    arguments: list[str]
    listening: Mapping[str, socket.socket] = field(default_factory=dict)
    niceness: int = 0
    withheld: frozenset[str] = frozenset()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    early_exits: int = 0
    not_before: float = field(default=0.0)

    def start(self) -> None:
        """Start the process."""
        inherited = {name: each.fileno() for name, each in self.listening.items()}
        fd = [f"{option}={number}" for option, number in inherited.items()]
        self_id = f"--supervisor={os.getpid()}"
        # Two busy-waiting OpenMP teams on two cores need 930 ms instead of 30.
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        for each in self.withheld:
            environment.pop(each, None)
        self.process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-P", "-m", *self.arguments, *fd, self_id],
            pass_fds=list(inherited.values()),
            env=environment,
            # This runs before the process imports modules, which takes seconds. It is
            # safe, because there is only one thread.
            preexec_fn=self._prepare_process,  # noqa: PLW1509
        )
        self.started = time.monotonic()

    def _prepare_process(self) -> None:
        die_with_parent()
        os.nice(self.niceness)

    def restart_if_exited(self) -> None:
        """Restart the process if it died, with a delay if it keeps dying."""
        if self.process is None or self.process.poll() is None:
            return
        now = time.monotonic()
        if not self.not_before:
            code = self.process.returncode
            quick = now - self.started < STABLE_AFTER_S and code != -signal.SIGKILL
            self.early_exits = self.early_exits + 1 if quick else 0
            repeated = self.early_exits - 1  # the first restart has no delay
            delay_s = backoff_s(repeated, 1.0, RESTART_MAX_DELAY_S)
            self.not_before = now + (delay_s if repeated > 0 else 0)
            logger.warning("%s exited with status %s; restarting it", self.name, code)
        if now >= self.not_before:
            self.not_before = 0.0
            try:
                self.start()
            except OSError as error:  # no process available; the other roles continue
                logger.error("Cannot start %s: %s", self.name, error.strerror)  # noqa: TRY400
                self.not_before = now + STABLE_AFTER_S


class Node:
    """All roles of a node, as a context: started on entry, ended on exit.

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
        self.roles = _roles(settings, config, self._receiver, self._api)

    def __enter__(self) -> Self:
        """Migrate an SQLite database and start the roles."""
        storage = self._settings.storage
        with writing_or_exit(storage):
            if not storage.database:
                migrate(storage)
            self._announce()
            record(self._settings, "serve", started(self._settings))
        for role in self.roles:
            role.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the roles; each finishes its work in progress."""
        for role in self.roles:
            if role.process is not None:
                role.process.terminate()
        record(self._settings, "serve", stopped())
        deadline = time.monotonic() + DRAIN_S
        for role in self.roles:
            _wait_or_kill(role, deadline - time.monotonic())
        for each in (*self._receiver.values(), *self._api):
            each.close()

    def watch(self, stop: threading.Event) -> None:
        """Restart roles that die, until told to stop."""
        while not stop.wait(WATCH_S):
            for role in self.roles:
                role.restart_if_exited()

    def _announce(self) -> None:
        """Report the addresses of the node to people and, in a file, to programs."""
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
    listen = ["dicom_node.receiver", *read]
    work = ["dicom_node.worker", *read]
    pages, archives = _secrets(settings)
    return [
        *(
            Role(f"receiver-{number}", listen, receiver, withheld=pages | archives)
            for number in range(settings.receiver.processes)
        ),
        *(
            Role(
                f"worker-{number}",
                [*work, f"--slot={number}"],
                niceness=LOWER_PRIORITY,
                withheld=pages - archives,
            )
            for number in range(settings.worker.processes)
        ),
        *(Role("api", ["api", *read], {FD: each}, LOWER_PRIORITY) for each in api),
    ]


def _secrets(settings: Settings) -> tuple[frozenset[str], frozenset[str]]:
    """Return the variables with tokens of people, and with credentials for archives.

    The api needs both, because it tests connections to archives.
    """
    pages = (token.env for token in settings.api.tokens)
    archives = (
        secret
        for each in settings.destinations
        if isinstance(each, StowDestination)
        for secret in (each.token_env, each.password_env)
    )
    names = [[each.variable for each in group if each] for group in (pages, archives)]
    return frozenset(names[0]), frozenset(names[1])


def _port(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


def _wait_or_kill(role: Role, timeout_s: float) -> None:
    if role.process is None:
        return
    try:
        role.process.wait(max(timeout_s, 0))
    except subprocess.TimeoutExpired:
        logger.warning("%s did not end in time and is killed", role.name)
        role.process.kill()
        role.process.wait()


if __name__ == "__main__":
    main()
