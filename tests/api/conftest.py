"""Fixtures for tests with a browser: a page that the tests of one file share."""

from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser, Page

BLANK = "about:blank"


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Iterator[Page]:
    """A browser page in its own context, for all tests of a file.

    The creation of a page and a context takes almost one second.
    """
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def tab(shared_page: Page) -> Iterator[Page]:
    """The shared page without cookies and routes of earlier tests.

    Its window has 1400 x 900 pixels.
    """
    shared_page.context.clear_cookies()
    shared_page.set_viewport_size({"width": 1400, "height": 900})
    shared_page.mouse.move(0, 0)
    yield shared_page
    shared_page.unroute_all()
    leave(shared_page)


def leave(page: Page) -> None:
    """Open /healthz of the same site, which ends the requests of `page`.

    A blank page stays blank. about:blank would take longer, because the browser starts
    a new process if another site is opened.
    """
    page.goto(urljoin(page.url, "/healthz") if page.url != BLANK else BLANK)
