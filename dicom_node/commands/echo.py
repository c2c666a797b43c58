"""Asks a destination for a sign of life (C-ECHO)."""

import sys

from dicom_node.commands.peer import peer
from dicom_node.outcome import Verdict
from dicom_node.process import load_or_exit, role_parser
from dicom_node.sender import echo


def main() -> None:
    """C-ECHO one peer; the exit status tells."""
    parser = role_parser("echo", __doc__)
    parser.add_argument("peer", help="a destination's name, or AE@host:port")
    given = parser.parse_args()
    settings = load_or_exit(given.config)
    destination = peer(given.peer, settings)
    outcome = echo(destination, calling_ae_title=settings.receiver.ae_title)
    answered = outcome.verdict is Verdict.STORED
    sys.stdout.write(f"{given.peer}: {'alive' if answered else outcome.comment}\n")
    sys.exit(0 if answered else 1)


if __name__ == "__main__":
    main()
