"""PixelMed's validator of structured reports, in one process for all reports.

The validator compiles its rules at its start, which takes four seconds of processor
time. Its command validates only one report.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("validate_reports.java")
PIXELMED = "/usr/share/java/pixelmed.jar"  # of the Debian package libpixelmed-java
NO_LIMITS = tuple(
    f"-Djdk.xml.{limit}Limit=0"
    for limit in ("xpathExprOp", "xpathTotalOp", "xpathExprGrp")
)
# The validator runs for a few seconds. The optimizing compiler of Java and parallel
# garbage collection take more processor time than they save.
FAST_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

Validation = Callable[[Path], list[str]]
"""A function that returns the lines that the validator writes about a report."""


@pytest.fixture(scope="session")
def sr_validation(peer: Callable[[str], str]) -> Iterator[Validation]:
    """Yield a function that validates a report; see `Validation`."""
    peer("DicomSRValidator")  # its package also installs the library
    with subprocess.Popen(
        [peer("java"), *NO_LIMITS, *FAST_START, "-cp", PIXELMED, PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:

        def validate(path: Path) -> list[str]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            lines = []
            for line in process.stdout:
                if line == "END\n":
                    return lines
                lines.append(line.rstrip("\n"))
            raise AssertionError("The validator ended:\n" + "\n".join(lines))

        yield validate
