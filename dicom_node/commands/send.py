"""Sends DICOM files to an AE: `fracture-node send PATH… --to AE@host:port`.

The files are sent by C-STORE, so the destination must have a fixed AE.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from config.destinations import DicomDestination
from dicom_node.commands.input_files import file_problem, input_files, printable
from dicom_node.commands.peer import peer
from dicom_node.delivery.c_store import send
from dicom_node.outcome import Outcome, Verdict
from dicom_node.runtime.process import load_or_exit, role_parser


def main() -> None:
    """Send files and folders; the exit status is 0 if all were stored."""
    parser = role_parser("send", __doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="files and folders")
    parser.add_argument("--to", required=True, help="a destination or AE@host:port")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args()
    settings = load_or_exit(given.config)
    destination = peer(given.to, settings)
    if not isinstance(destination, DicomDestination):
        words = "name a destination that is one, or say AE@host:port"
        sys.exit(f"{given.to} is no fixed AE; {words}")
    paths = list(input_files(given.paths))
    problems = [file_problem(path) for path in paths]
    files = [path for path, why in zip(paths, problems, strict=True) if not why]
    with Progress(console=Console(stderr=True), disable=given.json) as progress:
        task = progress.add_task("Sending", total=len(files))
        sent = send(
            files,
            destination,
            calling_ae_title=settings.receiver.ae_title,
            on_outcome=lambda *_: progress.advance(task),
        )
    answers = iter(sent)
    outcomes = [
        Outcome(Verdict.REFUSED, None, why) if why else next(answers)
        for why in problems
    ]
    report(paths, outcomes, as_json=given.json)
    sys.exit(0 if all(each.verdict is Verdict.STORED for each in outcomes) else 1)


def report(
    paths: Sequence[Path], outcomes: Sequence[Outcome], *, as_json: bool
) -> None:
    """Print the outcome of each file."""
    for path, outcome in zip(paths, outcomes, strict=True):
        told = {
            "path": str(path),
            "verdict": outcome.verdict,
            "status": outcome.status,
            "comment": outcome.comment,
        }
        words = (printable(path), outcome.verdict, outcome.comment)
        line = ": ".join(filter(None, words))
        sys.stdout.write((json.dumps(told) if as_json else line) + "\n")


if __name__ == "__main__":
    main()
