"""Start and end of a process of the node: logging, permissions, signals, sockets."""

import argparse
import errno
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from config.access import ApiSettings, access_problems
from config.settings import Settings, SettingsError, load
from dicom_node.log.format import configure_logging
from dicom_node.network.sockets import listen
from dicom_node.runtime.prctl import LIBC, keep_memory_private

logger = logging.getLogger(__name__)

M_ARENA_MAX = -8  # malloc.h
# If the supervisor is killed, the kernel kills its roles, too. They keep the ports open
# until they have ended, which takes longer for a role with a model in memory.
PORT_WAIT_S = 5.0
# Maximum time to write rows and files after the work is finished.
CLOSE_S = 5.0


def role_parser(role: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all roles share."""
    parser = argparse.ArgumentParser(f"fracture-node {role}", description=description)
    parser.add_argument("--config", type=Path, help="the settings, a TOML file")
    parser.add_argument("--supervisor", type=int, help=argparse.SUPPRESS)
    return parser


class Stop(threading.Event):
    """An event that is set when SIGTERM or SIGINT tells this process to end.

    A signal that comes before `ready` is called ends the process at once. After a later
    signal, the process must finish its work and end by itself. If this takes too long,
    for example because the process waits for a lock, the database or a file on a share,
    a thread ends the process. If the signal or the thread ends the process, the exit
    status is 0. No data is lost, because the node is designed for a kill at any moment.
    """

    def __init__(self) -> None:
        """Install the handlers of SIGTERM and SIGINT. Call this in the main thread."""
        super().__init__()
        self._drain_s: float | None = None
        self._drained = threading.Event()
        # A Python handler runs in the main thread after the call in progress there
        # ends. That is seconds later if the call loads a model, and never if the call
        # holds the lock of this event. The C handler writes to this socket at once.
        receiving, sending = socket.socketpair()
        sending.settimeout(0)
        self._sending = sending
        signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        args = (receiving,)
        threading.Thread(
            target=self._end, args=args, name="signals", daemon=True
        ).start()

    def ready(self, drain_s: float) -> None:
        """Report that the start is complete.

        A signal that comes later does not end the process at once. After the signal,
        the process has `drain_s` seconds to finish its work, and then CLOSE_S seconds
        to end.
        """
        self._drain_s = drain_s

    def drained(self) -> None:
        """Report that the work is finished; the process has CLOSE_S seconds to end."""
        self._drained.set()

    def _end(self, receiving: socket.socket) -> None:
        """Wait for SIGTERM or SIGINT, set the event, and end the process later.

        The process is ended at once if `ready` was not called. Otherwise it is ended
        CLOSE_S seconds after `drained` was called or the time of the drain is over.
        """
        while receiving.recv(1)[0] not in {signal.SIGTERM, signal.SIGINT}:
            pass  # another signal with a Python handler
        self.set()
        if self._drain_s is None:
            _exit(logging.INFO, "Stopped by a signal before the start was complete")
        self._drained.wait(self._drain_s)
        time.sleep(CLOSE_S)
        _exit(
            logging.WARNING, "The process did not end in time and ends without cleanup"
        )


def _exit(level: int, message: str) -> None:
    """Log a message, and end the process with status 0.

    The process ends even if its log cannot be written.
    """
    last = threading.Thread(target=logger.log, args=(level, message), daemon=True)
    last.start()
    last.join(1)
    os._exit(0)


def begin_role(name: str, supervisor: int | None, form: str = "text") -> Stop:
    """Configure log and signals of this process; make its new files and memory private.

    Args:
        name: The name in each log line.
        supervisor: The id of the parent process; None for a role started by hand. If
            the parent has died, this process exits with status 1.
        form: The format of the log lines, "text" or "json".

    Returns:
        The event that SIGTERM and SIGINT set. The role must call `Stop.ready` when its
        start is complete. Until then, the signals end the process at once.
    """
    configure_logging(name, form)
    keep_files_private()
    keep_memory_private()
    if supervisor not in {None, os.getppid()}:  # the parent died before die_with_parent
        sys.exit(1)
    return Stop()


def allow_many_threads() -> None:
    """Prepare this process for many threads.

    The limit of open files is raised to the maximum. With glibc, new threads share one
    heap instead of getting heaps of their own.
    """
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    if sys.platform == "linux":
        # Otherwise each of the two threads of an association has a heap of its own. A
        # heap does not return its peak memory to the system.
        with suppress(AttributeError):  # the C library has no mallopt
            LIBC.mallopt(M_ARENA_MAX, 1)


def keep_files_private() -> None:
    """Let only the user of this process access its new files.

    The files may contain patient data.
    """
    os.umask(0o077)


def listen_or_exit(host: str, port: int) -> socket.socket:
    """Return a listening socket; end the process with a message if that fails.

    If the port is in use, wait up to PORT_WAIT_S until it is free.
    """
    deadline = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            return listen(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            sys.exit(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another "
                "port in the settings, or stop the program that uses it."
            )


def load_or_exit(config: Path | None) -> Settings:
    """Return the settings from the file `config` and the environment: see `load`.

    If the settings are invalid, write why, and end the process with status 2.
    """
    try:
        return load(config)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def verify_access_or_exit(api: ApiSettings) -> None:
    """If there are `access_problems`, write them, and end the process with status 2."""
    if problems := access_problems(api):
        sys.stderr.write("".join(f"{line}\n" for line in problems))
        sys.exit(2)
