"""A role that waits for a signal.

With --report=FILE, it first writes what it inherited to FILE, as JSON: arguments,
environment, open files, parent, blocked signals, and whether its memory is private (not
"dumpable").
"""

import json
import os
import signal
import sys
from pathlib import Path

from dicom_node.runtime.prctl import LIBC

PR_GET_DUMPABLE = 3  # linux/prctl.h


def _open_files() -> list[Path]:
    """Return the links in /proc/self/fd to the open files of this process.

    The descriptor that reads this folder is left out: it is closed before `exists` is
    called, so its link does not exist any more.
    """
    return [each for each in Path("/proc/self/fd").iterdir() if each.exists()]


def main() -> None:
    """Write what the process inherited, if requested, and wait for a signal."""
    paths = [
        each.partition("=")[2] for each in sys.argv if each.startswith("--report=")
    ]
    for path in paths:
        report = {
            "arguments": sys.argv[1:],
            "environment": dict(os.environ),
            "initial": Path("/proc/self/environ").read_text(),
            "files": sorted(map(os.readlink, _open_files())),
            "dumpable": LIBC.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
            "parent": os.getppid(),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        }
        Path(f"{path}.part").write_text(json.dumps(report))
        Path(f"{path}.part").rename(path)
    signal.pause()
