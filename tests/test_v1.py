"""/api/v1: what the review page is told."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.analyses import Conclusion
from dicom_node.decode import DecodeOptions, decode
from dicom_node.part10 import read_part10
from dicom_node.patient import Patient
from dicom_node.reasons import Unanalyzed
from dicom_node.tables import InstanceState
from inference.overlay import tinted
from tests.asking import bearing
from tests.mutations import Encoding
from tests.reviewed import REFUSED, STORED, Review

PROBLEM = "application/problem+json"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Review]:
    site = Review(tmp_path)
    yield site
    site.engine.dispose()
    site.app.state.desk.close()


def test_the_worklist_has_what_came(site: Review) -> None:
    received = site.receive(1, Patient("Müller^Eva", "4711", "A-7"))
    site.answer(received, 0.75)
    site.settle(received, STORED)

    told = site.get("/instances").json()

    (line,) = told.pop("instances")
    assert told == {"total": 1, "page": 1, "size": 50}
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
    ("asked", "numbers"),
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
def test_the_address_says_what_is_looked_for(
    site: Review, asked: str, numbers: list[int]
) -> None:
    one, two = site.receive(1), site.receive(2)
    for received, probability in ((one, 0.9), (two, 0.75)):
        site.answer(received, probability)
    site.settle(one, STORED)
    site.settle(two, REFUSED)
    site.receive(3)

    found = site.get(f"/instances{asked}").json()["instances"]

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
    answer = site.get(path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    told = answer.json()
    assert set(told) == {"type", "title", "status", "detail"}
    assert told["status"] == status
    assert words.lower() in told["detail"].lower()


def test_a_database_that_is_away_is_said_to_be(site: Review) -> None:
    site.receive(1)
    site.engine.dispose()
    site.app.state.desk.engine.dispose()
    (site.directory / "node.sqlite").rename(site.directory / "elsewhere")
    (site.directory / "node.sqlite").mkdir()

    answer = site.get("/instances")

    assert answer.status_code == 503
    assert answer.headers["content-type"] == PROBLEM
    assert "Doe" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/instances",
        "/senders",
        "/studies/1.2.3",
        "/instances/{}",
        "/instances/{}/picture",
        "/instances/{}/heatmap",
        "/instances/{}/attributes",
        "/instances/{}/original",
        "/instances/{}/results/2.25.1001",
    ],
)
@pytest.mark.parametrize("shown", [{}, bearing("x" * 43)])
def test_strangers_see_nothing(site: Review, path: str, shown: dict[str, str]) -> None:
    received = site.receive(1)
    site.answer(received)

    answer = site.get(path.format(received.id), shown)

    assert answer.status_code == 401
    assert answer.headers["content-type"] == PROBLEM
    assert "Doe" not in answer.text


def test_an_instance_is_being_analyzed_from_when_that_begins(site: Review) -> None:
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


def test_a_result_that_came_back_is_shown_with_its_source(site: Review) -> None:
    source = site.receive(1)
    uid = site.answer(source)
    site.settle(source, STORED)
    study = source.header.study_instance_uid
    capture = str(SecondaryCaptureImageStorage)
    back = site.receive(
        2, sop_instance_uid=uid, study_instance_uid=study, sop_class_uid=capture
    )

    def listed(query: str = "") -> dict[str, str]:
        lines = site.get(f"/instances{query}").json()["instances"]
        return {line["id"]: line["state"] for line in lines}

    before = listed()
    why = "A result of this software came back."
    own = Conclusion(InstanceState.NOT_ANALYZED, why, counted_as=Unanalyzed.OWN_RESULT)
    site.journal.analyses.begin(back.id, 1)
    site.journal.analyses.conclude(back.id, 1, own)

    assert before == listed() == {source.id: "delivered"}
    assert listed("?state=not_analyzed") == {}
    assert listed("?state=returned") == {back.id: "returned"}
    assert listed(f"?q={uid}") == {back.id: "returned"}
    assert listed(f"?id={back.id}") == {back.id: "returned"}
    images = site.get(f"/studies/{study}").json()["instances"]
    assert [image["id"] for image in images] == [source.id]
    states = site.get("/node").json()["states"]
    assert states == {"delivered": 1, "returned": 1}
    events = site.get(f"/instances/{source.id}").json()["events"]
    assert ("came back", "Secondary Capture from ROOM1") in [
        (each["kind"], each["detail"]) for each in events
    ]
    assert site.get(f"/instances/{back.id}").json()["reason"] == why


def test_a_result_that_came_back_without_its_source_is_in_its_study(
    site: Review,
) -> None:
    back = site.receive(2)
    own = Conclusion(InstanceState.NOT_ANALYZED, "", counted_as=Unanalyzed.OWN_RESULT)
    site.journal.analyses.conclude(back.id, 1, own)

    study = site.get(f"/studies/{back.header.study_instance_uid}").json()

    assert [image["state"] for image in study["instances"]] == ["returned"]
    assert site.get("/instances").json()["total"] == 0


def test_what_comes_under_the_uid_of_a_result_and_fails_is_not_hidden(
    site: Review,
) -> None:
    uid = site.answer(site.receive(1))
    odd = site.receive(2, sop_instance_uid=uid)
    site.fail(odd, "damaged")

    assert odd.id in {each["id"] for each in site.get("/instances").json()["instances"]}


def test_an_instance_has_a_history(site: Review) -> None:
    received = site.receive(1)
    uid = site.answer(received)
    site.settle(received, REFUSED)

    told = site.get(f"/instances/{received.id}").json()

    assert told["state"] == "failed"
    assert told["model"] == {
        "name": "phantom-model",
        "version": "1.0",
        "doubtful": 0.25,
        "definite": 0.5,
    }
    assert told["drawing"] == {
        "rows": 300,
        "columns": 200,
        "tip": [100.0, 150.0],
        "tail": [20.0, 30.0],
    }
    assert told["results"] == [{"sop_instance_uid": uid, "kind": "secondary_capture"}]
    (delivery,) = told["deliveries"]
    assert (delivery["destination"], delivery["state"]) == ("pacs", "failed")
    (sent,) = delivery["objects"]
    assert (sent["status"], sent["comment"]) == ("0xC000", REFUSED.comment)
    events = [(each["kind"], each["detail"]) for each in told["events"]]
    kinds = [kind for kind, _ in events]
    assert kinds == ["received", "analyzing", "analyzed", "failed"]
    words = f"pacs: Secondary Capture not stored: {REFUSED.comment}"
    assert events[-1] == ("failed", words)


def test_the_timeline_names_the_objects_that_were_stored(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)
    site.settle(received, STORED)

    event = site.get(f"/instances/{received.id}").json()["events"][-1]

    assert event["kind"] == "delivered"
    assert event["detail"] == "pacs: Secondary Capture stored (0x0000)"


def test_a_study_has_its_images(site: Review) -> None:
    for number in (1, 2):
        site.receive(number, study_instance_uid="1.2.3")
    site.receive(3)

    told = site.get("/studies/1.2.3").json()

    assert [int(line["id"], 16) for line in told["instances"]] == [1, 2]


def test_the_picture_is_what_the_model_saw(site: Review) -> None:
    received = site.receive(1)

    answer = site.get(f"/instances/{received.id}/picture")

    shown = decoded(answer.content)
    options = DecodeOptions(window=1, max_megapixels=100)
    seen = decode(read_part10(received.path, 10**8), options).pixels
    assert answer.headers["content-type"] == "image/jpeg"
    assert shown.shape == seen.shape
    assert np.abs(shown.astype(int) - seen).mean() < 2  # JPEG
    assert float(answer.headers["gray-black"]) < float(answer.headers["gray-white"])


def decoded(content: bytes, how: int = cv2.IMREAD_GRAYSCALE) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), how)


def test_the_picture_takes_another_window_and_size(site: Review) -> None:
    received = site.receive(1)
    path = f"/instances/{received.id}/picture"

    bright = site.get(f"{path}?low=-5000&high=0")
    dark = site.get(f"{path}?low=4096&high=8000")
    half = site.get(f"{path}?low=0&high=4095&long_side=150")

    assert decoded(bright.content).min() == 255
    assert decoded(dark.content).max() == 0
    assert decoded(half.content).shape == (150, 100)
    assert (half.headers["gray-black"], half.headers["gray-white"]) == ("0", "4095")
    # Half way between the ends is half way between black and white.
    phantom = decoded(site.get(f"{path}?low=0&high=4095").content).astype(int)
    narrow = decoded(site.get(f"{path}?low=1024&high=3071").content).astype(int)
    inside = (phantom > 80) & (phantom < 175)
    stretched = (phantom - 127.5) * 4095 / 2047 + 127.5
    assert np.abs(narrow - stretched)[inside].mean() < 4


def test_the_heatmap_is_a_tint(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)

    answer = site.get(f"/instances/{received.id}/heatmap")

    png = cv2.cvtColor(
        decoded(answer.content, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA
    )
    levels = np.zeros((30, 20), np.uint8)
    levels[10:20, 5:15] = 255
    assert png.tolist() == tinted(levels).tolist()
    assert png[0, 0, 3] == 0
    assert png[15, 10, 3] == 255


def test_attributes_are_listed_with_their_names(site: Review) -> None:
    received = site.receive(1)

    told = site.get(f"/instances/{received.id}/attributes").json()

    by_name = {each["name"]: each for each in told}
    assert by_name["Rows"]["value"] == "300"
    assert by_name["Rows"]["tag"] == "(0028,0010)"
    assert by_name["PixelData"]["value"] == f"{300 * 200 * 2} bytes"
    assert by_name["PatientName"]["value"].startswith("PHANTOM")
    assert max(each["level"] for each in told) >= 1


@pytest.mark.parametrize("place", ["start", "sequence"])
def test_elements_that_are_no_part_of_the_dataset_change_nothing(
    place: str, site: Review
) -> None:
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
        {"start": (syntax, b"")}.get(place, (b"", syntax)),
    ):
        received.path.write_bytes(written(before, within))
        listed.append(site.get(f"/instances/{received.id}/attributes").json())

    assert listed[1] == listed[0]
    assert "Left leg" in [each["value"] for each in listed[0]]
    picture = site.get(f"/instances/{received.id}/picture?low=0&high=2000")
    assert picture.status_code == 200


def test_original_and_results_can_be_taken_along(site: Review) -> None:
    received = site.receive(1)
    uid = site.answer(received)

    original = site.get(f"/instances/{received.id}/original")
    result = site.get(f"/instances/{received.id}/results/{uid}")

    assert original.content == received.path.read_bytes()
    assert result.content == b"a result"
    named = original.headers["content-disposition"]
    assert received.header.sop_instance_uid in named
    assert site.get(f"/instances/{received.id}/results/2.25.9").status_code == 404


def test_what_has_no_picture_says_why(site: Review) -> None:
    received = site.receive(1)
    received.path.write_bytes(bytes(1000))

    answer = site.get(f"/instances/{received.id}/picture")

    assert answer.status_code == 422
    assert "DICOM" in answer.json()["detail"]


def test_what_was_removed_is_gone(site: Review) -> None:
    received = site.receive(1)
    site.answer(received)
    received.path.unlink()

    for what in ("picture", "heatmap", "attributes", "original", "results/1.2"):
        assert site.get(f"/instances/{received.id}/{what}").status_code == 410


def test_who_looked_is_told(site: Review) -> None:
    received = site.receive(1)

    site.get("/instances")
    site.get(f"/instances/{received.id}/picture")

    told = [(each.what, each.about) for each in site.told]
    assert told == [
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
def test_a_search_is_audited_without_its_words(
    site: Review, query: str, by: str
) -> None:
    site.receive(1)

    assert site.get(f"/instances{query}").status_code == 200

    told = [(each.what, each.about) for each in site.told]
    assert told == [
        ("searched", f"/api/v1/instances by {by}"),
        ("viewed", "/api/v1/instances"),
    ]


@pytest.mark.parametrize("query", ["", "?q=&sender=", "?page=1&sort=received", "?id=1"])
def test_a_worklist_without_words_is_no_search(site: Review, query: str) -> None:
    assert site.get(f"/instances{query}").status_code == 200

    assert [each.what for each in site.told] == ["viewed"]


def test_every_route_that_answers_about_instances_is_audited(site: Review) -> None:
    """The others name no patient and no image; the stream of changes has only ids."""
    received = site.receive(1)
    values = {
        "instance_id": received.id,
        "study_instance_uid": received.header.study_instance_uid,
        "sop_instance_uid": site.answer(received),
    }

    unaudited = set()
    for path, methods in site.app.openapi()["paths"].items():
        if "get" in methods and path not in {"/api/v1/changes", "/metrics"}:
            site.told.clear()
            answer = site.get(path.removeprefix("/api/v1").format(**values))
            if path.startswith("/api/v1"):
                assert answer.status_code == 200, path
            if not site.told:
                unaudited.add(path)

    assert {each for each in unaudited if each.startswith("/api/v1")} == {
        "/api/v1/callers",
        "/api/v1/destinations",
        "/api/v1/figures",
        "/api/v1/modalities",
        "/api/v1/node",
        "/api/v1/senders",
    }
