"""The page of the browser that the tests of a file share."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page


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
    shared_page.goto("about:blank")
