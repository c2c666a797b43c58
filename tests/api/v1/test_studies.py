"""/api/v1: examinations, and the summaries of examinations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.audit.event import AuditEventType
from dicom_node.patient import Patient
from tests.support.examination_rows import examine, summarize
from tests.support.review_site import STORED, Review

pytestmark = pytest.mark.integration


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Review]:
    site = Review(tmp_path)
    yield site
    site.engine.dispose()
    site.close()


ANNA = Patient("Schmidt^Anna", "4711", "A-1")


def two_examinations(site: Review) -> list[str]:
    """Add two examinations; return their ids.

    The first has three images of Anna. Two of them have an answer, and one is not
    analyzed. The summary of the first examination waits. The second examination has one
    image without an answer.
    """
    images = [
        site.receive(number, ANNA, study_instance_uid="1.2.3", body_part=part)
        for number, part in ((1, "HAND"), (2, "WRIST"), (3, "HAND"))
    ]
    for received, probability in zip(images, (0.02, 0.9), strict=False):
        site.answer(received, probability)
        site.record_outcome(received, STORED)
    site.refuse(images[2], "This is a chest.")
    other = site.receive(4, study_instance_uid="1.2.4")
    found = [
        examine(site.engine, [each.id for each in images], due_at=1.0e9, revision=1),
        examine(site.engine, [other.id]),
    ]
    summarize(site.engine, found[0])
    return found


def test_worklist_lists_examinations(site: Review) -> None:
    anna, other = two_examinations(site)

    body = site.get("/studies").json()

    second, first = body.pop("examinations")
    assert body == {"total": 2, "page": 1, "size": 50}
    assert (second["id"], second["state"], second["summary"]) == (
        other,
        "analyzing",
        None,
    )
    assert first["id"] == anna
    assert first["instance_id"] == f"{2:032x}"
    assert first["patient"] == {
        "name": "Schmidt, Anna",
        "patient_id": "4711",
        "accession_numbers": ["A-1"],
    }
    assert (first["modalities"], first["body_parts"]) == (["DX"], ["HAND", "WRIST"])
    assert first["senders"] == ["ROOM1"]
    assert (first["images"], first["answered"]) == (3, 2)
    assert (first["operating_point"], first["probability"]) == ("definite", 0.9)
    assert first["state"] == "waiting"
    assert first["received_at"] >= first["first_received_at"]
    assert first["seconds"] >= 0
    assert first["summary"] == {
        "state": "waiting",
        "reason": "",
        "revision": 1,
        "due_at": "2001-09-09T01:46:40Z",
    }


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("", [1, 0]),
        ("?q=schmidt", [0]),
        ("?state=waiting", [0]),
        ("?state=waiting&state=analyzing", [1, 0]),
        ("?answer=definite", [0]),
        ("?answer=none", []),
        ("?sender=ROOM1&destination=pacs", [0]),
        ("?since=2020-01-01T00:00:00Z&until=2999-01-01", [1, 0]),
        ("?until=2020-01-01T00:00:00Z", []),
        ("?sort=probability&order=desc", [0, 1]),
        ("?size=1&page=2", [0]),
        (f"?id={2:032x}", [0]),
    ],
)
def test_query_parameters_filter_and_sort_examinations(
    site: Review, query: str, numbers: list[int]
) -> None:
    made = two_examinations(site)

    found = site.get(f"/studies{query}").json()["examinations"]

    assert [made.index(each["id"]) for each in found] == numbers


@pytest.mark.parametrize("query", ["?state=received", "?state=returned", "?size=0"])
def test_values_that_examinations_do_not_have_are_refused(
    site: Review, query: str
) -> None:
    assert site.get(f"/studies{query}").status_code == 400


def test_study_contains_its_examinations_and_what_was_not_analyzed(
    site: Review,
) -> None:
    anna, _ = two_examinations(site)

    study = site.get("/studies/1.2.3").json()

    (examined,) = study["examinations"]
    assert [each["id"] for each in study["instances"]] == [
        f"{number:032x}" for number in (1, 2, 3)
    ]
    assert examined["id"] == anna
    assert examined["unanswered"] == [
        {
            "instance_id": f"{3:032x}",
            "state": "not_analyzed",
            "reason": "This is a chest.",
        }
    ]


def test_search_for_examinations_is_audited_without_its_terms(site: Review) -> None:
    two_examinations(site)

    site.get("/studies?q=schmidt&sender=ROOM1")
    site.get("/studies")

    about = [(each.type, each.about) for each in site.events]
    assert about == [
        (AuditEventType.SEARCHED, "/api/v1/studies by q, sender"),
        (AuditEventType.VIEWED, "/api/v1/studies"),
        (AuditEventType.VIEWED, "/api/v1/studies"),
    ]


def test_summary_has_details_but_no_image(site: Review) -> None:
    examination_id = examine(site.engine, [site.receive(1).id])
    summarize(site.engine, examination_id)

    details = site.get(f"/instances/{examination_id}")

    assert details.status_code == 200
    assert details.json()["is_summary"] is True
    assert site.get(f"/instances/{1:032x}").json()["is_summary"] is False
    for name in ("picture", "heatmap", "attributes", "original"):
        response = site.get(f"/instances/{examination_id}/{name}")
        assert response.status_code == 404
        assert "summary of an examination" in response.json()["detail"]
    no_result = site.get(f"/instances/{examination_id}/results/1.2")
    assert no_result.json()["detail"] == "The result does not exist."


def test_failures_list_summaries_beside_images(site: Review) -> None:
    image = site.receive(1)
    site.fail(image, "No.")
    examination_id = examine(site.engine, [image.id])
    summarize(site.engine, examination_id, "failed", reason="No.")

    (group,) = site.get("/failures").json()
    listed = site.get("/failures/instances").json()

    assert (group["count"], group["summaries"]) == (2, 1)
    assert {each["id"]: each["is_summary"] for each in listed} == {
        image.id: False,
        examination_id: True,
    }
    assert site.get("/node").json()["states"] == {"failed": 1}
