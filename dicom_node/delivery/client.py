"""The interface of clients: objects that send results to destinations."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from dicom_node.network.storage_commitment import OnRefused, RecordReport, Request
from dicom_node.outcome import Outcome

SEND_TIMEOUT_S = 60.0

ConnectionTest = Callable[[], Outcome]
"""A function that tests the connection to one peer.

It returns an outcome with the verdict STORED if the test succeeded.
"""


class DestinationClient(Protocol):
    """An object that sends results to a destination, and tests its connections.

    Each type of destination has a class with these methods (see `clients.CLIENTS`). If
    the peer cannot be reached or refuses a request, a method does not raise an error,
    but returns an outcome that says so. Several threads may use a client.

    Most methods get the AE title of the AE that sent the analyzed instance, because
    some destinations return results to that AE.
    """

    def deliver(
        self, files: Mapping[str, Path], sender_ae_title: str, /
    ) -> dict[str, Outcome]:
        """Send files; return the outcome of each file by SOP Instance UID.

        Args:
            files: The files by SOP Instance UID: HL7 messages if the type of the
                destination is `hl7`, otherwise Part 10 files.
            sender_ae_title: AE title of the sender of the instance.

        Raises:
            OSError: A file cannot be read. Some clients return an outcome instead.
        """

    def connection_tests(self, name: str, /) -> list[tuple[str, ConnectionTest]]:
        """Return a pair (name, test) for each peer of the destination.

        Args:
            name: The beginning of each returned name, such as the name of the
                destination.
        """

    def request_commitment(
        self,
        request: Request,
        sender_ae_title: str,
        /,
        *,
        record_report: RecordReport,
        on_refused: OnRefused,
    ) -> Outcome:
        """Request Storage Commitment for objects that the destination has stored.

        The clients of some types of destinations do not support Storage Commitment. The
        settings do not allow `commitment` for these types.

        Args:
            request: The objects and the Transaction UID, already recorded in the
                journal.
            sender_ae_title: AE title of the sender of the instance.
            record_report: Called in another thread if a report comes on the association
                of the request. Many archives report later, on another association.
            on_refused: Called for each report that the node refuses, if the report
                comes on the association of the request.

        Returns:
            An outcome with the verdict STORED if the destination accepted the request.
            If the client does not support Storage Commitment, the verdict is REFUSED.
        """

    def peer(self, sender_ae_title: str, /) -> tuple[str, str]:
        """Return the name and host of the peer that gets the results of an instance.

        Args:
            sender_ae_title: AE title of the sender of the instance.

        Returns:
            The AE title or the URL of the peer, and its host. The host is empty if the
            address of the peer is not known.
        """
