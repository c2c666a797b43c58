"""The page for uploads in Chromium."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import FilePayload, Page, Route, expect

from dicom_node.journal.events import EventKind, note
from dicom_node.storage.database import writing
from dicom_node.storage.tables import instance
from tests.api.auth.test_login_page import begin_session
from tests.api.v1.test_worklist_page import add_copies
from tests.support.http_client import ACTING
from tests.support.page_visibility import hide, show
from tests.support.review_site import Review, served

pytestmark = [pytest.mark.integration, pytest.mark.browser]

FIRST, COUNT = 1000, 105
IDS = [f"{FIRST + number:032x}" for number in range(COUNT)]


def set_state(connection: sa.Connection, state: str) -> None:
    uploaded = instance.update().where(instance.c.id.in_(IDS))
    connection.execute(uploaded.values(state=state))


@pytest.fixture
def site(tmp_path: Path) -> Review:
    """A site with the instances IDS."""
    site = Review(tmp_path)
    site.receive(1)
    add_copies(site, COUNT)
    return site


@pytest.fixture
def page(tab: Page, site: Review) -> Iterator[Page]:
    """The upload page. A file that is uploaded becomes the next instance of IDS."""
    numbers = count()

    def respond(route: Route) -> None:
        answer = {"id": IDS[next(numbers)], "study_instance_uid": ""}
        route.fulfill(body=json.dumps(answer), content_type="application/json")

    with served(site) as port:
        begin_session(tab, port, ACTING)
        tab.route("**/api/v1/uploads", respond)
        tab.goto(f"http://127.0.0.1:{port}/upload")
        tab.wait_for_selector("body[data-live]")
        yield tab
        tab.goto("about:blank")


def test_all_rows_of_more_than_100_files_are_updated(page: Page, site: Review) -> None:
    file: FilePayload = {"name": "a.dcm", "mimeType": "", "buffer": b"DICOM"}
    page.set_input_files("#files", [file] * COUNT)
    expect(page.locator("#summary")).to_have_text(f"{COUNT} of {COUNT} done")
    outcomes = page.locator("#rows td:last-child")
    expect(outcomes).to_have_text(["Doe, Janereceived"] * COUNT)

    with writing(site.engine) as connection:  # one message with all ids
        set_state(connection, "analyzing")
        for each in IDS:
            note(connection, each, EventKind.ANALYZING, "")
    expect(outcomes).to_have_text(["Doe, Janeanalyzing"] * COUNT)

    hide(page)
    with writing(site.engine) as connection:
        set_state(connection, "failed")
    show(page)
    expect(outcomes).to_have_text(["Doe, Janefailed"] * COUNT)
