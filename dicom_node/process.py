"""What every role does first when its process starts."""

import ctypes
import logging
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies.

    A role whose supervisor is gone would hold the port and the spool against the next
    one. Any role may be killed at any moment, so nothing is lost. Linux only; elsewhere
    a supervisor that is killed leaves its roles to be ended by hand.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit(1)


def stop_on_signals() -> threading.Event:
    """Make the event that SIGTERM and SIGINT set, in place of ending the process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def configure_logging(role: str) -> None:
    """Log lines of INFO and above to standard error, one a line, under the role's name.

    Libraries that quote what they read are kept quiet: their lines may hold patient
    data.
    """
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {role} %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    logging.captureWarnings(capture=True)
    for name in ("pydicom", "pynetdicom", "highdicom", "py.warnings", "PIL"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
