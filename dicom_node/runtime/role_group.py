"""Roles that are forks of one server, each in a process that is restarted if it dies.

`start_roles` does not wait for the import of a library. So while one server imports the
libraries of its roles, the supervisor can restart the roles of another server.
"""

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from dicom_node.backoff import backoff_s
from dicom_node.runtime.role_server import RoleProcess, RoleServer

logger = logging.getLogger(__name__)

# A role that ends sooner than this after its start counts as broken. It is restarted
# with increasing delays. A role that was killed does not count as broken.
STABLE_AFTER_S = 10.0
RESTART_MAX_DELAY_S = 30.0
FORK_S = 0.1
"""Seconds to wait for a fork; an import takes longer."""


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

    def begin_if_ended(self, server: RoleServer) -> bool:
        """Order a process if none runs, with a delay if it keeps dying.

        Returns:
            Whether a process was ordered. Then call `is_settled` until it returns true.

        Raises:
            OSError: The server has ended, or does not respond.
        """
        if self.pid is not None:
            code = server.status(self.pid)
            if code is None:
                return False
            self.died(code)
        if not self._restarts.are_due:
            return False
        with self._refusals_noted():
            server.begin(self.process, [each.fileno() for each in self.files])
            return True
        return False

    def is_settled(self, server: RoleServer) -> bool:
        """Return whether the ordered process was started or refused.

        Raises:
            OSError: The server has ended, or does not respond.
        """
        with self._refusals_noted():
            self.pid = server.begun(FORK_S)
            if self.pid is None:
                return False
            self._restarts.started()
        return True

    @contextmanager
    def _refusals_noted(self) -> Iterator[None]:
        """Note that no process or descriptor is available; the other roles continue."""
        try:
            yield
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            self._restarts.failed(error)

    def import_alone(self) -> None:
        """Let the process import its module itself, not the server for it."""
        self.process = replace(self.process, is_shared=False)

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


class RoleGroup:
    """The roles that are forks of one server, and the server, across restarts.

    Attributes:
        roles: The roles.
        server: The server; None without one.
    """

    def __init__(
        self,
        name: str,
        roles: Sequence[Role],
        start_server: Callable[[], RoleServer],
    ) -> None:
        """Prepare the roles, without a server.

        Args:
            name: The name of the server in log lines.
            roles: The roles, in the order of their start.
            start_server: Starts a server; may raise OSError.
        """
        self.roles = roles
        self.server: RoleServer | None = None
        self._start_server = start_server
        self._restarts = Restarts(name)
        self._starting: Role | None = None  # other orders would wait for its import

    @property
    def is_starting(self) -> bool:
        """Whether the server imports the libraries of a role, and orders would wait."""
        return self._starting is not None

    def start_roles(self, stop: threading.Event) -> bool:
        """Start each role that does not run, except those that wait for a restart.

        Call this repeatedly: a role waits while the server imports its libraries.

        Args:
            stop: If it is set, no other role is started.

        Returns:
            Whether all roles run.
        """
        if stop.is_set():
            return False
        if self.server is None and self._restarts.are_due:
            try:
                self.server = self._start_server()
                self._restarts.started()
            except OSError as error:
                self._restarts.failed(error)
        if self.server is None:
            return False
        try:
            self._start_each(self.server, stop)
        except (ConnectionError, TimeoutError):
            self._ended_with(self.server)
        return all(role.pid is not None for role in self.roles)

    def _start_each(self, server: RoleServer, stop: threading.Event) -> None:
        if not self._is_settled(server):
            return
        for role in self.roles:
            if stop.is_set():
                return
            if role.begin_if_ended(server):
                self._starting = role
                if not self._is_settled(server):
                    return

    def _is_settled(self, server: RoleServer) -> bool:
        if self._starting is not None and self._starting.is_settled(server):
            self._starting = None
        return self._starting is None

    def _ended_with(self, server: RoleServer) -> None:
        """Close a server that ended or does not respond. The roles end with it."""
        self._restarts.died(server.close())
        if self._starting is not None and not server.has_lost_its_parent:
            self._starting.import_alone()  # its import may have ended the server
        self.server = self._starting = None
        for role in self.roles:
            if role.pid is not None:
                role.died(-signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the roles.

        A role that is being started gets it after its import, unless it is the first.
        """
        if self._starting is not None and all(role.pid is None for role in self.roles):
            self.close()
        if self.server is None:
            return
        with suppress(ConnectionError, TimeoutError):  # the roles ended with the server
            while not self._is_settled(self.server):
                pass
            for role in self.roles:
                if role.pid is not None:
                    self.server.terminate(role.pid)

    def end(self, deadline: float) -> None:
        """Wait for the end of the roles, then end the server.

        Args:
            deadline: Time at which they are killed, in seconds of time.monotonic().
        """
        if self.server is None:
            return
        with suppress(ConnectionError, TimeoutError):  # the roles ended with the server
            for role in self.roles:
                role.end(self.server, max(deadline - time.monotonic(), 0))
        self.close()

    def close(self) -> None:
        """Kill the server, and the roles with it."""
        if self.server is not None:
            self.server.close()
            self.server = None
