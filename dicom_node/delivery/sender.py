"""Destinations of the type `sender`: the AE that sent an instance gets its results."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.destinations import SenderDestination
from dicom_node.delivery.client import ConnectionTest
from dicom_node.delivery.dicom import DicomClient
from dicom_node.network.storage_commitment import OnRefused, RecordReport, Request
from dicom_node.outcome import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class SenderClient:
    """A client that sends results to the sender of each instance.

    See DestinationClient for the methods. If the sender is not among the peers of the
    settings, each outcome has the verdict REFUSED.

    Attributes:
        destination: The destination, with the addresses of its peers.
        calling_ae_title: Our AE title.
    """

    destination: SenderDestination
    calling_ae_title: str

    def deliver(
        self, files: Mapping[str, Path], sender_ae_title: str
    ) -> dict[str, Outcome]:
        """Send the files to the sender; return the outcomes by SOP Instance UID."""
        if client := self._client(sender_ae_title):
            return client.deliver(files, sender_ae_title)
        return dict.fromkeys(files, self._refused(sender_ae_title))

    def connection_tests(self, name: str) -> list[tuple[str, ConnectionTest]]:
        """Return (name, test) for each peer of the settings; the test is a C-ECHO."""
        return [
            test
            for each in self.destination.peers
            for test in DicomClient(each, self.calling_ae_title).connection_tests(
                f"{name}, {each.ae_title}"
            )
        ]

    def request_commitment(
        self,
        request: Request,
        sender_ae_title: str,
        *,
        record_report: RecordReport,
        on_refused: OnRefused,
    ) -> Outcome:
        """Request Storage Commitment from the sender; return the outcome."""
        client = self._client(sender_ae_title)
        if client is None:
            return self._refused(sender_ae_title)
        return client.request_commitment(
            request,
            sender_ae_title,
            record_report=record_report,
            on_refused=on_refused,
        )

    def peer(self, sender_ae_title: str) -> tuple[str, str]:
        """Return the AE title and the host of the sender.

        The host is empty if the sender is not among the peers of the settings.
        """
        client = self._client(sender_ae_title)
        return client.peer(sender_ae_title) if client else (sender_ae_title, "")

    def _client(self, sender_ae_title: str) -> DicomClient | None:
        address = self.destination.address_for(sender_ae_title)
        return DicomClient(address, self.calling_ae_title) if address else None

    def _refused(self, sender_ae_title: str) -> Outcome:
        reason = (
            f"{sender_ae_title} sent the instance and is not among the peers. Add it "
            "to the peers, restart the node and run "
            f"`fracture-node retry --destination {self.destination.name}`"
        )
        return Outcome(Verdict.REFUSED, None, reason, was_sent=False)
