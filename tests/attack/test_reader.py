"""Forged commitment reports, and patient data in the log."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, build_role

from config.settings import load
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine
from tests.attack.assault import note
from tests.attack.target import Target
from tests.attack.wire import ATTACKER
from tests.support.commitment_archive import COMMITMENT, Committing, report_on
from tests.support.node import wait_for

pytestmark = pytest.mark.attack

COMMITTING = """
[[destinations]]
name = "committing"
type = "dicom"
ae_title = "COMMITTER"
host = "127.0.0.1"
port = {port}
commitment = true
"""
REFUSED = 0x0112  # no such object instance: the archive does not have it


@pytest.fixture
def archive() -> Iterator[Committing]:
    archive = Committing()
    archive.start()
    yield archive
    archive.stop()


@pytest.mark.parametrize(("name", "reason"), [("commits", 0), ("refuses", REFUSED)])
@pytest.mark.parametrize("title", ["INTRUDER", "COMMITTER"])
def test_forged_commitment_report_does_not_complete_a_delivery(
    archive: Committing, name: str, reason: int, title: str
) -> None:
    """The report has the right Transaction UID and comes from another address."""
    seen = note(9, f"{title} at another address {name}")
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        target = Target(Path(folder), COMMITTING.format(port=archive.port))
        try:
            target.node.start()
            path, _ = target.image()
            assert target.store(path)
            wait_for(lambda: archive.asked != [] and "committing" in states(target))
            requested = archive.asked[-1]
            reasons = {uid: reason for _, uid in requested.objects}
            status = forge(target, title, requested.transaction, reasons)
            found = states(target)
            is_logged = requested.transaction in target.log
        finally:
            target.close()

    seen.note = f"status {status}; deliveries are {', '.join(sorted(found))}"
    seen.expect("committing" in found, "the node accepts the forged report")
    seen.expect(not is_logged, "the Transaction UID is in the log")
    seen.check()


def forge(target: Target, title: str, transaction: str, reasons: dict[str, int]) -> str:
    """Send a forged commitment report; return the status of the response as text.

    The report comes from the attacker's address. If no association is
    established, the text is "no association".
    """
    ae = AE(title)
    ae.dimse_timeout = ae.acse_timeout = ae.network_timeout = 10
    ae.add_requested_context(COMMITMENT)
    association = ae.associate(
        "127.0.0.1",
        target.receiver,
        ae_title="FRACTURE_AI",
        ext_neg=[build_role(COMMITMENT, scu_role=False, scp_role=True)],
        bind_address=(ATTACKER, 0),
    )
    if not association.is_established:
        return "no association"
    try:
        return f"{report_on(association, transaction, reasons):#06x}"
    finally:
        association.release()


def states(target: Target) -> set[str]:
    """Return the states of the node's deliveries."""
    engine = open_engine(load(target.config, {"PACS_TOKEN": ""}).storage.database_url)
    try:
        return {each.state for each in History(engine).deliveries()}
    finally:
        engine.dispose()


def test_log_contains_no_patient_data(target: Target) -> None:
    seen = note(12, "a reader of the log")
    target.turnaround(PatientName="Unmistakable^Name", PatientID="UNMISTAKABLE")

    seen.expect(
        "nmistakable" not in target.log.lower(), "the log contains a patient name"
    )
    plain = [line for line in target.log.splitlines() if not line.startswith("{")]
    seen.expect(not plain, f"{len(plain)} lines of the log are not JSON")
    seen.check()
