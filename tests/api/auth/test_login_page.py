"""Login and logout in a real Chromium.

For browsers, http://127.0.0.1 is a trustworthy origin, and http://node.test is not.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from tests.support.http_client import LOOKING, TOKENS, Site, serve

pytestmark = [pytest.mark.integration, pytest.mark.browser]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def port(tmp_path: Path, stack: ExitStack) -> int:
    return serve(Site(tmp_path, TOKENS).app, stack)


def log_in(page: Page, token: str) -> None:
    page.locator("#token:focus").wait_for()  # the page sets the focus
    page.keyboard.type(token)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def begin_session(page: Page, port: int, token: str) -> None:
    """Log in by an HTTP request, and add the session cookie to the browser.

    This takes half a second less than a login on the login page.
    """
    address = f"http://127.0.0.1:{port}"
    data = {"token": token, "next": "/"}
    # The server may still be starting.
    response = httpx.post(f"{address}/login", data=data, timeout=60)
    ((name, value),) = response.cookies.items()
    page.context.add_cookies([{"name": name, "value": value, "url": address}])


@pytest.mark.parametrize("host", ["127.0.0.1", "node.test"])
def test_user_logs_in_uses_pages_and_logs_out(
    browser: Browser, port: int, host: str
) -> None:
    address = f"http://{host}:{port}"
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}/docs?q=a%20b&size=5")
    assert page.url == f"{address}/login?next=/docs%3Fq%3Da%2520b%26size%3D5"

    log_in(page, "x" * 43)
    assert page.inner_text("[role=alert]") == "This token is not known."
    assert page.get_attribute("#token", "aria-invalid") == "true"
    assert context.cookies() == []

    log_in(page, LOOKING)
    assert page.url == f"{address}/docs?q=a%20b&size=5"
    assert page.inner_text(".user") == "looking"
    (cookie,) = context.cookies()
    assert cookie["httpOnly"] is True
    assert cookie["sameSite"] == "Strict"
    assert cookie["domain"] == host  # no leading dot: for this host only
    assert page.evaluate("document.cookie") == ""

    # The access control accepts the upload. It fails because the node has no model.
    page.goto(address)
    file = {"name": "a.png", "mimeType": "image/png", "buffer": b"a"}
    page.set_input_files("#file", file)
    page.wait_for_selector("[data-state=failed]")
    assert "The model is not ready" in page.inner_text("#alert")

    page.click("text=Log out")
    page.wait_for_url(f"{address}/login")
    assert context.cookies() == []
    page.goto(address)
    assert page.url == f"{address}/login?next=/"
    context.close()


def test_login_works_without_scripts_and_fits_a_narrow_window(
    browser: Browser, port: int
) -> None:
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": 320, "height": 640}
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    box = page.locator("form.login").bounding_box()

    log_in(page, LOOKING)

    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    assert page.is_visible("text=Log out")
    context.close()


def test_a_page_of_another_origin_cannot_use_the_session(
    browser: Browser, tmp_path: Path, stack: ExitStack
) -> None:
    site = Site(tmp_path, TOKENS)
    sent: list[str | None] = []

    async def recording_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/logout":
            sent.append(Headers(scope=scope).get("cookie"))
        await site.app(scope, receive, send)

    port = serve(recording_app, stack)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/login")
    log_in(page, LOOKING)

    # Another port is another origin but the same site, so the browser sends the cookie.
    form = f"<form method=post action=http://127.0.0.1:{port}/logout><button>"
    foreign = serve(HTMLResponse(form), stack)
    page.goto(f"http://127.0.0.1:{foreign}/")
    with page.expect_response("**/logout") as response:
        page.click("button")

    assert response.value.status == 403
    assert len(sent) == 1
    assert sent[0]  # a refusal without a cookie would prove nothing
    page.goto(f"http://127.0.0.1:{port}/")
    assert page.is_visible("text=Log out")
    context.close()
