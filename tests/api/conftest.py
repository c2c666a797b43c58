"""The page of the browser that the tests of a file share."""

from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser, Page

BLANK = "about:blank"


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Iterator[Page]:
    """A page in its own context. To create both takes almost one second."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def tab(shared_page: Page) -> Iterator[Page]:
    """The shared page, without the cookies and the routes of an earlier test."""
    shared_page.context.clear_cookies()
    shared_page.set_viewport_size({"width": 1400, "height": 900})
    shared_page.mouse.move(0, 0)
    yield shared_page
    shared_page.unroute_all()
    leave(shared_page)


def leave(page: Page) -> None:
    """Navigate to a small page of the same site, which ends the requests of a page.

    For another site, such as about:blank, the browser would start a new process.
    """
    page.goto(urljoin(page.url, "/healthz") if page.url != BLANK else BLANK)
