"""Tests the connection to a destination.

An AE is tested by C-ECHO. If results go back to senders, each sender is tested. A
DICOMweb service is tested with our credentials by a search for a study that does not
exist.
"""

import sys

from dicom_node.commands.peer import peer
from dicom_node.delivery.dispatch import echo_destination
from dicom_node.outcome import Verdict
from dicom_node.runtime.process import load_or_exit, role_parser


def main() -> None:
    """Test one peer; the exit status is 0 if all of its addresses answer."""
    parser = role_parser("echo", __doc__)
    parser.add_argument("peer", help="a destination's name, or AE@host:port")
    given = parser.parse_args()
    settings = load_or_exit(given.config)
    us, asked = settings.receiver.ae_title, peer(given.peer, settings)
    alive = True
    for name, ask in echo_destination(given.peer, asked, calling_ae_title=us):
        outcome = ask()
        answers = outcome.verdict is Verdict.STORED
        alive &= answers
        sys.stdout.write(f"{name}: {'alive' if answers else outcome.comment}\n")
    sys.exit(0 if alive else 1)


if __name__ == "__main__":
    main()
