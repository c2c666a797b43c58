"""All pages: texts, layout, keyboard access, and accessibility by axe-core."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from config.destinations import ConnectionTest
from dicom_node.patient import Patient
from tests.api.auth.test_login_page import log_in
from tests.support import page_visibility
from tests.support.examination_rows import summarize
from tests.support.http_client import ACTING
from tests.support.node import wait_for
from tests.support.review_site import REFUSED, STORED, Review, served

API = Path(__file__).parents[2] / "api"
TEMPLATES = sorted((API / "templates").glob("*.html"))
SCRIPTS = sorted((API / "static").rglob("*.js"))
TEXTS = json.loads((API / "templates" / "texts.json").read_text("utf-8"))
STUDY = "1.2.3.4"
PAGES = [
    "/",
    "/worklist",
    "/upload",
    "/failures",
    "/destinations",
    "/health",
    f"/studies/{STUDY}",
    "/docs",
]
UNFOLD = "for (const e of document.querySelectorAll('details')) e.open = true"
IS_CONNECTED = "(element) => element.isConnected"
SERIOUS = {"serious", "critical"}


def code_of(path: Path) -> str:
    """Return the text of a script without its comments."""
    code = re.sub(r"(^|\s)//.*", "", path.read_text("utf-8"), flags=re.MULTILINE)
    return re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_contain_no_texts(path: Path) -> None:
    text = path.read_text("utf-8")
    for pattern in (r"\{%.*?%\}|\{\{.*?\}\}", r"<code>.*?</code>|<svg.*?</svg>"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    labels = re.findall(r'(?:alt|title|placeholder|aria-label)="([^"]*)"', text)
    shown = " ".join([re.sub(r"<[^>]*>", "", text), *labels])

    assert set(re.findall(r"[A-Za-z]{2,}", shown)) <= {
        "fracture",
        "node",
    }  # the name of the product


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_contain_no_texts(path: Path) -> None:
    quoted = [a or b for a, b in re.findall(r'"([^"\n]*)"|`([^`]*)`', code_of(path))]

    assert [text for text in quoted if re.search(r"[A-Z][a-z]+ [a-z]+", text)] == []


def test_every_text_is_used() -> None:
    sources = "".join(p.read_text("utf-8") for p in [*TEMPLATES, *SCRIPTS])
    known = {*re.findall(r"\w+", sources), "one", "other"}
    by_value = {"points", "states", "kinds", "check_names", "verdicts"}
    by_value |= {"facts", "shortcut_list", "connection_tests"}

    def unused(texts: Any) -> Iterator[str]:  # noqa: ANN401 - what JSON holds
        for key, value in texts.items():
            if key not in known:
                yield key
            if isinstance(value, dict) and key not in by_value:
                yield from unused(value)

    assert list(unused(TEXTS)) == []


def test_each_connection_test_has_a_text() -> None:
    texts = TEXTS["destinations"]["connection_tests"]

    assert texts.keys() == set(get_args(ConnectionTest))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """A site with delivered, failed, not analyzed and waiting instances.

    One examination has a failed summary.
    """
    site = Review(tmp_path_factory.mktemp("site"))
    anna = Patient("Schmidt^Anna", "4711", "A-1")
    for number, (probability, outcome) in enumerate(
        [(0.9, STORED), (0.02, STORED), (0.75, REFUSED)]
    ):
        received = site.receive(number, anna, study_instance_uid=STUDY)
        site.answer(received, probability)
        site.record_outcome(received, outcome)
    site.refuse(site.receive(6, anna, study_instance_uid=STUDY))
    record = site.journal.load(received.id)
    assert record is not None
    assert record.examination_id is not None
    summarize(site.engine, record.examination_id, "failed", reason="It failed.")
    site.refuse(site.receive(7, anna))
    site.fail(site.receive(8, anna), "It cannot be decoded.")
    site.receive(9, anna)
    return site


@pytest.fixture(scope="module")
def port(site: Review) -> Iterator[int]:
    with served(site) as port:
        yield port


@pytest.fixture(scope="module")
def page(browser: Browser, port: int) -> Iterator[Page]:
    """A browser page with the session of an operator."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.goto(f"http://127.0.0.1:{port}/login?next=/docs")
    log_in(page, ACTING)
    yield page
    context.close()


def show(page: Page, port: int, path: str, theme: str = "dark") -> None:
    address = f"http://127.0.0.1:{port}"
    page.context.add_cookies([{"name": "theme", "value": theme, "url": address}])
    page.bring_to_front()  # a hidden page is drawn once a second
    page.goto(address + path)
    if path not in {"/", "/docs", "/login"}:
        page.wait_for_selector("body[data-ready]")
        page.evaluate(UNFOLD)


@dataclass(frozen=True, slots=True)
class Shown:
    """A browser page that shows a page of the node in the dark theme.

    Attributes:
        page: The browser page.
        requested: The URLs that the browser page has requested.
    """

    page: Page
    requested: list[str]


@pytest.fixture(scope="module", params=PAGES)
def shown(request: pytest.FixtureRequest, page: Page, port: int) -> Iterator[Shown]:
    """Each of PAGES, loaded once for several tests."""
    requested: list[str] = []
    own = page.context.new_page()
    own.on("request", lambda request: requested.append(request.url))
    show(own, port, request.param)
    yield Shown(own, requested)
    own.close()


def serious_violations(page: Page) -> list[tuple[str, list[str]]]:
    """Return the serious and critical violations that axe-core finds on a page.

    Each tuple has the id of a rule, and the start of the HTML of each element at fault.
    """
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in Axe().run(page).response["violations"]
        if each["impact"] in SERIOUS
    ]


@pytest.mark.integration
@pytest.mark.browser
def test_axe_finds_no_serious_violation(shown: Shown) -> None:
    assert serious_violations(shown.page) == []


@pytest.mark.integration
@pytest.mark.browser
@pytest.mark.parametrize(
    ("path", "theme"),
    [*((path, "light") for path in PAGES), ("/login", "dark"), ("/login", "light")],
)
def test_axe_finds_no_serious_violation_in_the_light_theme_and_at_the_login(
    page: Page, port: int, path: str, theme: str
) -> None:
    show(page, port, path, theme)

    assert serious_violations(page) == []


@pytest.mark.browser
def test_page_is_not_wider_than_the_window(shown: Shown) -> None:
    try:
        for width in (360, 768, 1024, 1600):
            shown.page.set_viewport_size({"width": width, "height": 900})
            wide = shown.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
    finally:
        shown.page.set_viewport_size({"width": 1400, "height": 900})


@pytest.mark.browser
def test_failures_name_summaries_of_examinations(page: Page, port: int) -> None:
    show(page, port, "/failures")
    card = page.locator(".card", has_text="It failed.")

    expect(card.locator("h2")).to_have_text("Examination summary")
    expect(card).to_contain_text("1 examination summary")
    expect(card.locator("tr")).to_contain_text("Examination summary")
    link = card.locator("tr a").get_attribute("href")
    assert (link or "").startswith(f"/studies/{STUDY}?image=")


@pytest.mark.browser
@pytest.mark.parametrize(
    "focused", ["summary", "tr a", "tr button", ".card-head button"]
)
def test_failures_keep_rows_and_focus_when_they_are_loaded_again(
    page: Page, port: int, focused: str
) -> None:
    held = list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    card = page.locator(".card", has_text="It cannot be decoded.")
    row = card.locator("tr", has_text="Schmidt, Anna")

    def has_rows() -> bool:
        if row.is_visible():
            return True
        while held:
            held.pop().continue_()
        return False

    # No request for rows may be in progress when the page is loaded again, because its
    # response would replace the rows.
    page.route("**/failures/instances?*", hold)
    show(page, port, "/failures")
    page.wait_for_selector("body[data-live]")
    wait_for(has_rows)
    card.locator(focused).focus()
    old_card, old_row = card.element_handle(), row.element_handle()
    page_visibility.hide(page)

    page_visibility.show(page)

    assert not old_card.evaluate(IS_CONNECTED)
    assert old_row.evaluate(IS_CONNECTED)
    expect(card.locator(focused)).to_be_focused()
    for each in held:
        each.continue_()
    page.unroute_all()
    page.wait_for_function("(element) => !element.isConnected", arg=old_row)
    expect(row).to_be_visible()
    expect(card.locator(focused)).to_be_focused()


@pytest.mark.browser
def test_button_of_a_connection_test_keeps_the_focus(page: Page, port: int) -> None:
    held = list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/destinations/pacs/echo", hold)
    show(page, port, "/destinations")
    button = page.locator("#echo-pacs")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Enter")
    expect(button).to_be_focused()

    (route,) = held
    route.fulfill(status=200, json=[])

    expect(button).not_to_have_attribute("aria-disabled", "true")
    expect(button).to_be_focused()
    page.unroute_all()


@pytest.mark.browser
def test_retry_all_tries_waiting_deliveries_only_once(page: Page, port: int) -> None:
    left, queries = [1, 1, 0], list[str]()

    def respond(route: Route) -> None:
        queries.append(urlsplit(route.request.url).query)
        body = {"asked": 200, "gone": 0, "left": left[len(queries) - 1]}
        route.fulfill(status=202, json=body)

    page.route("**/api/v1/failures/retry*", respond)
    show(page, port, "/failures")

    page.click("#all")

    expect(page.locator("#status")).to_have_text("600 retries were accepted.")
    assert queries == ["", "waiting=false", "waiting=false"]
    page.unroute_all()


@pytest.mark.browser
def test_light_theme_can_be_selected_and_is_remembered(page: Page, port: int) -> None:
    show(page, port, "/worklist")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)

    page.click("#theme")
    light = page.evaluate(background)
    page.reload()

    assert dark != light == page.evaluate(background)
    page.click("#theme")
    assert page.evaluate(background) == dark


@pytest.mark.browser
def test_all_controls_are_reachable_by_keyboard(shown: Shown) -> None:
    page = shown.page
    reachable = (
        "[...document.querySelectorAll('a[href], button, input, select, summary,"
        " canvas')].filter((e) => e.checkVisibility() && !e.disabled).length"
    )
    page.evaluate("document.activeElement.blur()")
    expected = page.evaluate(reachable)
    page.evaluate(
        "window.focused = new Set();"
        "addEventListener('focusin', ({ target }) => focused.add(target))"
    )

    for _ in range(expected + 20):
        page.keyboard.press("Tab")

    # One of the file inputs may be hidden.
    assert page.evaluate("focused.size") >= expected - 1


@pytest.mark.browser
def test_page_sends_requests_only_to_the_node(shown: Shown, port: int) -> None:
    allowed = (f"http://127.0.0.1:{port}/", "data:")
    assert shown.requested
    assert [url for url in shown.requested if not url.startswith(allowed)] == []
