"""Destinations of the type `dicom`: a fixed AE gets the results by C-STORE."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from config.destinations import Address
from dicom_node.delivery import n_action
from dicom_node.delivery.c_store import echo, send
from dicom_node.delivery.client import SEND_TIMEOUT_S, ConnectionTest
from dicom_node.network.storage_commitment import OnRefused, RecordReport, Request
from dicom_node.outcome import Outcome


@dataclass(frozen=True, slots=True)
class DicomClient:
    """A client that sends results to one AE; see DestinationClient.

    Attributes:
        address: The address of the AE.
        calling_ae_title: Our AE title.
    """

    address: Address
    calling_ae_title: str

    def deliver(
        self, files: Mapping[str, Path], _sender_ae_title: str
    ) -> dict[str, Outcome]:
        """Send the files by C-STORE; return the outcomes by SOP Instance UID."""
        outcomes = send(
            list(files.values()),
            self.address,
            calling_ae_title=self.calling_ae_title,
            timeout_s=SEND_TIMEOUT_S,
        )
        return dict(zip(files, outcomes, strict=True))

    def connection_tests(self, name: str) -> list[tuple[str, ConnectionTest]]:
        """Return a list with one pair: `name` and a function that sends a C-ECHO."""
        test = partial(echo, self.address, calling_ae_title=self.calling_ae_title)
        return [(name, test)]

    def request_commitment(
        self,
        request: Request,
        _sender_ae_title: str,
        *,
        record_report: RecordReport,
        on_refused: OnRefused,
    ) -> Outcome:
        """Request Storage Commitment by N-ACTION (PS3.4 J.3.2); return the outcome."""
        return n_action.request_commitment(
            request,
            self.address,
            calling_ae_title=self.calling_ae_title,
            timeout_s=SEND_TIMEOUT_S,
            record_report=record_report,
            on_refused=on_refused,
        )

    def peer(self, _sender_ae_title: str) -> tuple[str, str]:
        """Return the AE title and the host of the AE."""
        return self.address.ae_title, self.address.host
