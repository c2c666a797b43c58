"""Hides and shows a page, as a browser does when the user selects another tab."""

from playwright.sync_api import Page

SET_STATE = """(state) => {
  const hidden = { value: state === "hidden", configurable: true };
  Object.defineProperty(document, "hidden", hidden);
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def hide(page: Page) -> None:
    """Tell a page that it is hidden, and wait until its stream of changes is closed.

    Playwright keeps all pages visible.
    """
    with page.expect_event(
        "requestfailed", lambda request: request.url.endswith("/api/v1/changes")
    ):
        page.evaluate(SET_STATE, "hidden")


def show(page: Page) -> None:
    """Tell a page that it is visible, and wait until it has been loaded again."""
    page.evaluate(SET_STATE, "visible")
    page.wait_for_selector("body[data-live]")
