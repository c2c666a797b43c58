"""A role that kills the process that imports it, as a broken library would."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Do nothing. This function never runs, because the import kills the process."""
