"""What validators say of an object, and which real files to ask them about."""

import csv
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

Complaints = Callable[[Path], set[str]]
"""Finds the errors of a file."""


def dciodvfy_errors(program: str, path: Path) -> set[str]:
    run = subprocess.run([program, "-new", path], capture_output=True, check=False)
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    assert b"Warning" in run.stderr or b"Image" in run.stderr  # it did look
    # What is copied into a sequence of ours is at fault there as it was at the top.
    return {re.sub(r"</.*/", "</", error) for error in errors}


def renamed(errors: set[str]) -> set[str]:
    """Call the source's UIDs as a reference to it does."""
    return errors | {
        error.replace(
            "</SOPInstanceUID(0008,0018)", "</ReferencedSOPInstanceUID(0008,1155)"
        )
        for error in errors
    }


def real_radiographs(shared: Path) -> Iterator[Path]:
    """Every CR, DX, XA, RF and RG file that has a preamble, and can be decoded."""
    folder = shared / "dicom"
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path = folder / row["path"]
            if row["category"] not in {"RADIO", "PROJ"} or row["decodes"] != "yes":
                continue
            if path.read_bytes()[128:132] == b"DICM":
                yield path
