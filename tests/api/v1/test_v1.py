"""/api/v1: the worklist, studies, instances, pictures and downloads."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.dataset.part10 import read_part10
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.deliveries import StoredResult
from dicom_node.patient import Patient
from dicom_node.pixels.decode import DecodeOptions, decode
from dicom_node.reasons import Unanalyzed
from dicom_node.storage.tables import InstanceState
from inference.drawing.result_image import tinted
from tests.support.http_client import bearing
from tests.support.mutations import Encoding
from tests.support.review_site import REFUSED, STORED, Review

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("common_decoders"),
]

PROBLEM = "application/problem+json"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Review]:
    site = Review(tmp_path)
    yield site
    site.engine.dispose()
    site.close()


def test_worklist_contains_a_received_instance(site: Review) -> None:
    received = site.receive(1, Patient("Müller^Eva", "4711", "A-7"))
    site.answer(received, 0.75)
    site.record_outcome(received, STORED)

    body = site.get("/instances").json()

    (line,) = body.pop("instances")
    assert body == {"total": 1, "page": 1, "size": 50}
    assert line["id"] == received.id
    assert line["patient"] == {
        "name": "Müller, Eva",
        "patient_id": "4711",
        "accession_number": "A-7",
    }
    assert (line["state"], line["operating_point"]) == ("delivered", "definite")
    assert line["probability"] == 0.75
    assert line["seconds"] >= 0
    assert line["received_at"].endswith("Z")


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [3, 2, 1]),
        ("?q=jane", [3, 2, 1]),
        ("?q=P2", [2]),
        ("?state=failed", [2]),
        ("?state=failed&state=received", [3, 2]),
        ("?answer=none", []),
        ("?answer=definite&order=asc", [1, 2]),
        ("?since=2020-01-01T00:00:00Z&until=2999-01-01", [3, 2, 1]),
        ("?until=2020-01-01T00:00:00Z", []),
        ("?sender=ROOM1&destination=pacs", [2, 1]),
        ("?sort=probability&order=desc&size=1", [1]),
        ("?sort=probability&order=desc&size=1&page=2", [2]),
        (f"?id={1:032x}&id={3:032x}", [3, 1]),
    ],
)
def test_query_parameters_filter_and_sort_the_worklist(
    site: Review, query: str, numbers: list[int]
) -> None:
    one, two = site.receive(1), site.receive(2)
    for received, probability in ((one, 0.9), (two, 0.75)):
        site.answer(received, probability)
    site.record_outcome(one, STORED)
    site.record_outcome(two, REFUSED)
    site.receive(3)

    found = site.get(f"/instances{query}").json()["instances"]

    assert [int(line["id"], 16) for line in found] == numbers


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/instances?size=0", 400, "size"),
        ("/instances?state=lost", 400, "state"),
        ("/instances?q=%00", 400, "q"),
        ("/instances/nothing", 404, "no such instance"),
        (f"/instances/{7:032x}", 404, "no such instance"),
        ("/studies/1.2.3", 404, "no"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_failures_are_problem_details(
    site: Review, path: str, status: int, words: str
) -> None:
    response = site.get(path)

    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert words.lower() in problem["detail"].lower()


def test_unavailable_database_is_503(site: Review) -> None:
    site.receive(1)
    site.engine.dispose()
    site.app.state.engine.dispose()
    (site.directory / "node.sqlite").rename(site.directory / "elsewhere")
    (site.directory / "node.sqlite").mkdir()

    response = site.get("/instances")

    assert response.status_code == 503
    assert response.headers["content-type"] == PROBLEM
    assert "Doe" not in response.text


@pytest.mark.parametrize(
    "path",
    [
        "/instances",
        "/senders",
        "/studies",
        "/studies/1.2.3",
        "/instances/{}",
        "/instances/{}/picture",
        "/instances/{}/heatmap",
        "/instances/{}/attributes",
        "/instances/{}/original",
        "/instances/{}/results/2.25.1001",
    ],
)
@pytest.mark.parametrize("headers", [{}, bearing("x" * 43)])
def test_unauthenticated_client_gets_401(
    site: Review, path: str, headers: dict[str, str]
) -> None:
    received = site.receive(1)
    site.answer(received)

    response = site.get(path.format(received.id), headers)

    assert response.status_code == 401
    assert response.headers["content-type"] == PROBLEM
    assert "Doe" not in response.text


def test_state_is_analyzing_after_the_analysis_began(site: Review) -> None:
    waiting, begun = site.receive(20), site.receive(21)
    site.journal.analyses.begin(begun.id, 1)

    def ids(query: str) -> list[str]:
        return [each["id"] for each in site.get(query).json()["instances"]]

    assert site.get(f"/instances/{waiting.id}").json()["state"] == "received"
    assert site.get(f"/instances/{begun.id}").json()["state"] == "analyzing"
    assert begun.id in ids("/instances?state=analyzing")
    assert waiting.id not in ids("/instances?state=analyzing")
    assert waiting.id in ids("/instances?state=received&state=failed")
    assert begun.id not in ids("/instances?state=received&state=failed")
    assert {waiting.id, begun.id} <= set(
        ids("/instances?state=received&state=analyzing")
    )


def test_returned_result_is_shown_in_the_history_of_its_source(site: Review) -> None:
    source = site.receive(1)
    uid = site.answer(source)
    site.record_outcome(source, STORED)
    study = source.header.study_instance_uid
    capture = str(SecondaryCaptureImageStorage)
    returned = site.receive(
        2, sop_instance_uid=uid, study_instance_uid=study, sop_class_uid=capture
    )

    def listed(query: str = "") -> dict[str, str]:
        lines = site.get(f"/instances{query}").json()["instances"]
        return {line["id"]: line["state"] for line in lines}

    before = listed()
    reason = "A result of this software came back."
    own = Conclusion(
        InstanceState.NOT_ANALYZED, reason, counted_as=Unanalyzed.OWN_RESULT
    )
    site.journal.analyses.begin(returned.id, 1)
    site.journal.analyses.conclude(returned.id, 1, own)

    assert before == listed() == {source.id: "delivered"}
    assert listed("?state=not_analyzed") == {}
    assert listed("?state=returned") == {returned.id: "returned"}
    assert listed(f"?q={uid}") == {returned.id: "returned"}
    assert listed(f"?id={returned.id}") == {returned.id: "returned"}
    images = site.get(f"/studies/{study}").json()["instances"]
    assert [image["id"] for image in images] == [source.id]
    states = site.get("/node").json()["states"]
    assert states == {"delivered": 1, "returned": 1}
    events = site.get(f"/instances/{source.id}").json()["events"]
    assert ("came back", "Secondary Capture from ROOM1") in [
        (each["kind"], each["detail"]) for each in events
    ]
    assert site.get(f"/instances/{returned.id}").json()["reason"] == reason


def test_returned_result_without_a_source_is_listed_in_its_study(
    site: Review,
) -> None:
    returned = site.receive(2)
    own = Conclusion(InstanceState.NOT_ANALYZED, "", counted_as=Unanalyzed.OWN_RESULT)
    site.journal.analyses.conclude(returned.id, 1, own)

    study = site.get(f"/studies/{returned.header.study_instance_uid}").json()

    assert [image["state"] for image in study["instances"]] == ["returned"]
    assert site.get("/instances").json()["total"] == 0


def test_failed_instance_with_the_uid_of_a_result_is_listed(
    site: Review,
) -> None:
    uid = site.answer(site.receive(1))
    failed = site.receive(2, sop_instance_uid=uid)
    site.fail(failed, "damaged")

    assert failed.id in {
        each["id"] for each in site.get("/instances").json()["instances"]
    }


def test_instance_has_its_model_deliveries_and_events(site: Review) -> None:
    received = site.receive(1)
    uid = site.answer(received)
    site.record_outcome(received, REFUSED)

    body = site.get(f"/instances/{received.id}").json()

    assert body["state"] == "failed"
    assert body["model"] == {
        "name": "phantom-model",
        "version": "1.0",
        "doubtful": 0.25,
        "definite": 0.5,
    }
    assert body["drawing"] == {
        "rows": 300,
        "columns": 200,
        "tip": [100.0, 150.0],
        "tail": [20.0, 30.0],
        "locations": [
            {
                "tip": [100.0, 150.0],
                "tail": [20.0, 30.0],
                "score": 0.9,
                "operating_point": "definite",
            }
        ],
    }
    assert body["results"] == [{"sop_instance_uid": uid, "kind": "secondary_capture"}]
    (delivery,) = body["deliveries"]
    assert (delivery["destination"], delivery["state"]) == ("pacs", "failed")
    (sent,) = delivery["objects"]
    assert (sent["status"], sent["comment"]) == ("0xC000", REFUSED.comment)
    events = [(each["kind"], each["detail"]) for each in body["events"]]
    kinds = [kind for kind, _ in events]
    assert kinds == ["received", "analyzing", "analyzed", "failed"]
    words = f"pacs: Secondary Capture not stored: {REFUSED.comment}"
    assert events[-1] == ("failed", words)


def test_delivered_event_names_the_stored_object(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)
    site.record_outcome(received, STORED)

    event = site.get(f"/instances/{received.id}").json()["events"][-1]

    assert event["kind"] == "delivered"
    assert event["detail"] == "pacs: Secondary Capture stored (0x0000)"


def test_study_lists_its_instances(site: Review) -> None:
    for number in (1, 2):
        site.receive(number, study_instance_uid="1.2.3")
    site.receive(3)

    body = site.get("/studies/1.2.3").json()

    assert [int(line["id"], 16) for line in body["instances"]] == [1, 2]


def test_picture_equals_the_input_of_the_model(site: Review) -> None:
    received = site.receive(1)

    response = site.get(f"/instances/{received.id}/picture")

    shown = decoded(response.content)
    options = DecodeOptions(window=1, max_megapixels=100)
    seen = decode(read_part10(received.path, 10**8), options).pixels
    assert response.headers["content-type"] == "image/jpeg"
    assert shown.shape == seen.shape
    assert np.abs(shown.astype(int) - seen).mean() < 2  # JPEG is lossy
    assert float(response.headers["gray-black"]) < float(response.headers["gray-white"])


def decoded(content: bytes, flags: int = cv2.IMREAD_GRAYSCALE) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def test_picture_has_the_requested_window_and_size(site: Review) -> None:
    received = site.receive(1)
    path = f"/instances/{received.id}/picture"

    bright = site.get(f"{path}?low=-5000&high=0")
    dark = site.get(f"{path}?low=4096&high=8000")
    half = site.get(f"{path}?low=0&high=4095&long_side=150")

    assert decoded(bright.content).min() == 255
    assert decoded(dark.content).max() == 0
    assert decoded(half.content).shape == (150, 100)
    assert (half.headers["gray-black"], half.headers["gray-white"]) == ("0", "4095")
    # A window of half the width doubles the distance of a gray level from the middle.
    phantom = decoded(site.get(f"{path}?low=0&high=4095").content).astype(int)
    narrow = decoded(site.get(f"{path}?low=1024&high=3071").content).astype(int)
    inside = (phantom > 80) & (phantom < 175)
    stretched = (phantom - 127.5) * 4095 / 2047 + 127.5
    assert np.abs(narrow - stretched)[inside].mean() < 4


def test_heatmap_is_a_tinted_png(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)

    response = site.get(f"/instances/{received.id}/heatmap")

    png = cv2.cvtColor(
        decoded(response.content, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA
    )
    levels = np.zeros((30, 20), np.uint8)
    levels[10:20, 5:15] = 255
    assert png.tolist() == tinted(levels).tolist()
    assert png[0, 0, 3] == 0
    assert png[15, 10, 3] == 255


def test_attributes_are_listed_with_their_names_and_tags(site: Review) -> None:
    received = site.receive(1)

    attributes = site.get(f"/instances/{received.id}/attributes").json()

    by_name = {each["name"]: each for each in attributes}
    assert by_name["Rows"]["value"] == "300"
    assert by_name["Rows"]["tag"] == "(0028,0010)"
    assert by_name["PixelData"]["value"] == f"{300 * 200 * 2} bytes"
    assert by_name["PatientName"]["value"].startswith("PHANTOM")
    assert max(each["level"] for each in attributes) >= 1


@pytest.mark.parametrize("position", ["start", "sequence"])
def test_misplaced_group_2_elements_are_ignored(position: str, site: Review) -> None:
    received = site.receive(1)
    content = received.path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    pixels = content.index(b"\xe0\x7f\x10\0OW")
    encoding = Encoding(implicit=False, order="<")
    syntax = encoding.element(0x00020010, b"UI", b"1.2.840.10008.1.2.4.70")
    step = encoding.named("ScheduledProcedureStepDescription", b"Left leg")

    def written(before: bytes, within: bytes) -> bytes:
        item = encoding.item(within + step)
        sequence = encoding.named("RequestAttributesSequence", item)
        dataset = content[start:pixels] + sequence + content[pixels:]
        return content[:start] + before + dataset

    listed = []
    for before, within in (
        (b"", b""),
        {"start": (syntax, b"")}.get(position, (b"", syntax)),
    ):
        received.path.write_bytes(written(before, within))
        listed.append(site.get(f"/instances/{received.id}/attributes").json())

    assert listed[1] == listed[0]
    assert "Left leg" in [each["value"] for each in listed[0]]
    picture = site.get(f"/instances/{received.id}/picture?low=0&high=2000")
    assert picture.status_code == 200


def test_an_hl7_message_is_downloaded_as_such(site: Review) -> None:
    received = site.receive(1)
    site.journal.analyses.begin(received.id, 1)
    message = StoredResult("hl7_message", "", "2.25.7", "results/m.hl7")
    (site.directory / message.path).parent.mkdir(exist_ok=True)
    (site.directory / message.path).write_bytes(b"MSH|")
    ended = Conclusion(InstanceState.NOT_ANALYZED, "A chest.", notices=[message])
    site.journal.analyses.conclude(received.id, 1, ended)

    result = site.get(f"/instances/{received.id}/results/2.25.7")

    assert result.content == b"MSH|"
    assert result.headers["content-type"] == "x-application/hl7-v2+er7"
    assert 'filename="2.25.7.hl7"' in result.headers["content-disposition"]


def test_original_and_results_can_be_downloaded(site: Review) -> None:
    received = site.receive(1)
    uid = site.answer(received)

    original = site.get(f"/instances/{received.id}/original")
    result = site.get(f"/instances/{received.id}/results/{uid}")

    assert original.content == received.path.read_bytes()
    assert result.content == b"a result"
    named = original.headers["content-disposition"]
    assert received.header.sop_instance_uid in named
    assert site.get(f"/instances/{received.id}/results/2.25.9").status_code == 404


def test_picture_of_an_undecodable_file_is_422_with_a_reason(site: Review) -> None:
    received = site.receive(1)
    received.path.write_bytes(bytes(1000))

    response = site.get(f"/instances/{received.id}/picture")

    assert response.status_code == 422
    assert "DICOM" in response.json()["detail"]


def test_removed_file_is_410(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)
    received.path.unlink()

    for path in ("picture", "heatmap", "attributes", "original", "results/1.2"):
        assert site.get(f"/instances/{received.id}/{path}").status_code == 410


@pytest.mark.parametrize(
    "path", ["picture", "heatmap", "attributes", "original", "results/{}"]
)
def test_files_are_not_accessed_on_the_event_loop(
    site: Review, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = site.receive(1)
    uid = site.answer(received)
    blocking, real_stat = list[Path](), os.stat

    def stat(file: Any, *args: Any, **options: Any) -> os.stat_result:  # noqa: ANN401
        # There is a running loop only on the thread of the event loop.
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            blocking.append(Path(str(file)))
        return real_stat(file, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    response = site.get(f"/instances/{received.id}/{path.format(uid)}")

    assert response.status_code == 200
    assert [each for each in blocking if site.directory in each.parents] == []


def test_views_are_audited(site: Review) -> None:
    received = site.receive(1)

    site.get("/instances")
    site.get(f"/instances/{received.id}/picture")

    events = [(each.type, each.about) for each in site.events]
    assert events == [
        ("viewed", "/api/v1/instances"),
        ("viewed", f"/api/v1/instances/{received.id}"),
    ]


@pytest.mark.parametrize(
    ("query", "by"),
    [
        ("?q=Miller", "q"),
        ("?q=Miller&sender=CR7", "q, sender"),
        ("?state=failed&since=2026-01-01T00:00:00Z", "state, since"),
    ],
)
def test_search_is_audited_without_its_terms(site: Review, query: str, by: str) -> None:
    site.receive(1)

    assert site.get(f"/instances{query}").status_code == 200

    events = [(each.type, each.about) for each in site.events]
    assert events == [
        ("searched", f"/api/v1/instances by {by}"),
        ("viewed", "/api/v1/instances"),
    ]


@pytest.mark.parametrize("query", ["", "?q=&sender=", "?page=1&sort=received", "?id=1"])
def test_worklist_without_search_terms_is_not_audited_as_a_search(
    site: Review, query: str
) -> None:
    assert site.get(f"/instances{query}").status_code == 200

    assert [each.type for each in site.events] == ["viewed"]


def test_every_route_with_instance_data_is_audited(site: Review) -> None:
    """The routes that are not audited return no patient data and no image."""
    received = site.receive(1)
    values = {
        "instance_id": received.id,
        "study_instance_uid": received.header.study_instance_uid,
        "sop_instance_uid": site.answer(received),
    }

    unaudited = set()
    for path, methods in site.app.openapi()["paths"].items():
        if "get" in methods and path not in {"/api/v1/changes", "/metrics"}:
            site.events.clear()
            response = site.get(path.removeprefix("/api/v1").format(**values))
            if path.startswith("/api/v1"):
                assert response.status_code == 200, path
            if not site.events:
                unaudited.add(path)

    assert {each for each in unaudited if each.startswith("/api/v1")} == {
        "/api/v1/callers",
        "/api/v1/destinations",
        "/api/v1/figures",
        "/api/v1/modalities",
        "/api/v1/node",
        "/api/v1/senders",
    }
