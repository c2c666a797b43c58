"""A role that ends the process that imports it, as a broken library would."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Do nothing: the import has ended the process."""
