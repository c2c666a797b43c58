"""The node with an Orthanc, wired both ways as docker-compose.yml does it."""

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from config.settings import ResultKind
from dicom_node.phantom_instance import phantom_dataset
from inference.phantom import draw_phantom
from tests.served import PATIENCE_S, counts, reasons, serving, wait_for

NODE = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[api]
port = 0
[[destinations]]
name = "orthanc"
type = "dicom"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
"""


@dataclass(frozen=True, slots=True)
class Orthanc:
    """A running Orthanc: its REST interface, and the port of its Storage SCP."""

    rest: httpx.Client
    dicom_port: int

    def upload(self, dataset: Dataset) -> dict[str, str]:
        """Upload an instance as its page does; gives Orthanc's own identifiers."""
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
        answer = self.rest.post("/instances", content=content.getvalue())
        return dict(answer.raise_for_status().json())

    def send(self, resource: str, modality: str) -> dict[str, Any]:
        """C-STORE a patient, study, series or instance to a modality, and wait."""
        order = {"Resources": [resource], "Synchronous": True}
        answer = self.rest.post(f"/modalities/{modality}/store", json=order)
        return dict(answer.raise_for_status().json())

    def instances(self, study: str) -> list[dict[str, Any]]:
        answer = self.rest.get(f"/studies/{study}/instances")
        return list(answer.raise_for_status().json())

    def file(self, instance: str) -> Dataset:
        answer = self.rest.get(f"/instances/{instance}/file").raise_for_status()
        return dcmread(io.BytesIO(answer.content))

    def is_up(self) -> bool:
        try:
            return self.rest.get("/system").is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def orthanc(
    tmp_path: Path, peer: Callable[[str], str], new_port: Callable[[], int]
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
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    address = f"http://127.0.0.1:{http_port}"
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([peer("Orthanc"), str(path)], stderr=log) as process,
        httpx.Client(base_url=address, timeout=PATIENCE_S) as rest,
    ):
        orthanc = Orthanc(rest, dicom_port)
        try:
            wait_for(orthanc.is_up)
            yield orthanc
        finally:
            process.terminate()


@pytest.mark.orthanc
def test_a_study_in_orthanc_gets_its_capture_and_the_capture_is_not_analyzed_again(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(NODE.format(port=orthanc.dicom_port))
    source = phantom_dataset(draw_phantom(broken=True))
    uploaded = orthanc.upload(source)

    with serving(config) as node:
        us = ["FRACTURE_AI", "127.0.0.1", node.address.port]
        orthanc.rest.put("/modalities/fracture-node", json=us).raise_for_status()
        sent = orthanc.send(uploaded["ID"], "fracture-node")
        wait_for(lambda: len(orthanc.instances(uploaded["ParentStudy"])) == 2)
        (result,) = [
            each
            for each in orthanc.instances(uploaded["ParentStudy"])
            if each["ID"] != uploaded["ID"]
        ]
        capture = orthanc.file(result["ID"])
        wait_for(lambda: counts(config) == {"delivered": 1})

        sent_back = orthanc.send(result["ParentSeries"], "fracture-node")
        wait_for(lambda: counts(config) == {"delivered": 1, "not_analyzed": 1})
        assert len(orthanc.instances(uploaded["ParentStudy"])) == 2

    (stored,) = (tmp_path / "node" / "results").glob("*.dcm")
    ours = dcmread(stored)
    assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (1, 0)
    assert (sent_back["InstancesCount"], sent_back["FailedInstancesCount"]) == (1, 0)
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    assert capture == ours
    assert np.array_equal(capture.pixel_array, ours.pixel_array)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID"):
        assert capture[keyword] == source[keyword]
    (reason,) = reasons(config, str(capture.SOPInstanceUID))
    assert "result of this software came back" in reason


@pytest.mark.orthanc
def test_all_kinds_lie_beside_each_other_where_they_are_asked_for(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    kinds = list(get_args(ResultKind))
    config.write_text(NODE.format(port=orthanc.dicom_port) + f"results = {kinds}")
    source = phantom_dataset(draw_phantom(broken=True))
    uploaded = orthanc.upload(source)

    with serving(config) as node:
        us = ["FRACTURE_AI", "127.0.0.1", node.address.port]
        orthanc.rest.put("/modalities/fracture-node", json=us).raise_for_status()
        orthanc.send(uploaded["ID"], "fracture-node")
        wait_for(lambda: counts(config) == {"delivered": 1})

    study = orthanc.instances(uploaded["ParentStudy"])
    stored = {
        each.Modality: each for each in map(orthanc.file, (i["ID"] for i in study))
    }
    assert set(stored) == {"DX", "OT", "PR", "SR", "SEG"}
    state = stored["PR"]
    (image,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    results = [*map(dcmread, (tmp_path / "node" / "results").glob("*.dcm"))]
    assert all(stored[modality] in results for modality in ("OT", "PR", "SR", "SEG"))
    heatmap = stored["SEG"]
    (ours,) = [each for each in results if each.Modality == "SEG"]
    assert heatmap.pixel_array.shape == source.pixel_array.shape
    assert np.array_equal(heatmap.pixel_array, ours.pixel_array)
    assert heatmap.pixel_array.max() > 250
