"""Tests the connection to a destination.

An AE is tested by C-ECHO. If results go back to senders, each sender is tested. A
DICOMweb service is tested by a search for a study that does not exist, with the
credentials from the settings. A RIS is tested by opening a connection.
"""

import sys

from dicom_node.commands.node_settings import node_settings_or_exit
from dicom_node.commands.peer import parse_peer
from dicom_node.delivery.clients import client_for
from dicom_node.outcome import Verdict
from dicom_node.runtime.process import role_parser


def main() -> None:
    """Test each connection of a destination, and print the results.

    The exit status is 0 if all tests succeed. It is 1 if a test fails or the peer is
    unknown, and 2 if the settings are invalid.
    """
    parser = role_parser("echo", __doc__)
    parser.add_argument("peer", help="a destination's name, or AE@host:port")
    arguments = parser.parse_args()
    settings = node_settings_or_exit(arguments.config)
    destination = parse_peer(arguments.peer, settings)
    all_alive = True
    client = client_for(destination, settings.receiver.ae_title)
    for name, test_connection in client.connection_tests(arguments.peer):
        outcome = test_connection()
        is_alive = outcome.verdict is Verdict.STORED
        all_alive &= is_alive
        sys.stdout.write(f"{name}: {'alive' if is_alive else outcome.comment}\n")
    sys.exit(0 if all_alive else 1)


if __name__ == "__main__":
    main()
