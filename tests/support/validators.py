"""Errors of DICOM validators, and the real files to validate."""

import csv
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

Complaints = Callable[[Path], set[str]]
"""Function that returns the errors of a file."""


def dciodvfy_errors(program: str, path: Path) -> set[str]:
    run = subprocess.run([program, "-new", path], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    # The program has read the file.
    assert b"Warning" in run.stderr or b"Image" in run.stderr
    # Attributes copied into a sequence have the same errors as at the top level.
    return {re.sub(r"</.*/", "</", error) for error in errors}


def renamed(errors: set[str]) -> set[str]:
    """Return the errors, with those of SOP Instance UID also for a reference to it.

    A result references its source by Referenced SOP Instance UID, so an error of the
    source's UID occurs there again.
    """
    return errors | {
        error.replace(
            "</SOPInstanceUID(0008,0018)", "</ReferencedSOPInstanceUID(0008,1155)"
        )
        for error in errors
    }


def real_radiographs(shared: Path) -> Iterator[Path]:
    """Yield each projection radiograph that has a preamble and can be decoded."""
    folder = shared / "dicom"
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = folder / row["path"]
            if row["category"] not in {"RADIO", "PROJ"} or row["decodes"] != "yes":
                continue
            if path.read_bytes()[128:132] == b"DICM":
                yield path
