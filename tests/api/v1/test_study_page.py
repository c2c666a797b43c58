"""The study page in a real Chromium. Tests compare its canvas with the radiograph."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Error, Locator, Page, expect

from dicom_node.journal.events import EventKind, note
from dicom_node.patient import Patient
from dicom_node.storage.database import writing
from dicom_node.storage.tables import delivery, examination, patient, result
from inference.drawing.numbers import number_places
from inference.finding import Arrow, Location, OperatingPoint
from inference.phantom.long_bone import draw_phantom
from inference.phantom.tissue import WHITE
from tests.api.auth.test_login_page import begin_session, log_in
from tests.support import page_visibility
from tests.support.examination_rows import summarize
from tests.support.http_client import ACTING, LOOKING
from tests.support.review_site import REFUSED, STORED, Review, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.usefixtures("common_decoders"),
]

STUDY = "1.2.3.4"
SIZE = (300, 200)  # rows, columns of the phantoms
PIXELS = "(canvas) => canvas.toDataURL('image/png').split(',')[1]"
HEIGHTS = "(element) => [element.scrollHeight, element.clientHeight]"
FRAME = "new Promise((go) => requestAnimationFrame(() => setTimeout(go)))"
Pixels = NDArray[np.float64]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """A site with the study STUDY. Tests that change a study add their own study."""
    site = Review(tmp_path_factory.mktemp("site"))
    fill(site, STUDY, 1)
    return site


def fill(site: Review, study: str, number: int) -> None:
    """Add a study with the images `number` and `number + 1`.

    The first image has a fracture, and its result is delivered. The second has no
    fracture, and the archive refused its result.
    """
    anna = Patient("Schmidt^Anna", "4711", "A-1")
    first = site.receive(number, anna, study_instance_uid=study, view_position="AP")
    site.answer(first, 0.9)
    site.record_outcome(first, STORED)
    second = site.receive(
        number + 1, anna, study_instance_uid=study, view_position="LL"
    )
    site.answer(second, 0.02)
    site.record_outcome(second, REFUSED)


@pytest.fixture(scope="module")
def port(site: Review) -> Iterator[int]:
    with served(site) as port:
        yield port


@pytest.fixture
def open_study(tab: Page, port: int) -> Iterator[Open]:
    """A function that opens a study as the user of a token, and returns the page."""

    def fail(error: Error) -> None:
        pytest.fail(str(error))

    def open_as(token: str = ACTING, study: str = STUDY) -> Page:
        begin_session(tab, port, token)
        tab.goto(f"http://127.0.0.1:{port}/studies/{study}")
        tab.wait_for_selector("body[data-ready]")
        expect(tab.locator(".pane-notice").first).to_be_hidden()
        return tab

    tab.on("pageerror", fail)
    yield open_as
    tab.remove_listener("pageerror", fail)


@pytest.fixture
def page(open_study: Open) -> Page:
    return open_study()


def canvas(page: Page, number: int = 0) -> Locator:
    return page.locator("canvas").nth(number)


def drawn(page: Page, number: int = 0) -> Pixels:
    """Return the RGB pixels of a canvas after the next animation frame."""
    page.evaluate(FRAME)
    png = base64.b64decode(canvas(page, number).evaluate(PIXELS))
    bgr = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), float)


def press(page: Page, *keys: str) -> None:
    canvas(page).focus()
    for key in keys:
        page.keyboard.press(key)


def hide_layers(page: Page) -> None:
    """Hide heatmap and arrow."""
    page.click("#heatmap[aria-pressed=true]")
    page.click("#arrow[aria-pressed=true]")


def fitted(pixels: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Return a picture scaled to fit into a canvas, as the canvas shows it.

    `shape` begins with the height and the width of the canvas.
    """
    (rows, columns), (height, width) = pixels.shape, shape[:2]
    scale = min(height / rows, width / columns)
    transform = np.array(
        [
            [scale, 0, (width - scale * columns) / 2 + scale / 2 - 0.5],
            [0, scale, (height - scale * rows) / 2 + scale / 2 - 0.5],
        ]
    )
    return cv2.warpAffine(pixels, transform, (width, height), flags=cv2.INTER_LINEAR)


def phantom(number: int = 1, low: float = 0, high: float = WHITE) -> Pixels:
    """Return a phantom as gray levels from 0 to 255.

    `low` becomes black, and `high` becomes white. `number` is the seed of the phantom.
    """
    pixels = draw_phantom(broken=True, rows=SIZE[0], columns=SIZE[1], seed=number)
    return np.clip((pixels.pixels - low) / (high - low), 0, 1) * 255


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one - other).mean())


def drag(page: Page, across: int, down: int) -> None:
    box = canvas(page).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + across, y + down, steps=5)
    page.mouse.up()


def window(page: Page, number: int = 0) -> tuple[float, float]:
    """Return (center, width): the window that the text of a pane states."""
    page.evaluate(FRAME)
    words = page.locator(".pane-values").nth(number).inner_text().strip("≈ ").split()
    return float(words[1].strip(",")), float(words[3])


def is_true(page: Page, number: int = 0) -> None:
    """Wait until the pane shows pixels to which the node has applied the window."""
    page.evaluate(FRAME)
    expect(page.locator(".pane-values").nth(number)).not_to_contain_text("≈")


@pytest.mark.integration
def test_images_are_shown_side_by_side_unchanged(page: Page) -> None:
    expect(page.locator("h1")).to_have_text("Schmidt, Anna")
    expect(page.locator("#about")).to_have_text("4711 · A-1 · 2 images")
    expect(page.locator("canvas")).to_have_count(2)
    hide_layers(page)

    for number in (0, 1):
        shown = drawn(page, number)
        assert difference(shown[..., 0], fitted(phantom(number + 1), shown.shape)) < 3
        assert np.ptp(shown, axis=2).max() == 0


def test_heatmap_and_arrow_can_be_hidden(page: Page) -> None:
    whole = drawn(page)
    page.click("#arrow")
    heat = drawn(page)
    page.click("#heatmap")
    gray = drawn(page)

    assert np.ptp(whole, axis=2).max() > 20
    assert np.ptp(heat, axis=2).max() > 20
    assert np.ptp(gray, axis=2).max() == 0
    changed = np.abs(whole - heat).max(axis=2)
    assert changed.max() > 60  # only the arrow
    assert 0 < (changed > 0).mean() < 0.05
    assert (heat[..., 0] >= np.minimum(gray[..., 0], 236) - 1).all()  # amber to red

    page.click("#heatmap")
    page.fill("#opacity", "100")
    full = drawn(page)
    colored = np.ptp(heat, axis=2) > 20
    assert (np.ptp(full, axis=2) > np.ptp(heat, axis=2))[colored].mean() > 0.95
    page.fill("#opacity", "0")
    assert difference(drawn(page), gray) < 0.01


UPPER = Arrow(tip=(150.0, 60.0), tail=(50.0, 60.0))
LOWER = Arrow(tip=(50.0, 240.0), tail=(150.0, 240.0))


def fill_several(site: Review, study: str, number: int) -> None:
    """Add a study with an image that has a definite and a doubtful location."""
    found = (
        Location(UPPER, 0.8, OperatingPoint.DEFINITE),
        Location(LOWER, 0.31, OperatingPoint.DOUBTFUL),
    )
    site.answer(site.receive(number, study_instance_uid=study), 0.9, found)


def of_arrows(page: Page) -> Pixels:
    """Return how much the arrows change each pixel of the canvas; hide the arrows."""
    whole = drawn(page)
    press(page, "a")
    return np.asarray(np.abs(whole - drawn(page)).max(axis=2))


def place_on_canvas(page: Page, point: tuple[float, float]) -> tuple[int, int]:
    """Return where the canvas shows a point of a fitted image, as (row, column)."""
    height, width, _ = drawn(page).shape
    scale = min(height / SIZE[0], width / SIZE[1])
    column = (point[0] - SIZE[1] / 2) * scale + width / 2
    row = (point[1] - SIZE[0] / 2) * scale + height / 2
    return round(row), round(column)


def test_several_arrows_have_numbers_and_those_of_doubtful_locations_are_dashed(
    open_study: Open, site: Review
) -> None:
    fill_several(site, "1.2.3.12", 90)
    page = open_study(study="1.2.3.12")

    changed = of_arrows(page)

    for arrow, way, dashes in ((UPPER, -1, False), (LOWER, 1, True)):
        (row, tail), (_, tip) = (
            place_on_canvas(page, point) for point in (arrow.tail, arrow.tip)
        )
        shaft = changed[row, min(tip, tail) + 25 : max(tip, tail) - 25]
        assert shaft.size > 50
        assert (shaft < 20).any() == dashes
        start, end = sorted((tail + 4 * way, tail + 22 * way))
        assert (changed[row - 10 : row + 10, start:end] > 60).sum() > 30  # the number
    assert (changed > 0).mean() < 0.05


def test_single_arrow_has_no_number(page: Page) -> None:
    changed = of_arrows(page)

    row, column = place_on_canvas(page, (20, 30))  # the tail; the tip is to the right
    assert changed[row, column + 3] > 60
    assert changed[row - 40 : row - 5, column - 40 : column + 40].max() == 0
    assert changed[row - 40 : row + 40, column - 40 : column - 5].max() == 0


def test_panel_lists_several_locations_with_their_scores(
    open_study: Open, site: Review
) -> None:
    fill_several(site, "1.2.3.13", 91)
    page = open_study(study="1.2.3.13")

    assert page.locator("#panel .locations li").all_inner_texts() == [
        "1: Definite fracture, score 80.0%",
        "2: Doubtful fracture, score 31.0%",
    ]
    expect(page.locator("#panel")).to_contain_text("The 2 arrows point to")


def test_panel_explains_a_definite_image_with_only_doubtful_locations(
    open_study: Open, site: Review
) -> None:
    fill_several(site, "1.2.3.14", 92)
    doubtful = OperatingPoint.DOUBTFUL
    found = Location(UPPER, 0.4, doubtful), Location(LOWER, 0.31, doubtful)
    site.answer(site.receive(93, study_instance_uid="1.2.3.15"), 0.9, found)
    sentence = "at most the probability of the image"

    expect(open_study(study="1.2.3.15").locator("#panel")).to_contain_text(sentence)
    page = open_study(study="1.2.3.14")
    expect(page.locator("#panel")).to_contain_text("score 31.0%")
    expect(page.locator("#panel")).not_to_contain_text(sentence)


def test_single_arrow_of_a_doubtful_location_is_dashed(
    open_study: Open, site: Review
) -> None:
    """The operating point of the image is definite, because its probability is 0.9."""
    found = (Location(LOWER, 0.31, OperatingPoint.DOUBTFUL),)
    site.answer(site.receive(94, study_instance_uid="1.2.3.16"), 0.9, found)
    page = open_study(study="1.2.3.16")

    changed = of_arrows(page)

    (row, tail), (_, tip) = (
        place_on_canvas(page, point) for point in (LOWER.tail, LOWER.tip)
    )
    assert (changed[row, min(tip, tail) + 25 : max(tip, tail) - 25] < 20).any()


def test_numbers_are_placed_as_in_the_result_image(page: Page) -> None:
    random = np.random.default_rng(3)
    all_arrows = []
    for _ in range(60):  # near each other and near the edges
        tips = random.uniform(0, 600, 2) + random.normal(0, 20, (5, 2))
        tails = np.clip(tips + random.normal(0, 25, (5, 2)), 0, 600)
        ends = zip(tips.tolist(), tails.tolist(), strict=True)
        all_arrows.append([Arrow((*tip,), (*tail,)) for tip, tail in ends])

    found = page.evaluate(
        """async ([all, canvas, box]) => {
          const { numberPlaces } = await import("/static/study/numbers.js");
          return all.map((arrows) => numberPlaces(arrows, canvas, box));
        }""",
        [
            [[asdict(arrow) for arrow in arrows] for arrows in all_arrows],
            {"width": 600, "height": 600},
            {"width": 15, "height": 18},
        ],
    )

    expected = [number_places(arrows, (600, 600), (15, 18)) for arrows in all_arrows]
    np.testing.assert_allclose(found, expected)


def test_heatmap_of_a_negative_result_is_hidden_by_default(page: Page) -> None:
    assert np.ptp(drawn(page, 1), axis=2).max() == 0

    canvas(page, 1).focus()
    page.keyboard.press("h")

    assert np.ptp(drawn(page, 1), axis=2).max() > 20


def test_dragging_sets_the_window_and_loads_pixels_from_the_node(page: Page) -> None:
    hide_layers(page)
    before = drawn(page)

    drag(page, -150, 0)  # narrower
    center, width = window(page)

    assert center == pytest.approx(WHITE / 2, rel=0.02)
    assert 1000 < width < 0.8 * WHITE
    expected = fitted(phantom(1, center - width / 2, center + width / 2), before.shape)
    assert difference(drawn(page)[..., 0], expected) < 4  # without waiting for the node
    drag(page, 0, -150)  # brighter
    is_true(page)
    center, width = window(page)
    assert center < WHITE / 2 - 200
    expected = fitted(phantom(1, center - width / 2, center + width / 2), before.shape)
    assert difference(drawn(page)[..., 0], expected) < 4

    page.click("#reset")
    is_true(page)
    assert difference(drawn(page), before) < 1


def test_monochrome1_image_shows_small_values_as_white(
    site: Review, open_study: Open
) -> None:
    site.receive(
        3, study_instance_uid="1.2.3.5", photometric_interpretation="MONOCHROME1"
    )
    page = open_study(study="1.2.3.5")
    before = drawn(page)
    assert difference(before[..., 0], fitted(phantom(3), before.shape)) < 3

    drag(page, 0, -150)  # brighter, as for MONOCHROME2
    center, width = window(page)

    assert center > WHITE / 2 + 200
    brighter = drawn(page)
    low, high = WHITE - center - width / 2, WHITE - center + width / 2
    assert difference(brighter[..., 0], fitted(phantom(3, low, high), before.shape)) < 4
    assert brighter.mean() > before.mean() + 10


def test_invert_swaps_black_and_white(page: Page) -> None:
    hide_layers(page)
    before = drawn(page)
    inside = fitted(np.full(SIZE, 255.0), before.shape) > 254

    page.click("#invert")

    assert np.abs(255 - drawn(page) - before)[inside].max() <= 1
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "true")


@pytest.mark.integration
def test_full_size_zoom_pan_and_rotation_show_the_expected_pixels(page: Page) -> None:
    hide_layers(page)
    page.click("#full")
    expect(page.locator(".pane-values").nth(0)).to_contain_text("· 100 %")
    shown = drawn(page)[..., 0]
    (rows, columns), (height, width) = SIZE, shown.shape
    top, left = (height - rows) // 2, (width - columns) // 2
    shown_part = shown[top : top + rows, left : left + columns]
    assert difference(shown_part, phantom()) < 3

    page.click("#turn")
    turned = drawn(page)[..., 0]
    top, left = (height - columns) // 2, (width - rows) // 2
    shown_part = turned[top : top + columns, left : left + rows]
    assert difference(shown_part, np.rot90(phantom(), -1)) < 3

    page.click("[data-mode=pan]")
    drag(page, 40, -30)
    moved = drawn(page)[..., 0]
    assert difference(moved[:-30, 40:], turned[30:, :-40]) < 0.5

    page.click("#turn")  # around the center of the canvas, also after a pan
    again = drawn(page)[..., 0]
    row, column = height // 2, width // 2
    before, after = (
        each[row - 40 : row + 40, column - 40 : column + 40] for each in (moved, again)
    )
    assert difference(after, np.rot90(before, -1)) < 3
    for _ in range(3):
        page.click("#turn")

    box = canvas(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.wheel(0, -400)
    expect(page.locator(".pane-values").nth(0)).to_contain_text("· 200 %")
    page.click("#fit")
    fit = drawn(page)[..., 0]
    assert difference(fit, fitted(np.rot90(phantom(), -1).copy(), fit.shape)) < 3


def test_keys_have_the_same_effect_as_the_tools(page: Page) -> None:
    hide_layers(page)
    whole = drawn(page)
    tools = {"i": "#invert", "1": "#full", "r": "#turn", "+": "#zoom-in"}
    for key, tool in tools.items():
        press(page, key)
        by_key = drawn(page)
        press(page, "d")
        page.click(tool)
        assert difference(by_key, drawn(page)) == 0
        assert difference(by_key, whole) > 1
        press(page, "d")
    assert difference(drawn(page), whole) == 0
    press(page, "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp")
    assert difference(drawn(page), whole) == 0
    press(page, "Shift+ArrowLeft")
    assert window(page)[1] < 0.95 * WHITE
    press(page, "n")
    expect(canvas(page, 1)).to_be_focused()
    page.keyboard.press("N")  # as with Caps Lock
    expect(canvas(page, 0)).to_be_focused()
    page.keyboard.press("Control+p")  # prints the page
    expect(canvas(page, 0)).to_be_focused()
    press(page, "Enter")
    expect(page.locator("canvas:visible")).to_have_count(1)


def test_two_fingers_zoom_and_one_finger_sets_the_window(
    browser: Browser, port: int
) -> None:
    context = browser.new_context(
        viewport={"width": 820, "height": 1180}, has_touch=True
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/login?next=/studies/{STUDY}")
    log_in(page, LOOKING)
    page.wait_for_selector("body[data-ready]")
    expect(page.locator(".pane-notice").first).to_be_hidden()
    page.evaluate(FRAME)
    box = canvas(page).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = context.new_cdp_session(page)

    def touch(kind: str, *positions: tuple[float, float]) -> None:
        points = [{"x": a, "y": b, "id": n} for n, (a, b) in enumerate(positions)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = zoom(page)
    touch("touchStart", (x - 20, y), (x + 20, y))
    touch("touchMove", (x - 40, y), (x + 40, y))
    touch("touchEnd")
    assert zoom(page) == pytest.approx(2 * before, rel=0.05)

    touch("touchStart", (x, y))
    touch("touchMove", (x - 60, y))
    touch("touchEnd")
    assert window(page)[1] < 0.8 * WHITE
    assert page.evaluate("scrollY") == 0
    context.close()


def zoom(page: Page) -> float:
    """Return the zoom that the text of the first pane states, in percent."""
    page.evaluate(FRAME)
    words = page.locator(".pane-values").nth(0).inner_text()
    return float(words.split("·")[1].strip(" %"))


def test_page_names_the_patient_of_the_selected_image(
    open_study: Open, site: Review
) -> None:
    study = {"study_instance_uid": "1.2.3.17"}
    ben = Patient("Beta^Ben", "BBB", "B-1")
    site.answer(site.receive(95, Patient("Alpha^Anna", "AAA", "A-1"), **study))
    site.receive(96, ben, **study)
    page = open_study(study=f"1.2.3.17?image={96:032x}")
    heading, about = page.locator("h1"), page.locator("#about")
    labels = page.locator(".pane-label")

    expect(heading).to_have_text("Beta, Ben")
    expect(about).to_have_text("BBB · B-1 · 1 of 2 images")
    expect(labels.nth(0)).to_contain_text("Alpha, Anna · AAA · DX LEG")
    expect(labels.nth(0)).to_contain_text("75.0%")
    expect(labels.nth(1)).to_contain_text("Beta, Ben · BBB · DX LEG")
    name = canvas(page, 1).get_attribute("aria-label") or ""
    assert name.startswith("Radiograph, Beta, Ben · BBB · DX LEG")

    page.wait_for_selector("body[data-live]")
    site.receive(97, ben, **study)  # the page is loaded again
    expect(about).to_have_text("BBB · B-1 · 2 of 3 images")
    expect(heading).to_have_text("Beta, Ben")
    canvas(page, 0).focus()
    expect(heading).to_have_text("Alpha, Anna")
    expect(about).to_have_text("AAA · A-1 · 1 of 3 images")


def test_images_name_their_patients_when_another_patient_appears(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.18", 98)
    page = open_study(study="1.2.3.18")
    labels = page.locator(".pane-label")
    expect(labels.nth(0)).to_contain_text("DX LEG AP")
    expect(labels.nth(0)).not_to_contain_text("Schmidt")
    page.wait_for_selector("body[data-live]")

    ben = Patient("Beta^Ben", "BBB", "B-1")
    site.receive(100, ben, study_instance_uid="1.2.3.18")

    expect(labels.nth(2)).to_contain_text("Beta, Ben · BBB · DX LEG")
    for number in (0, 1):
        expect(labels.nth(number)).to_contain_text("Schmidt, Anna · 4711 · DX LEG")


def test_images_name_their_patients_when_an_id_is_corrected(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.19", 101)
    page = open_study(study="1.2.3.19")
    page.wait_for_selector("body[data-live]")

    of_first = patient.update().where(patient.c.instance_id == f"{101:032x}")
    with writing(site.engine) as connection:
        connection.execute(of_first.values(patient_id="4712"))
        note(connection, f"{101:032x}", EventKind.RECEIVED_AGAIN, "")

    expect(page.locator("#about")).to_have_text("4712 · A-1 · 1 of 2 images")
    labels = page.locator(".pane-label")
    expect(labels.nth(0)).to_contain_text("Schmidt, Anna · 4712 · DX LEG")
    expect(labels.nth(1)).to_contain_text("Schmidt, Anna · 4711 · DX LEG")


def test_panel_describes_the_finding(page: Page) -> None:
    panel = page.locator("#panel")

    expect(panel).to_contain_text("Definite fracture")
    expect(panel).to_contain_text("90.0%")
    expect(panel).to_contain_text("as doubtful from 25.0%, as definite from 50.0%")
    expect(panel).to_contain_text("phantom-model 1.0")
    canvas(page, 1).click()
    expect(panel).to_contain_text("No fracture")
    expect(panel).to_contain_text("does not rule out a fracture")
    assert page.url.endswith(f"?image={2:032x}")


def test_panel_lists_deliveries_and_events(page: Page) -> None:
    canvas(page, 1).click()
    panel = page.locator("#panel")

    expect(panel.locator(".deliveries")).to_contain_text("0xC000 Cannot Understand")
    expect(panel.locator(".deliveries")).to_contain_text("1 attempt")
    page.click("text=History")
    events = panel.locator(".timeline strong")
    assert events.all_inner_texts()[:3] == ["received", "analyzing", "analyzed"]
    expect(panel.locator(".timeline")).to_contain_text("pacs: ")


def test_images_without_a_study_are_shown_separately(
    open_study: Open, site: Review
) -> None:
    # An invalid UID is not stored: these two instances belong to no study.
    for number, name in ((40, "Weber^Karl"), (41, "Maier^Eva")):
        received = site.receive(number, Patient(name, "7", ""), study_instance_uid="")
        site.refuse(received)

    page = open_study(study=f"none?image={received.id}")

    assert page.locator("canvas").count() == 1
    expect(page.locator("#patient")).to_have_text("Maier, Eva")


def add_summary(site: Review, number: int, state: str) -> str:
    """Add a summary to the examination of the image `number`.

    The summary has an event, a result and a delivery.

    Returns:
        The id of the examination, which is also the id of the summary.
    """
    record = site.journal.load(f"{number:032x}")
    assert record is not None
    assert record.examination_id is not None
    examination_id = record.examination_id
    summarize(site.engine, examination_id, state, reason="pacs: 0xC000")
    row = {"instance_id": examination_id, "destination": "pacs", "attempts": 1}
    row |= {"state": state, "run": 1, "asked_at": 1, "next_at": 1, "finished_at": 1}
    made = {"instance_id": examination_id, "sop_instance_uid": f"2.25.9{number}"}
    made |= {"kind": "exam_summary", "sop_class_uid": "1.2", "path": "results/x"}
    changed = examination.update().where(examination.c.id == examination_id)
    with writing(site.engine) as connection:
        connection.execute(delivery.insert(), row)
        connection.execute(result.insert(), made)
        connection.execute(changed.values(revision=2))
        note(connection, examination_id, EventKind.SUMMARIZED, "revision 2")
    return examination_id


def test_panel_shows_the_examination_and_what_was_not_analyzed(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.20", 160)
    anna = Patient("Schmidt^Anna", "4711", "A-1")
    third = {"study_instance_uid": "1.2.3.20", "view_position": "OBL"}
    site.refuse(site.receive(162, anna, **third), "This is a chest.")
    page = open_study(study="1.2.3.20")
    panel = page.locator("#panel")

    expect(panel).to_contain_text("2 of 3 images answered")
    unanswered = panel.locator("#exam-unanswered")
    expect(unanswered).to_contain_text("not analyzed")
    expect(unanswered).to_contain_text("This is a chest.")
    expect(panel).not_to_contain_text("Examination summary")
    unanswered.get_by_role("button", name="DX LEG OBL").press("Enter")
    assert page.url.endswith(f"?image={162:032x}")
    expect(canvas(page, 2)).to_be_focused()


def test_panel_shows_the_summary_of_the_examination(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.21", 163)
    page = open_study(study="1.2.3.21")
    page.wait_for_selector("body[data-live]")
    add_summary(site, 163, "failed")
    panel = page.locator("#panel")

    expect(panel).to_contain_text("Examination summary")  # without a reload
    expect(panel).to_contain_text("Revision")
    expect(panel).to_contain_text("pacs: 0xC000")
    page.click("text=History of the summary")
    expect(panel.locator("#exam-timeline")).to_contain_text("revision 2")
    link = panel.get_by_role("link", name="Examination Summary")
    assert "/results/2.25.9163" in (link.get_attribute("href") or "")
    canvas(page, 1).click()
    expect(panel).to_contain_text("Examination summary")


def test_operator_sends_a_summary_again_and_requests_a_new_one(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.22", 165)
    examination_id = add_summary(site, 165, "failed")
    page = open_study(study="1.2.3.22")
    with site.engine.begin() as connection:
        wanted = result.update().where(result.c.instance_id == examination_id)
        connection.execute(wanted.values(kind="secondary_capture"))

    page.click("#send-summary-pacs")
    expect(page.locator("#send-summary-pacs").locator("..")).to_contain_text("waiting")
    assert [each["state"] for each in site.runs(examination_id)] == ["queued"]
    with page.expect_response("**/analyze") as response:
        page.click("#make-summary")
    assert response.value.status == 202
    assert f"/instances/{examination_id}/" in response.value.url


def test_viewer_cannot_make_or_send_a_summary(open_study: Open, site: Review) -> None:
    fill(site, "1.2.3.23", 167)
    add_summary(site, 167, "delivered")
    page = open_study(LOOKING, "1.2.3.23")

    expect(page.locator("#panel")).to_contain_text("Examination summary")
    expect(page.locator("#make-summary, [id^=send-]")).to_have_count(0)


def test_operator_repeats_a_delivery_and_an_analysis(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.7", 10)
    page = open_study(study="1.2.3.7")
    canvas(page, 1).click()
    page.click("#send-pacs")
    expect(page.locator(".deliveries")).to_contain_text("waiting")
    assert [each["state"] for each in site.runs(f"{11:032x}")] == ["queued"]

    page.click("#analyze")
    expect(page.locator("#panel")).to_contain_text("received")


def test_viewer_has_no_buttons_to_repeat_work(open_study: Open) -> None:
    page = open_study(LOOKING)

    expect(page.locator("#panel")).to_contain_text("Definite fracture")
    expect(page.locator("#analyze, [id^=send-]")).to_have_count(0)


def opinions(page: Page, number: int) -> list[dict[str, Any]]:
    """Return the opinions that the node has recorded for an instance."""
    origin = page.evaluate("location.origin")
    response = page.request.get(f"{origin}/api/v1/instances/{number:032x}")
    return list(response.json()["opinions"])


def test_reader_agrees_and_marks_a_missed_fracture(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.8", 20)
    page = open_study(study="1.2.3.8")
    canvas(page, 1).click()
    page.click("#judge-agree")
    expect(page.locator(".opinions")).to_contain_text("acting: Agree")
    assert [each["verdict"] for each in opinions(page, 21)] == ["agree"]
    before = drawn(page, 1)

    page.click("#mark-missed")
    box = canvas(page, 1).bounding_box()
    assert box is not None
    scale = min(box["height"] / SIZE[0], box["width"] / SIZE[1])
    page.mouse.click(
        box["x"] + box["width"] / 2 + 50 * scale,
        box["y"] + box["height"] / 2 - 75 * scale,
    )
    expect(page.locator(".opinions")).to_contain_text("Disagree")

    (opinion,) = opinions(page, 21)
    assert opinion["place"] == pytest.approx([150, 75], abs=1)
    changed = np.argwhere(np.abs(drawn(page, 1) - before).max(axis=2) > 20)
    assert len(changed) > 20
    marked = changed.mean(axis=0) - np.array(before.shape[:2]) / 2
    assert marked == pytest.approx([-75 * scale, 50 * scale], abs=3)

    page.click("#withdraw")
    expect(page.locator(".opinions")).to_have_count(0)
    assert difference(drawn(page, 1), before) == 0


def test_missed_fracture_is_marked_by_keyboard(open_study: Open, site: Review) -> None:
    fill(site, "1.2.3.10", 50)
    page = open_study(study="1.2.3.10")
    before = drawn(page)
    press(page, "m")
    aimed = drawn(page)
    assert np.abs(aimed - before).max() > 60  # the cross
    press(page, "ArrowUp", "Enter")
    expect(page.locator(".opinions")).to_contain_text("Disagree")

    (opinion,) = opinions(page, 50)
    box = canvas(page).bounding_box()
    assert box is not None
    scale = min(box["height"] / SIZE[0], box["width"] / SIZE[1])
    # The image was moved down by 40 pixels of the page, under the cross.
    assert opinion["place"] == pytest.approx([100, 150 - 40 / scale], abs=1)


def test_only_visible_images_of_many_are_loaded(open_study: Open, site: Review) -> None:
    for number in range(60, 80):
        site.receive(number, study_instance_uid="1.2.3.11")
    page = open_study(study="1.2.3.11")
    waiting = ".pane-notice:not([hidden])"

    page.wait_for_function(
        "waiting => document.querySelectorAll(waiting).length <= 12", arg=waiting
    )
    assert page.locator(waiting).count() >= 4
    canvas(page, 19).scroll_into_view_if_needed()
    expect(page.locator(".pane").nth(19).locator(".pane-notice")).to_be_hidden()


def test_all_images_fit_on_a_phone(browser: Browser, port: int, site: Review) -> None:
    for number in range(80, 87):
        site.receive(number, study_instance_uid="1.2.3.99")
    upright, flat = {"width": 390, "height": 844}, {"width": 844, "height": 390}
    context = browser.new_context(viewport=upright, is_mobile=True, has_touch=True)
    page = context.new_page()
    begin_session(page, port, LOOKING)

    page.goto(f"http://127.0.0.1:{port}/studies/1.2.3.99")

    expect(page.locator(".pane")).to_have_count(7)
    for size in (upright, flat):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        needed, shown = page.locator("#panes").evaluate(HEIGHTS)
        assert needed == shown  # a finger cannot scroll the images
    context.close()


def test_panel_keeps_the_focus_when_the_study_is_loaded_again(page: Page) -> None:
    page.wait_for_selector("body[data-live]")
    for focused in ("#timeline summary", ".files a >> nth=0", ".files a >> nth=1"):
        element = page.locator(focused)
        old = element.element_handle()
        element.focus()
        page_visibility.hide(page)
        page_visibility.show(page)

        page.wait_for_function("(element) => !element.isConnected", arg=old)
        expect(element).to_be_focused()


def test_print_shows_undistorted_images_and_the_whole_panel(page: Page) -> None:
    page.set_viewport_size({"width": 1123, "height": 794})  # A4 at 96 pixels per inch

    page.emulate_media(media="print")

    try:
        expect(page.locator(".toolbar")).to_be_hidden()
        expect(page.locator("nav")).to_be_hidden()
        needed, shown = page.locator("#panel").evaluate(HEIGHTS)
        assert needed == shown
        expect(canvas(page)).to_have_css("object-fit", "contain")
        expect(page.locator(".pane").first).to_have_css("print-color-adjust", "exact")
        assert page.locator("html").get_attribute("data-theme") == "dark"
        expect(page.locator("h1")).to_have_css("color", "rgb(21, 32, 43)")
    finally:
        page.emulate_media(media="screen")


def test_user_must_log_in_again_after_the_session_has_ended(open_study: Open) -> None:
    page = open_study()
    page.context.clear_cookies()

    page.click("#judge-agree")

    page.wait_for_url("**/login?next=%2Fstudies%2F**")
    log_in(page, ACTING)
    expect(page.locator("h1")).to_have_text("Schmidt, Anna")


def test_attributes_are_listed_and_found(page: Page) -> None:
    page.click("text=DICOM attributes")
    rows = page.locator("#attributes tbody tr")
    expect(rows.filter(has_text="PatientName")).to_contain_text("PHANTOM^BROKEN")
    count = rows.count()

    page.fill("#attributes input", "window")
    assert 0 < page.locator("#attributes tbody tr:visible").count() < count


def test_files_can_be_downloaded(page: Page, site: Review) -> None:
    for words, expected in (
        ("Original", (site.directory / f"spool/{1:032x}.dcm").read_bytes()),
        ("Secondary Capture", b"a result"),
    ):
        with page.expect_download() as download:
            page.click(f".files >> text={words}")
        assert Path(download.value.path()).read_bytes() == expected


def test_panel_shows_why_there_is_no_result(site: Review, open_study: Open) -> None:
    site.refuse(site.receive(4, study_instance_uid="1.2.3.6"), "This is a chest.")
    page = open_study(study="1.2.3.6")

    expect(page.locator("#panel")).to_contain_text("not analyzed")
    expect(page.locator("#panel")).to_contain_text("This is a chest.")
    expect(page.locator("#heatmap")).to_be_disabled()
    assert drawn(page).max() > 100  # the image is shown


def test_new_instance_of_the_study_appears_on_the_page(
    open_study: Open, site: Review
) -> None:
    fill(site, "1.2.3.9", 30)
    page = open_study(study="1.2.3.9")
    page.wait_for_selector("body[data-live]")
    third = site.receive(5, study_instance_uid="1.2.3.9", view_position="OBL")
    expect(page.locator("canvas")).to_have_count(3)
    label = page.locator(".pane-label").nth(2)
    expect(label).to_contain_text("received")

    site.answer(third, 0.75)

    expect(label).to_contain_text("Definite fracture, probability of a fracture 75.0%")
