"""A role that waits for a signal. With --report=FILE, it reports what it inherited."""

import json
import os
import signal
import sys
from pathlib import Path

from dicom_node.runtime.prctl import LIBC

PR_GET_DUMPABLE = 3  # linux/prctl.h


def _open_files() -> list[Path]:
    """Return the open files, except the listing itself."""
    return [each for each in Path("/proc/self/fd").iterdir() if each.exists()]


def main() -> None:
    """Write what the process inherited, and wait."""
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
