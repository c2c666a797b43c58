"""Two applications in one process share no services and no added routes."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.support.http_client import TOKENS
from tests.support.review_site import Review

pytestmark = pytest.mark.integration


def new_site(folder: Path, api: str = TOKENS, **settings: str) -> Review:
    folder.mkdir()
    return Review(folder, api, **settings)


def test_each_application_uses_its_own_services(tmp_path: Path) -> None:
    first, second = new_site(tmp_path / "1"), new_site(tmp_path / "2", more="")
    with closing(first), closing(second):
        first.receive()
        totals = [site.get("/instances").json()["total"] for site in (first, second)]
        names = [
            [each["name"] for each in site.get("/destinations").json()]
            for site in (first, second)
        ]

    assert totals == [1, 0]
    assert names == [["pacs"], []]
    first.engine.dispose()
    second.engine.dispose()


def test_route_of_one_application_is_not_added_to_others(tmp_path: Path) -> None:
    first, second = new_site(tmp_path / "1"), new_site(tmp_path / "2", "")
    with closing(first), closing(second):
        first.app.get("/only-here")(lambda: "ok")

        assert "/only-here" in first.app.openapi()["paths"]
        assert "/only-here" not in second.app.openapi()["paths"]
        assert first.ask("POST", "/login").status_code == 401
        assert second.ask("POST", "/login").status_code == 404
    first.engine.dispose()
    second.engine.dispose()
