"""Commitment reports to the receiver, over associations that an archive requests."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_AC

from config.settings import ReceiverSettings, load
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import CannotUnderstandError, ReportRefusedError
from dicom_node.instance import ReceivedInstance
from dicom_node.metrics.counters import REPORT_REFUSED, increment
from dicom_node.network.commitment_reporter import Reporter
from dicom_node.network.incoming_dataset import IncomingDataset
from dicom_node.network.sockets import listen
from dicom_node.network.storage_commitment import Report, read_report
from dicom_node.reasons import ReportRefusal
from dicom_node.receiver.server import Receiver, start_receiver
from dicom_node.storage.records import Sample
from dicom_node.storage.spool import Spool
from inference.phantom.long_bone import draw_phantom
from tests.support.commitment_archive import (
    COMMITMENT,
    WELL_KNOWN,
    call,
    information,
    report,
    report_on,
)

pytestmark = pytest.mark.integration

DX = DigitalXRayImageStorageForPresentation
KNOWN_TRANSACTION = "2.25.1"
ROLE_ITEM = 0x54  # PS3.7 D.3.3.4


@dataclass
class Node:
    """A receiver under test, its spool, and the reports that it has received."""

    receiver: Receiver
    spool: Spool
    reports: list[Report] = field(default_factory=list)
    error: Exception | None = None
    threads: set[str] = field(default_factory=set)
    reporters: list[Reporter] = field(default_factory=list)
    refused: list[tuple[Reporter, ReportRefusal]] = field(default_factory=list)
    counted: list[Sample] = field(default_factory=list)

    def record_report(self, report: Report, reporter: Reporter) -> None:
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        self.reports.append(report)
        self.reporters.append(reporter)
        if report.transaction_uid != KNOWN_TRANSACTION:
            unknown = ReportRefusal.UNKNOWN_TRANSACTION
            raise ReportRefusedError(
                "this node did not request its transaction", unknown, 0x0115
            )

    @property
    def port(self) -> int:
        return self.receiver.port


Serve = Callable[..., Node]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    nodes: list[Node] = []

    def start(*, accepts_reports: bool = True, **changes: object) -> Node:
        defaults = load(None, {})
        given = defaults.receiver.model_dump() | changes
        storage = defaults.storage.model_copy(
            update={"directory": tmp_path, "min_free_mb": 0}
        )
        spool = Spool(storage)
        node = Node(receiver=None, spool=spool)  # type: ignore[arg-type]
        node.receiver = start_receiver(
            ReceiverSettings.model_validate(given),
            spool,
            _accept,
            {listen("127.0.0.1", 0): None},
            record_report=node.record_report if accepts_reports else None,
            on_refused=lambda *refused: node.refused.append(refused),
            count=node.counted.append,
        )
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.receiver.drain(5)


def _accept(_: ReceivedInstance) -> None:
    pass


@pytest.fixture
def node(serve: Serve) -> Node:
    return serve()


def test_report_is_recorded_before_the_response(node: Node) -> None:
    status = report(node.port, KNOWN_TRANSACTION, {"2.25.2": 0, "2.25.3": 0x0112})

    assert status == 0x0000
    assert node.reports == [
        Report(KNOWN_TRANSACTION, frozenset(["2.25.2"]), {"2.25.3": 0x0112})
    ]


def test_report_with_an_unknown_transaction_gets_invalid_argument_value(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    assert report(node.port, "2.25.9", {"2.25.2": 0}) == 0x0115
    line = "Refused a commitment report of ARCHIVE at 127.0.0.1: this node did not"
    assert line in caplog.text
    assert "2.25.9" not in caplog.text
    caller = Reporter("ARCHIVE", "127.0.0.1")
    assert node.refused == [(caller, ReportRefusal.UNKNOWN_TRANSACTION)]
    assert increment(REPORT_REFUSED, "unknown_transaction") in node.counted


def test_reporter_has_the_title_and_address_of_the_caller(node: Node) -> None:
    report(node.port, KNOWN_TRANSACTION, {"2.25.2": 0})

    assert node.reporters == [Reporter("ARCHIVE", "127.0.0.1")]


def test_report_that_cannot_be_recorded_gets_resource_limitation(node: Node) -> None:
    node.error = OSError("patient^name")

    assert report(node.port, KNOWN_TRANSACTION, {"2.25.2": 0}) == 0x0213


def test_accepted_role_selection_item_has_only_the_scp_role(node: Node) -> None:
    received: list[bytes] = []

    def keep(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_AC):
            received.append(event.pdu.encode())

    ae = AE("ARCHIVE")
    ae.add_requested_context(COMMITMENT)
    association = ae.associate(
        "127.0.0.1",
        node.port,
        ae_title="FRACTURE_AI",
        ext_neg=[build_role(COMMITMENT, scu_role=True, scp_role=True)],
        evt_handlers=[(evt.EVT_PDU_RECV, keep)],
    )
    (context,) = association.accepted_contexts
    association.release()

    # Item type, reserved, length; length of the UID, the UID, SCU role, SCP role.
    uid = COMMITMENT.encode()
    length = (len(uid) + 4).to_bytes(2, "big")
    item = bytes((ROLE_ITEM, 0)) + length + len(uid).to_bytes(2, "big") + uid
    assert item + bytes((0, 1)) in received[0]
    assert (context.as_scu, context.as_scp) == (False, True)


@pytest.mark.parametrize("roles", [None, (True, False)])
def test_commitment_context_is_refused_without_the_scp_role(
    node: Node, roles: tuple[bool, bool] | None
) -> None:
    association = call(node.port, roles)

    assert not association.accepted_contexts
    assert [each.result for each in association.rejected_contexts] == [3]
    _end(association)


def test_commitment_context_is_refused_if_the_receiver_takes_no_reports(
    serve: Serve,
) -> None:
    association = call(serve(accepts_reports=False).port)

    assert not association.accepted_contexts
    _end(association)


def test_archive_that_is_not_an_allowed_caller_is_rejected(serve: Serve) -> None:
    node = serve(allowed_callers=["MODALITY"])

    association = call(node.port)

    assert association.is_rejected


def test_report_with_an_unknown_event_type_gets_no_such_event_type(node: Node) -> None:
    assert (
        _status(node, information(KNOWN_TRANSACTION, {"2.25.2": 0}), event_type=3)
        == 0x0113
    )
    assert [reason for _, reason in node.refused] == [ReportRefusal.INVALID]


@pytest.mark.parametrize("transaction", ["", "2.25.1; DROP TABLE"])
def test_report_with_an_invalid_transaction_uid_gets_invalid_argument_value(
    node: Node, transaction: str
) -> None:
    dataset = information(KNOWN_TRANSACTION, {"2.25.2": 0})
    dataset.add_new(0x00081195, "LO", transaction)

    assert _status(node, dataset) == 0x0115
    assert node.reports == []


def test_report_with_too_many_objects_is_refused(node: Node) -> None:
    dataset = information(
        KNOWN_TRANSACTION, {f"2.25.{number}": 0 for number in range(2000)}
    )

    assert _status(node, dataset) == 0x0115
    assert node.reports == []
    assert report(node.port, KNOWN_TRANSACTION, {"2.25.2": 0}) == 0x0000


def test_incoming_dataset_frees_its_bytes_if_it_is_too_long() -> None:
    def begin(dataset: IncomingDataset) -> None:
        if dataset.received > 10:
            raise CannotUnderstandError("too long")

    dataset = IncomingDataset(begin, 100)

    for _ in range(3):
        dataset.write(b"12345678")

    assert dataset.refusal is not None
    assert dataset.getvalue() == b""


def test_report_creates_no_file_in_the_spool(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    monkeypatch.setattr(node.spool, "begin", opened.append, raising=False)

    report(node.port, KNOWN_TRANSACTION, {"2.25.2": 0})

    assert opened == []


def test_archive_may_report_and_store_in_one_association(node: Node) -> None:
    image = phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))
    association = _both(node)

    first = report_on(association, KNOWN_TRANSACTION, {"2.25.2": 0})
    stored = association.send_c_store(image).Status
    second = report_on(association, KNOWN_TRANSACTION, {"2.25.3": 0})
    association.release()

    assert (first, stored, second) == (0x0000, 0x0000, 0x0000)
    assert [each.committed for each in node.reports] == [{"2.25.2"}, {"2.25.3"}]


def test_reports_are_handled_in_the_thread_of_their_association(node: Node) -> None:
    association = call(node.port)
    for _ in range(5):
        report_on(association, KNOWN_TRANSACTION, {"2.25.2": 0})
    association.release()

    assert node.threads == {"association"}


def test_report_in_the_context_of_another_sop_class_is_refused(node: Node) -> None:
    association = _both(node)
    (image,) = (c for c in association.accepted_contexts if c.abstract_syntax == DX)

    status, _ = association.send_n_event_report(
        information(KNOWN_TRANSACTION, {"2.25.2": 0}),
        1,
        COMMITMENT,
        WELL_KNOWN,
        meta_uid=DX,
    )
    association.release()

    assert image.transfer_syntax == [ExplicitVRLittleEndian]
    assert status.Status == 0x0118
    assert node.reports == []


def test_object_listed_as_committed_and_as_failed_has_failed() -> None:
    dataset = information(KNOWN_TRANSACTION, {"2.25.2": 0x0110})
    dataset.ReferencedSOPSequence = dataset.FailedSOPSequence

    assert read_report(dataset) == Report(
        KNOWN_TRANSACTION, frozenset(), {"2.25.2": 0x0110}
    )


def test_failure_without_a_reason_has_reason_0() -> None:
    dataset = information(KNOWN_TRANSACTION, {"2.25.2": 0x0110})
    del dataset.FailedSOPSequence[0].FailureReason

    assert read_report(dataset).failed == {"2.25.2": 0}


def _status(node: Node, dataset: Dataset, event_type: int = 1) -> int:
    association = call(node.port)
    response, _ = association.send_n_event_report(
        dataset, event_type, COMMITMENT, WELL_KNOWN
    )
    association.release()
    return int(response.Status)


def _both(node: Node) -> Association:
    """Return an association of an archive for reports and for images."""
    ae = AE("ARCHIVE")
    ae.add_requested_context(COMMITMENT)
    ae.add_requested_context(DX, ExplicitVRLittleEndian)
    return ae.associate(
        "127.0.0.1",
        node.port,
        ae_title="FRACTURE_AI",
        ext_neg=[build_role(COMMITMENT, scp_role=True)],
    )


def _end(association: Association) -> None:
    if association.is_established:
        association.release()
