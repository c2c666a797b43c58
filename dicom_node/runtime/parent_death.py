"""Ends a process when its parent dies (prctl of Linux)."""

import ctypes
import signal
import sys

LIBC = ctypes.CDLL(None)  # loaded here because loading between fork and exec is unsafe
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Make the kernel kill this process, busy or not, when its parent dies.

    The setting stays if this process executes another program. On systems other than
    Linux, this does nothing: the children of a killed process must be ended by hand.
    """
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
