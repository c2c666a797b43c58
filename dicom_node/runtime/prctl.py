"""Settings of this process in the Linux kernel, made with prctl(2).

On other systems, the functions do nothing.
"""

import ctypes
import signal
import sys

LIBC = ctypes.CDLL(None)  # loaded here because loading between fork and exec is unsafe
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15


def die_with_parent() -> None:
    """On Linux, make the kernel kill this process when its parent dies.

    The setting stays if this process executes another program. On other systems, users
    must end the children of a killed process by hand.
    """
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_memory_private() -> None:
    """Protect this process's memory and environment from other processes of its user.

    Memory and environment contain secrets. An attacker may control another role, or a
    decoder on a kernel that cannot confine it. The setting is lost if this process
    executes another program. Root can still read everything.
    """
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def name_process(name: str) -> None:
    """Set the name that `ps -e` shows; the kernel keeps the first 15 bytes."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
