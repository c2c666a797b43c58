"""The upload page in a real Chromium."""

import base64
import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Route

from api.app import create_app
from config.settings import load
from dicom_node.demo.phantom_instance import phantom_dataset
from inference.phantom.long_bone import draw_phantom

pytestmark = [
    pytest.mark.browser,
    pytest.mark.usefixtures("common_decoders"),
]


DROP = """([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.body.dispatchEvent(
    new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""
"""A script that drops a file on the page. Its argument is [content in base64, name]."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the application, which runs with the shipped model."""
    torch.set_num_threads(1)  # as api/__main__.py does
    directory = tmp_path_factory.mktemp("data")
    settings = load(None, {"FRACTURE_NODE__STORAGE__DIRECTORY": str(directory)})
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as bound, ThreadPoolExecutor(1) as run:
        running = run.submit(server.run, [bound])
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=60) as client:
                while client.get("/readyz").json()["model"].endswith("being loaded"):
                    pass
            yield address
        finally:
            server.should_exit = True
            running.result()


@pytest.fixture
def page(tab: Page, address: str) -> Iterator[Page]:
    """The upload page, open in the browser.

    The test fails if the page requests another host, raises an error or writes to the
    console. Only the message of the browser about status 415 is allowed.
    """
    urls, messages = list[str](), list[str]()
    listeners: dict[Any, Any] = {
        "request": lambda request: urls.append(request.url),
        "pageerror": lambda error: messages.append(str(error)),
        "console": lambda line: messages.append(line.text),
    }
    tab.set_viewport_size({"width": 1280, "height": 800})
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.goto(address)
    yield tab
    tab.goto(f"{address}/healthz")  # ends the requests of the page
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)

    own = (address, "data:image/jpeg;base64,")
    assert [url for url in urls if not url.startswith(own)] == []
    # The browser itself logs a message for a response with an error status.
    assert [text for text in messages if "status of 415" not in text] == []


def png(*, broken: bool) -> bytes:
    drawn = draw_phantom(broken=broken, rows=600, columns=450)
    _, content = cv2.imencode(".png", drawn.radiograph().pixels)
    return content.tobytes()


def choose(page: Page, content: bytes, name: str = "phantom.png") -> None:
    """Choose a file, and wait for its result or for an error."""
    page.set_input_files(
        "#file",
        {"name": name, "mimeType": "application/octet-stream", "buffer": content},
    )
    page.wait_for_selector(".bench:is([data-state=done], [data-state=failed])")


def shown(page: Page) -> NDArray[np.int16]:
    """Return the RGB pixels of a screenshot of the picture."""
    content = page.locator("#stack").screenshot()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int16)


def set_overlay(page: Page, percent: int) -> None:
    page.locator("#opacity").fill(str(percent))


def colored(picture: NDArray[np.int16]) -> int:
    """Return the number of pixels that are not gray, such as those of the heatmap."""
    return int((np.ptp(picture, axis=2) > 12).sum())


@pytest.mark.integration
def test_page_shows_the_response_of_predict_for_a_chosen_file(
    page: Page, address: str
) -> None:
    content = png(broken=True)
    prediction = httpx.post(
        f"{address}/predict", files={"file": content}, timeout=60
    ).json()

    choose(page, content)

    assert prediction["prediction"] == "Fracture"
    assert page.inner_text("#label") == prediction["prediction"]
    assert page.inner_text("#confidence") == prediction["confidence"]
    assert page.inner_text("#probability") == f"{prediction['probability']:.1%}"
    assert page.get_attribute("#result", "data-point") == prediction["operating_point"]
    version = f"{prediction['model']['name']} {prediction['model']['version']}"
    assert page.inner_text("#model") == version
    assert "not for diagnostic use" in page.inner_text("#result")


@pytest.mark.integration
def test_arrow_points_at_the_fracture(address: str) -> None:
    drawn = draw_phantom(broken=True, rows=600, columns=450)
    files = {"file": png(broken=True)}

    prediction = httpx.post(f"{address}/predict", files=files, timeout=60).json()

    assert drawn.fracture
    left, top, right, bottom = drawn.fracture
    column, row = prediction["arrow"]["tip"]
    assert left <= column < right
    assert top <= row < bottom


def test_slider_blends_original_and_annotated_picture(page: Page) -> None:
    choose(page, png(broken=True))
    pictures = {}
    for percent in (0, 50, 100):
        set_overlay(page, percent)
        pictures[percent] = shown(page)

    assert colored(pictures[0]) == 0
    assert colored(pictures[100]) > 500
    # Opacity is linear: at 50 %, every pixel is the mean of the two pictures.
    halfway = (pictures[0] + pictures[100]) / 2
    assert np.abs(pictures[50] - halfway).max() <= 2
    assert page.inner_text("#opacity-value") == "100%"


def test_original_is_aligned_with_the_annotated_picture(page: Page) -> None:
    choose(page, png(broken=False))
    set_overlay(page, 0)
    original = shown(page)
    set_overlay(page, 100)
    annotated = shown(page)

    # Without a finding, both pictures show the same radiograph. The annotated picture
    # has a caption below it.
    area = page.locator("#original").bounding_box()
    rows = int(area["height"]) - 2
    assert page.inner_text("#label") == "No Fracture"
    assert np.abs(annotated[:rows] - original[:rows]).mean() < 1
    assert original[rows + 4 :].max() == 0
    assert annotated[rows + 4 :].max() > 100


def test_slider_moves_by_keyboard(page: Page) -> None:
    choose(page, png(broken=True))
    page.focus("#opacity")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")

    assert page.inner_text("#opacity-value") == "70%"
    assert page.get_attribute("#opacity", "aria-valuetext") == "70% annotated"


def test_dropped_dicom_file_is_analyzed(page: Page) -> None:
    content = io.BytesIO()
    drawn = draw_phantom(broken=True, rows=600, columns=450)
    phantom_dataset(drawn).save_as(content, enforce_file_format=True)

    page.evaluate(DROP, [base64.b64encode(content.getvalue()).decode(), "IM0001"])
    page.wait_for_selector("[data-state=done]")

    assert page.inner_text("#label") == "Fracture"
    assert page.inner_text("#file-name") == "IM0001"


def test_phantom_is_analyzed_on_request(page: Page) -> None:
    page.click("text=Try the phantom")
    page.wait_for_selector("[data-state=done]")

    assert page.inner_text("#label") == "Fracture"


def test_file_that_is_no_image_is_refused_and_the_next_file_is_analyzed(
    page: Page,
) -> None:
    choose(page, b"hello", "notes.txt")

    assert "neither an image nor DICOM" in page.inner_text("[role=alert]")
    assert page.is_visible(".drop-zone")
    assert page.is_hidden("#result")

    choose(page, png(broken=True))

    assert page.inner_text("#label") == "Fracture"
    assert page.is_hidden("[role=alert]")


def change_prediction(page: Page, **changes: object) -> None:
    """Change fields of the response of /predict before the page receives it."""

    def change(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json={**response.json(), **changes})

    page.route("**/predict*", change)


def test_explanation_mentions_the_arrow_only_if_there_is_one(page: Page) -> None:
    choose(page, png(broken=True))

    assert "The arrow points to" in page.inner_text("#explained")

    change_prediction(page, arrow=None, findings=[])
    choose(page, png(broken=True), "again.png")
    page.wait_for_selector("#file-name:text('again.png')")

    assert "so there is no arrow" in page.inner_text("#explained")
    assert "points to" not in page.inner_text("#explained")


def test_explanation_says_how_many_arrows_there_are(page: Page) -> None:
    change_prediction(page, findings=[{"score": 0.9}] * 3)

    choose(page, png(broken=True))

    assert "The 3 arrows point to" in page.inner_text("#explained")


@pytest.mark.parametrize(
    ("probability", "written"),
    [(0.9997, ">99.9%"), (0.0003, "<0.1%"), (0.9431, "94.3%")],
)
def test_probability_is_never_shown_as_a_certainty(
    page: Page, probability: float, written: str
) -> None:
    change_prediction(page, probability=probability)

    choose(page, png(broken=True))

    assert page.inner_text("#probability") == written
    assert page.get_attribute("#bar", "aria-valuetext") == written
    assert page.get_attribute("#bar", "aria-valuenow") == written.strip("<>%")


def test_late_response_does_not_replace_a_newer_one(page: Page) -> None:
    # The decoding of pictures waits until go() is called.
    page.evaluate("""() => {
      const held = [];
      window.go = () => held.forEach((letGo) => letGo());
      window.both = new Promise((done) => {
        HTMLImageElement.prototype.decode = () => new Promise((letGo) => {
          if (held.push(letGo) === 2) done();
        });
      });
    }""")
    file = {"name": "slow.png", "mimeType": "", "buffer": png(broken=True)}
    page.set_input_files("#file", file)
    page.evaluate("both")
    choose(page, b"hello", "notes.txt")

    page.evaluate("go()")
    page.evaluate("new Promise((go) => setTimeout(go))")  # pending callbacks have run

    assert page.get_attribute(".bench", "data-state") == "failed"
    assert "neither an image nor DICOM" in page.inner_text("[role=alert]")
    assert page.is_hidden("#result")


def test_late_phantom_does_not_replace_a_newer_file(page: Page) -> None:
    held: list[Route] = []
    page.route("**/phantom.png", lambda route, _request: held.append(route))
    page.click("text=Try the phantom")
    choose(page, b"hello", "notes.txt")

    with page.expect_response("**/phantom.png") as response:
        held[0].fallback()
    response.value.finished()
    page.evaluate("new Promise((go) => setTimeout(go))")

    assert page.get_attribute(".bench", "data-state") == "failed"


def test_file_chooser_is_reached_by_keyboard_and_shows_its_focus(page: Page) -> None:
    for _ in range(10):  # past the skip link, the name and links to seven pages
        page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.id") == "file"
    style = "getComputedStyle(document.querySelector('.drop-zone')).outlineStyle"
    assert page.evaluate(style) == "solid"


def test_every_control_has_a_name(page: Page) -> None:
    named = "e.labels?.length || e.textContent.trim() || e.alt || e.ariaLabel"
    for selector in ("input, button", ".view img", "[aria-label]", "nav a"):
        unnamed = page.evaluate(
            "([selector]) => [...document.querySelectorAll(selector)]"
            f".filter((e) => !({named})).map((e) => e.outerHTML)",
            [selector],
        )

        assert unnamed == []


def test_nothing_is_wider_than_the_window(page: Page) -> None:
    choose(page, png(broken=True))
    for width in (320, 768, 1600):
        page.set_viewport_size({"width": width, "height": 800})

        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_api_documentation_loads_nothing_from_other_hosts(
    page: Page, address: str
) -> None:
    page.goto(f"{address}/docs")

    text = page.inner_text("main")
    for path in ("/predict", "/healthz", "/readyz", "operating_point", "curl -F file="):
        assert path in text
