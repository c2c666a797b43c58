"""Starts the roles that are forks of one server, and restarts roles that die.

`RoleGroup.start_roles` does not wait until a server has imported libraries. So the
supervisor can restart the roles of one server while another server imports libraries.
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

# A role that ends within this time after its start is restarted at once the first time,
# and then with increasing delays. A role that was killed with SIGKILL has no delay.
STABLE_AFTER_S = 10.0
RESTART_MAX_DELAY_S = 30.0
FORK_S = 0.1
"""Maximum time that `start_roles` waits for a fork, in seconds.

A fork takes milliseconds. If the server imports a library first, the fork takes longer,
and `start_roles` returns before the fork.
"""


@dataclass
class Restarts:
    """The delays before a process that died is started again.

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
        """Log that the process died, and decide when it may be started again.

        The restart is delayed if the process died early at least twice in succession:
        within STABLE_AFTER_S seconds after its start, and not by SIGKILL.

        Args:
            code: The exit status; if a signal ended the process, the negative number
                of the signal.
        """
        now = time.monotonic()
        quick = now - self._started < STABLE_AFTER_S and code != -signal.SIGKILL
        self._early_exits = self._early_exits + 1 if quick else 0
        repeated = self._early_exits - 1  # the first restart has no delay
        delay_s = backoff_s(repeated, 1.0, RESTART_MAX_DELAY_S)
        self._not_before = now + (delay_s if repeated > 0 else 0)
        logger.warning("%s exited with status %s; restarting it", self.name, code)

    def failed(self, error: OSError) -> None:
        """Log that the process could not be started, and delay the next attempt.

        Args:
            error: The reason.
        """
        logger.error("Cannot start %s: %s", self.name, error.strerror or error)
        self._not_before = time.monotonic() + STABLE_AFTER_S

    @property
    def are_due(self) -> bool:
        """Whether the process may be started now."""
        return time.monotonic() >= self._not_before


class Role:
    """One role of the node, with its process. A process that ends is replaced.

    Attributes:
        process: The description of the process.
        files: The sockets that the process inherits.
        pid: The id of the process; None if no process runs.
    """

    def __init__(
        self, process: RoleProcess, files: Sequence[socket.socket] = ()
    ) -> None:
        """Create the role without starting a process."""
        self.process = process
        self.pid: int | None = None
        self.files = files
        self._restarts = Restarts(process.name)

    def begin_if_ended(self, server: RoleServer) -> bool:
        """If no process runs and no restart delay is pending, order the server to fork.

        Returns:
            True if a process was ordered. Then call `is_settled` until it returns True.
            False if the process still runs, if its restart is delayed, or if the order
            failed. A failed order is logged and delays the next order.

        Raises:
            ConnectionError, TimeoutError: The server has ended, or does not respond.
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
        """Wait at most FORK_S seconds for the process that `begin_if_ended` ordered.

        Returns:
            True if the process was started, or if it could not be started: then `pid`
            is None. False if the server has not replied yet.

        Raises:
            ConnectionError, TimeoutError: The server has ended, or does not respond.
        """
        with self._refusals_noted():
            self.pid = server.begun(FORK_S)
            if self.pid is None:
                return False
            self._restarts.started()
        return True

    @contextmanager
    def _refusals_noted(self) -> Iterator[None]:
        """Note an OSError of the block as a failed start of this role, and suppress it.

        For example, the limit on processes or on descriptors may be reached. An error
        of the connection to the server is raised, because it concerns all roles.
        """
        try:
            yield
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            self._restarts.failed(error)

    def import_alone(self) -> None:
        """Let each future process of the role import its module itself.

        The server then does not import the module.
        """
        self.process = replace(self.process, is_shared=False)

    def died(self, code: int) -> None:
        """Note that the process died with the exit status `code`."""
        self.pid = None
        self._restarts.died(code)

    def end(self, server: RoleServer, patience_s: float) -> None:
        """Wait until the process ends; kill it after `patience_s` seconds.

        Raises:
            ConnectionError, TimeoutError: The server has ended, or does not respond.
        """
        if self.pid is None:
            return
        if server.end(self.pid, patience_s) == -signal.SIGKILL:
            logger.warning("%s did not end in time and was killed", self.process.name)
        self.pid = None


class RoleGroup:
    """A server and the roles that are its forks.

    `start_roles` also restarts a server or roles that have ended.

    Attributes:
        roles: The roles, in the order of their start.
        server: The current server; None if none runs.
    """

    def __init__(
        self,
        name: str,
        roles: Sequence[Role],
        start_server: Callable[[], RoleServer],
    ) -> None:
        """Create the group without starting the server.

        Args:
            name: The name of the server in log lines.
            roles: The roles, in the order of their start.
            start_server: Starts and returns a server; may raise OSError.
        """
        self.roles = roles
        self.server: RoleServer | None = None
        self._start_server = start_server
        self._restarts = Restarts(name)
        self._starting: Role | None = None  # ordered, but not forked yet

    @property
    def is_starting(self) -> bool:
        """Whether the server still starts a role. Other orders wait until this ends."""
        return self._starting is not None

    def start_server(self) -> RoleServer | None:
        """Start the server if none runs, unless its restart is delayed.

        Returns:
            The running server; None if its start is delayed or failed.
        """
        if self.server is None and self._restarts.are_due:
            try:
                self.server = self._start_server()
                self._restarts.started()
            except OSError as error:
                self._restarts.failed(error)
        return self.server

    def start_roles(self, stop: threading.Event) -> bool:
        """Start the server if it does not run, and the roles that do not run.

        The start of a process may be delayed: see `Restarts`. Call this method
        repeatedly, because it returns early while the server imports libraries.

        Args:
            stop: If it is set, no further role is started.

        Returns:
            Whether all roles run. False if `stop` was set before the call.
        """
        if stop.is_set():
            return False
        server = self.start_server()
        if server is None:
            return False
        try:
            self._start_each(server, stop)
        except (ConnectionError, TimeoutError):
            self._ended_with(server)
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
        """Close a server that ended or does not respond; note that its roles died.

        If the server was starting a role, that role later imports its module itself.
        There is one exception: the server that forked this server was closed.
        """
        self._restarts.died(server.close())
        if self._starting is not None and not server.has_lost_its_parent:
            self._starting.import_alone()  # its import may have ended the server
        self.server = self._starting = None
        for role in self.roles:
            if role.pid is not None:
                role.died(-signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the roles.

        If the server still starts a role, this method waits, and then sends the signal
        to that role, too. But if no other role runs, the server is killed instead.
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
        """Wait until the roles end, then kill the server.

        Args:
            deadline: The time after which roles are killed, in seconds of
                time.monotonic().
        """
        if self.server is None:
            return
        with suppress(ConnectionError, TimeoutError):  # the roles ended with the server
            for role in self.roles:
                role.end(self.server, max(deadline - time.monotonic(), 0))
        self.close()

    def close(self) -> None:
        """Kill the server and the roles."""
        if self.server is not None:
            self.server.close()
            self.server = None
