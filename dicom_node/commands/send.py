"""Sends DICOM files to an AE: `fracture-node send PATH… --to AE@host:port`.

The files are sent by C-STORE. A destination without a fixed AE cannot be used: a
DICOMweb service, a RIS, or the senders of the images.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dicom_node.commands.input_files import file_problem, input_files, printable
from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.commands.peer import parse_peer
from dicom_node.delivery.c_store import send
from dicom_node.outcome import Outcome, Verdict
from dicom_node.runtime.process import role_parser


def main() -> None:
    """Send files and folders, and print the outcome for each file.

    The exit status is 0 if all files are stored. Otherwise it is 1, or 2 if the
    settings are invalid.
    """
    parser = role_parser("send", __doc__)
    parser.add_argument(
        "paths", nargs="+", type=Path, help="DICOM files, and folders of them"
    )
    parser.add_argument("--to", required=True, help="a destination or AE@host:port")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    settings = node_settings_or_exit(arguments.config)
    destination = parse_peer(arguments.to, settings)
    address = destination.address_for("")  # these files have no sender
    if address is None:
        sys.exit(
            f"{arguments.to} has no fixed AE. Name a destination with a fixed AE, or "
            "an address as AE@host:port."
        )
    paths = list(input_files(arguments.paths))
    problems = [file_problem(path) for path in paths]
    files = [path for path, problem in zip(paths, problems, strict=True) if not problem]
    with Progress(console=Console(stderr=True), disable=arguments.json) as progress:
        task = progress.add_task("Sending", total=len(files))
        sent = send(
            files,
            address,
            calling_ae_title=settings.receiver.ae_title,
            on_outcome=lambda *_: progress.advance(task),
        )
    sent_outcomes = iter(sent)
    outcomes = [
        Outcome(Verdict.REFUSED, None, problem) if problem else next(sent_outcomes)
        for problem in problems
    ]
    report(paths, outcomes, as_json=arguments.json)
    sys.exit(0 if all(each.verdict is Verdict.STORED for each in outcomes) else 1)


def report(
    paths: Sequence[Path], outcomes: Sequence[Outcome], *, as_json: bool
) -> None:
    """Print one line with the outcome for each file, as text or as a JSON object.

    Args:
        paths: The files.
        outcomes: The outcome for each file, in the same order.
        as_json: Whether each line is a JSON object.
    """
    for path, outcome in zip(paths, outcomes, strict=True):
        result = {
            "path": str(path),
            "verdict": outcome.verdict,
            "status": outcome.status,
            "comment": outcome.comment,
        }
        parts = (printable(path), outcome.verdict, outcome.comment)
        line = ": ".join(filter(None, parts))
        sys.stdout.write((json.dumps(result) if as_json else line) + "\n")


if __name__ == "__main__":
    main()
