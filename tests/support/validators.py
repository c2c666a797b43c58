"""Errors that a DICOM validator reports, and the real files to validate."""

import csv
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

Complaints = Callable[[Path], set[str]]
"""A function that returns the errors of a DICOM file."""


def dciodvfy_errors(program: str, path: Path) -> set[str]:
    """Return the errors that dciodvfy reports for the file `path`.

    An error names its attribute without the sequences that contain it. `program` is the
    path of dciodvfy.
    """
    run = subprocess.run([program, "-new", path], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    # Without such a line, the program has not read the file.
    assert b"Warning" in run.stderr or b"Image" in run.stderr
    # Attributes copied into a sequence have the same errors as at the top level.
    return {re.sub(r"</.*/", "</", error) for error in errors}


def renamed(errors: set[str]) -> set[str]:
    """Return errors of a source, as they may occur in a result.

    A result references its source by Referenced SOP Instance UID. So each error of SOP
    Instance UID is returned twice: as it is, and for the reference.
    """
    return errors | {
        error.replace(
            "</SOPInstanceUID(0008,0018)", "</ReferencedSOPInstanceUID(0008,1155)"
        )
        for error in errors
    }


def real_radiographs(shared: Path) -> Iterator[Path]:
    """Yield the path of each real radiograph that has a preamble and can be decoded.

    Args:
        shared: The folder with the real files. `dicom/MANIFEST.csv` in it says which of
            them are projection radiographs, and which can be decoded.
    """
    folder = shared / "dicom"
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = folder / row["path"]
            if row["category"] not in {"RADIO", "PROJ"} or row["decodes"] != "yes":
                continue
            if path.read_bytes()[128:132] == b"DICM":
                yield path
