"""Settings of this process in the kernel, by prctl(2) of Linux.

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
    """Make the kernel kill this process, busy or not, when its parent dies.

    The setting stays if this process executes another program. On other
    systems, the children of a killed process must be ended by hand.
    """
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_memory_private() -> None:
    """Protect memory and environment of this process from others of the same user.

    Both contain secrets. An attacker may control another role, or a decoding child on a
    kernel that cannot confine it. Programs that this process executes are not protected
    by this call. Root can still read everything.
    """
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def name_process(name: str) -> None:
    """Set the name that `ps -e` shows, at most 15 characters."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
