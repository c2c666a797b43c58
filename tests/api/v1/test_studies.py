"""/api/v1: examinations, and the summaries of examinations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examination_rows import examine, summarize
from tests.support.review_site import Review

pytestmark = pytest.mark.integration


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Review]:
    site = Review(tmp_path)
    yield site
    site.engine.dispose()
    site.close()


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
