"""An archive with Storage Commitment, made with pynetdicom, as a peer for tests.

The archive also runs as a separate process with the command
`python -m tests.support.commitment_archive FOLDER`. It then prints its port, writes the
received requests to the file `asked` in the folder, and sends one report for each line
of its input: see `main`.
"""

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association

COMMITMENT = UID("1.2.840.10008.1.20.1")
WELL_KNOWN = UID("1.2.840.10008.1.20.1.1")
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A received N-ACTION request and its caller.

    Attributes:
        transaction: Transaction UID.
        objects: (SOP Class UID, SOP Instance UID) of each object in the request.
        action_type: Action Type ID.
        instance: Requested SOP Instance UID of the N-ACTION.
        caller: Calling AE title.
    """

    transaction: str
    objects: tuple[tuple[str, str], ...]
    action_type: int | None
    instance: str
    caller: str


@dataclass
class Committing:
    """An archive with C-STORE and Storage Commitment.

    Attributes:
        status: The status of its response to an N-ACTION.
        at_once: Called with the SOP Instance UID of each requested object. It returns
            the failure reason that is reported on the association of the request, or 0
            to commit. If `at_once` is None, nothing is reported.
        during: Called before an N-ACTION gets its response.
        stored: SOP Instance UIDs of the received objects.
        asked: The received requests.
        answers: The status of each response to a report of `at_once`; -1 if there was
            no response.
        port: The port that the archive listens on; 0 before `start`.
    """

    status: int = 0
    at_once: Callable[[str], int] | None = None
    during: Callable[[], None] = lambda: None
    stored: list[str] = field(default_factory=list)
    asked: list[CommitmentRequest] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    port: int = 0

    def start(
        self, commitment: UID | None = COMMITMENT, tls: SSLContext | None = None
    ) -> None:
        ae = AE("ARCHIVE")
        ae.add_supported_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
        if commitment:
            ae.add_supported_context(commitment)
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
        ]
        server = ae.start_server(
            ("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers
        )
        assert server is not None
        self._server = server
        self.port = server.server_address[1]
        self._reporting: list[threading.Thread] = []

    def stop(self) -> None:
        """Wait for the reports in progress, and stop. May be called twice."""
        for thread in self._reporting:
            thread.join()
        if self._server in self._server.ae._servers:
            self._server.shutdown()

    def _on_store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        information = event.action_information
        objects = tuple(
            (str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID))
            for each in information.ReferencedSOPSequence
        )
        request = CommitmentRequest(
            transaction=str(information.TransactionUID),
            objects=objects,
            action_type=event.action_type,
            instance=str(event.request.RequestedSOPInstanceUID),
            caller=event.assoc.requestor.ae_title,
        )
        self.asked.append(request)
        self.during()
        if self.at_once:
            reasons = {uid: self.at_once(uid) for _, uid in objects}
            arguments = (event.assoc, request.transaction, reasons)
            thread = threading.Thread(target=self._report, args=arguments)
            self._reporting.append(thread)
            thread.start()
        return self.status, None

    def _report(
        self, association: Association, transaction: str, reasons: Mapping[str, int]
    ) -> None:
        self.answers.append(report_on(association, transaction, reasons))


def information(transaction: str, reasons: Mapping[str, int]) -> Dataset:
    """Return the Event Information of a commitment report (PS3.4 J.3.3).

    `reasons` has the Failure Reason of each object by SOP Instance UID; 0 for a
    committed object.
    """
    dataset = Dataset()
    dataset.TransactionUID = transaction
    dataset.ReferencedSOPSequence, dataset.FailedSOPSequence = [], []
    for uid, reason in reasons.items():
        item = Dataset()
        item.ReferencedSOPClassUID = SecondaryCaptureImageStorage
        item.ReferencedSOPInstanceUID = uid
        if reason:
            item.FailureReason = reason
            dataset.FailedSOPSequence.append(item)
        else:
            dataset.ReferencedSOPSequence.append(item)
    if not dataset.FailedSOPSequence:
        del dataset.FailedSOPSequence
    return dataset


def report_on(
    association: Association, transaction: str, reasons: Mapping[str, int]
) -> int:
    """Send a commitment report, and return the status of the response.

    Args:
        association: An association on which the archive is SCP.
        transaction: Transaction UID of the request.
        reasons: The Failure Reason of each SOP Instance UID; 0 for success.

    Returns:
        The status; -1 if there was no response.
    """
    kind = 2 if any(reasons.values()) else 1
    dataset = information(transaction, reasons)
    response, _ = association.send_n_event_report(dataset, kind, COMMITMENT, WELL_KNOWN)
    return int(response.get("Status", -1))


def call(
    port: int, roles: tuple[bool, bool] | None = (False, True), title: str = "ARCHIVE"
) -> Association:
    """Request an association with a node, to send commitment reports.

    Args:
        port: The port of the node on 127.0.0.1.
        roles: Whether to propose the SCU role, and whether to propose the SCP role. If
            None, the request has no role selection.
        title: The calling AE title.

    Returns:
        The association. If the node rejected it, it is not established.
    """
    ae = AE(title)
    ae.dimse_timeout = ae.acse_timeout = PATIENCE_S
    ae.add_requested_context(COMMITMENT)
    items = [] if roles is None else [build_role(COMMITMENT, *roles)]
    return ae.associate(
        "127.0.0.1",
        port,
        ae_title="FRACTURE_AI",
        ext_neg=items,  # type: ignore[arg-type] - a list of the one kind of items
    )


def report(port: int, transaction: str, reasons: Mapping[str, int]) -> int:
    """Send a commitment report to a node, and return the status of the response.

    The report has an association of its own. `reasons` has the Failure Reason of each
    SOP Instance UID; 0 for success. If there was no response, the status is -1.
    """
    association = call(port)
    assert association.is_established
    status = report_on(association, transaction, reasons)
    association.release()
    return status


def main(arguments: Sequence[str]) -> None:
    """Run an archive until standard input ends.

    Each line of the input has the arguments of `report`, as a JSON list. The status
    that `report` returns is printed.
    """
    folder = Path(arguments[0])
    archive = Committing()

    def write() -> None:
        requests = [(each.transaction, each.objects) for each in archive.asked]
        (folder / "asked.new").write_text(json.dumps(requests))
        (folder / "asked.new").rename(folder / "asked")

    archive.during = write
    archive.start()
    sys.stdout.write(f"{archive.port}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(f"{report(*json.loads(line))}\n")
        sys.stdout.flush()
    archive.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
