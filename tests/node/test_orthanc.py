"""A node and an Orthanc exchange images and results over DICOM.

The AE titles are those of docker-compose.yml. In one test, the results go to Orthanc
over DICOMweb.
"""

import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import SecondaryCaptureImageStorage

from config.destinations import ResultKind
from config.settings import load
from dicom_node.delivery.c_store import send
from dicom_node.delivery.n_action import request_commitment
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.network.sockets import listen
from dicom_node.network.storage_commitment import Report, Request
from dicom_node.outcome import Verdict
from dicom_node.receiver.server import start_receiver
from dicom_node.storage.database import open_engine
from dicom_node.storage.spool import Spool
from dicom_node.storage.tables import delivered_object
from inference.phantom.long_bone import draw_phantom
from tests.support.node import PATIENCE_S, counts, reasons, serving, states, wait_for

pytestmark = pytest.mark.acceptance

ALL_KINDS = [each for each in get_args(ResultKind) if "exam" not in each]
NODE = f"""
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
[[destinations]]
name = "orthanc"
type = "dicom"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {{port}}
results = {ALL_KINDS}
commitment = true
"""

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER = ("node", "pässwörd")
WEB = f"""
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
processes = 0
[[destinations]]
name = "web"
type = "stow"
url = "{{url}}"
username = "node"
password_env = "ORTHANC_PASSWORD"
results = {ALL_KINDS}
"""


@dataclass(frozen=True, slots=True)
class Orthanc:
    """A running Orthanc: its REST interface, and the port of its Storage SCP."""

    rest: httpx.Client
    dicom_port: int

    def upload(self, dataset: Dataset) -> dict[str, str]:
        """Upload an instance; return the identifiers that Orthanc gave it."""
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
        response = self.rest.post("/instances", content=content.getvalue())
        return dict(response.raise_for_status().json())

    def send(self, resource: str, modality: str) -> dict[str, Any]:
        """Make Orthanc send a resource to a modality by C-STORE; return the counts.

        The counts are those of the JSON response of Orthanc.
        """
        order = {"Resources": [resource], "Synchronous": True}
        response = self.rest.post(f"/modalities/{modality}/store", json=order)
        return dict(response.raise_for_status().json())

    def instances(self, study: str) -> list[dict[str, Any]]:
        response = self.rest.get(f"/studies/{study}/instances")
        return list(response.raise_for_status().json())

    def file(self, instance: str) -> Dataset:
        response = self.rest.get(f"/instances/{instance}/file").raise_for_status()
        return dcmread(io.BytesIO(response.content))

    def is_up(self) -> bool:
        try:
            return self.rest.get("/system").is_success
        except httpx.TransportError:
            return False


@dataclass(frozen=True, slots=True)
class Hospital:
    """A node and an Orthanc that are configured for each other."""

    orthanc: Orthanc
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    def analyzed(self, source: Dataset) -> dict[str, Dataset]:
        """Send an instance from Orthanc to the node, and wait for the results.

        Returns:
            All objects of its study in Orthanc, by modality.
        """
        uploaded = self.orthanc.upload(source)
        sent = self.orthanc.send(uploaded["ID"], "fracture-node")
        assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (1, 0)
        uid, study = str(source.SOPInstanceUID), uploaded["ParentStudy"]
        wait_for(lambda: states(self.config, uid) == ["delivered"])
        files = [self.orthanc.file(e["ID"]) for e in self.orthanc.instances(study)]
        assert len(files) == 1 + len(ALL_KINDS)
        return {str(each.Modality): each for each in files}

    def results(self) -> list[Dataset]:
        """Return all results on the disk of the node."""
        return [*map(dcmread, (self.folder / "node" / "results").glob("*.dcm"))]


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory,
    peer: Callable[[str], str],
    new_port: Callable[[], int],
) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    with started(folder, peer, new_port, {"AuthenticationEnabled": False}) as orthanc:
        hospital = Hospital(orthanc, folder)
        hospital.config.write_text(NODE.format(port=orthanc.dicom_port))
        with serving(hospital.config) as node:
            modality = ["FRACTURE_AI", "127.0.0.1", node.address.port]
            orthanc.rest.put(
                "/modalities/fracture-node", json=modality
            ).raise_for_status()
            yield hospital


@pytest.fixture
def orthanc(
    tmp_path: Path, peer: Callable[[str], str], new_port: Callable[[], int]
) -> Iterator[Orthanc]:
    with started(tmp_path, peer, new_port, {"AuthenticationEnabled": False}) as orthanc:
        yield orthanc


@pytest.fixture
def orthanc_web(
    tmp_path: Path, peer: Callable[[str], str], new_port: Callable[[], int]
) -> Iterator[Orthanc]:
    """Yield an Orthanc with its DICOMweb plug-in and a user with a password."""
    if not PLUGIN.exists() and os.environ.get("CI"):
        pytest.fail(f"{PLUGIN} is absent, and CI must install every peer")
    if not PLUGIN.exists():
        pytest.skip(f"{PLUGIN} is absent")
    web = {
        "AuthenticationEnabled": True,
        "RegisteredUsers": dict([USER]),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    with started(tmp_path, peer, new_port, web) as orthanc:
        yield orthanc


@contextmanager
def started(
    tmp_path: Path,
    peer: Callable[[str], str],
    new_port: Callable[[], int],
    options: dict[str, Any],
) -> Iterator[Orthanc]:
    http_port, dicom_port = new_port(), new_port()
    folder = tmp_path / "orthanc"
    folder.mkdir()
    configuration = {
        "Name": "ORTHANC",
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "DicomAlwaysAllowStore": True,
        "HttpPort": http_port,
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "Plugins": [],
        **options,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    address = f"http://127.0.0.1:{http_port}"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([peer("Orthanc"), str(path)], stderr=log) as process,
        httpx.Client(base_url=address, auth=USER, timeout=PATIENCE_S) as rest,
    ):
        orthanc = Orthanc(rest, dicom_port)
        try:
            wait_for(orthanc.is_up)
            yield orthanc
        finally:
            process.terminate()


@pytest.mark.orthanc
def test_results_of_all_kinds_are_stored_and_not_analyzed_if_they_return(
    hospital: Hospital,
) -> None:
    source = phantom_dataset(draw_phantom(broken=True))

    stored = hospital.analyzed(source)

    assert set(stored) == {"DX", "OT", "PR", "SR", "SEG"}
    own = {str(each.SOPInstanceUID): each for each in hospital.results()}
    for modality in ("OT", "PR", "SR", "SEG"):
        assert stored[modality] == own[stored[modality].SOPInstanceUID]
    capture, state, heatmap = stored["OT"], stored["PR"], stored["SEG"]
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID"):
        assert capture[keyword] == source[keyword]
    kept = own[capture.SOPInstanceUID], own[heatmap.SOPInstanceUID]
    for each, result in zip((capture, heatmap), kept, strict=True):
        assert np.array_equal(each.pixel_array, result.pixel_array)
    (image,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert heatmap.pixel_array.shape == source.pixel_array.shape
    assert heatmap.pixel_array.max() > 250

    rest = hospital.orthanc.rest
    (series,) = rest.post("/tools/lookup", content=capture.SeriesInstanceUID).json()
    sent_back = hospital.orthanc.send(series["ID"], "fracture-node")
    uid = str(capture.SOPInstanceUID)
    wait_for(lambda: states(hospital.config, uid) == ["not_analyzed"])

    assert (sent_back["InstancesCount"], sent_back["FailedInstancesCount"]) == (1, 0)
    (reason,) = reasons(hospital.config, uid)
    assert "result of this software came back" in reason
    (study,) = rest.post("/tools/lookup", content=source.StudyInstanceUID).json()
    assert len(hospital.orthanc.instances(study["ID"])) == 1 + len(ALL_KINDS)


@pytest.mark.orthanc
def test_orthanc_reports_storage_commitment_on_a_separate_association(
    hospital: Hospital,
) -> None:
    hospital.analyzed(phantom_dataset(draw_phantom(broken=True)))

    log = (hospital.folder / "log").read_text()
    assert re.search(r"receiver INFO ORTHANC at \S+ reports: 4 committed, 0 not", log)


@pytest.mark.orthanc
def test_results_are_stored_over_dicomweb_after_the_password_is_corrected(
    orthanc_web: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(orthanc_web.rest.base_url.join("/dicom-web"))
    config = tmp_path / "node.toml"
    config.write_text(WEB.format(url=url))
    source = phantom_dataset(draw_phantom(broken=True))
    path = tmp_path / "source.dcm"
    source.save_as(path, enforce_file_format=True)
    orthanc_web.upload(source)

    monkeypatch.setenv("ORTHANC_PASSWORD", "wrong")
    with serving(config) as node:
        (outcome,) = send([path], node.address, calling_ae_title="TEST")
        wait_for(lambda: "HTTP 401" in last_comments(config))
        refused = counts(config), last_comments(config)
        assert node.stop() == 0
    monkeypatch.setenv("ORTHANC_PASSWORD", USER[1])
    with serving(config):
        wait_for(lambda: counts(config) == {"delivered": 1})

    assert refused[0] == {"delivering": 1}
    assert "check ORTHANC_PASSWORD" in refused[1]
    assert "wrong" not in (tmp_path / "log").read_text()
    # Another client reads the study over WADO-RS.
    session = create_session()
    session.auth = (USER[0].encode(), USER[1].encode())
    with session:
        client = DICOMwebClient(url, session)
        found = client.retrieve_study(source.StudyInstanceUID)
    stored = {each.Modality: each for each in found}
    results = [*map(dcmread, (tmp_path / "node" / "results").glob("*.dcm"))]
    assert outcome.verdict is Verdict.STORED
    assert len(found) == 1 + len(ALL_KINDS)
    assert set(stored) == {"DX", "OT", "PR", "SR", "SEG"}
    assert len(results) == 4
    for result in results:
        assert stored[result.Modality] == result
    (capture,) = (each for each in results if each.Modality == "OT")
    assert np.array_equal(stored["OT"].pixel_array, capture.pixel_array)


def last_comments(config: Path) -> str:
    """Return the last comment of the destination on each object, joined by "; "."""
    engine = open_engine(load(config, {}).storage.database_url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(delivered_object.select()).all()
        return "; ".join(row.comment for row in rows)
    finally:
        engine.dispose()


# Names of PS3.5 annexes H to K and others, encoded in their character sets.
NAMES = {
    "ISO_IR 127": "قباني^لنزار".encode("iso8859-6"),
    "\\ISO 2022 IR 87": (
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
        b"=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
    ),
    "\\ISO 2022 IR 149": (
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"
        b"=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
    ),
    "ISO_IR 144": "\u041b\u044e\u043a\u0441^\u042f\u043d".encode("iso8859-5"),
    "GB18030": "Wang^XiaoDong=王^小东".encode("gb18030"),
}


@pytest.mark.orthanc
@pytest.mark.parametrize("character_set", NAMES)
def test_names_in_results_are_unchanged_in_any_character_set(
    hospital: Hospital, character_set: str
) -> None:
    name = NAMES[character_set]
    source = phantom_dataset(draw_phantom(broken=True, rows=600, columns=480))
    source.SpecificCharacterSet = character_set.split("\\")
    padded = name + b" " * (len(name) % 2)
    raw = partial(RawDataElement, Tag("PatientName"), "PN", len(padded), padded)
    source[0x00100010] = raw(0, is_implicit_VR=False, is_little_endian=True)

    for each in hospital.analyzed(source).values():
        element = each.get_item("PatientName")
        assert element.value.rstrip(b" ") == name, each.Modality
        sets = each["SpecificCharacterSet"].value
        assert "\\".join([sets] if isinstance(sets, str) else sets) == character_set


@pytest.mark.orthanc
def test_orthanc_does_not_commit_to_objects_that_it_does_not_have(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    reports: Queue[Report] = Queue()
    settings = load(None, {})
    storage = settings.storage.model_copy(update={"directory": tmp_path / "node"})
    receiver = start_receiver(
        settings.receiver,
        Spool(storage),
        lambda _: None,
        {listen("127.0.0.1", 0): None},
        record_report=lambda report, _: reports.put(report),
    )
    modality = ["FRACTURE_AI", "127.0.0.1", receiver.port]
    orthanc.rest.put("/modalities/fracture-node", json=modality).raise_for_status()
    pacs = settings.destinations[0].model_copy(update={"port": orthanc.dicom_port})
    request = Request("2.25.1", ((SecondaryCaptureImageStorage, "2.25.404"),))

    outcome = request_commitment(
        request,
        pacs,
        calling_ae_title="FRACTURE_AI",
        timeout_s=PATIENCE_S,
        record_report=lambda report, _: reports.put(report),
    )
    report = reports.get(timeout=PATIENCE_S)
    receiver.drain(PATIENCE_S)

    assert outcome.verdict is Verdict.STORED
    assert report == Report("2.25.1", frozenset(), {"2.25.404": 0x0112})
