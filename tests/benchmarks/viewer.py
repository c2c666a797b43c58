"""`make bench`, the study view: frame times of a 20-megapixel radiograph in a browser.

The benchmark prints the milliseconds between the frames of the browser while the image
is windowed, moved and zoomed. It uses Chromium without a GPU.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from dicom_node.demo.phantom_instance import phantom_dataset
from tests.api.auth.test_login_page import log_in
from tests.support.http_client import ACTING
from tests.support.limb_phantom import draw_limb
from tests.support.review_site import Review, served

COLUMNS = 3600  # with 5580 rows
STEPS = 60
COUNT = """() => {
  const times = [];
  let running = true;
  const tick = (time) => {
    times.push(time);
    if (running) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  window.counted = () => {
    running = false;
    return times;
  };
}"""


def main() -> None:
    """Print the time until the image is shown, and the frame times."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        site = Review(Path(folder))
        received = site.receive(1, study_instance_uid="1.2.3")
        drawn = draw_limb("forearm", broken=True, columns=COLUMNS, seed=4)
        dataset = phantom_dataset(drawn)
        dataset.save_as(received.path, enforce_file_format=True)
        site.answer(received)
        port = stack.enter_context(served(site))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/login?next=/studies/1.2.3")
        start = time.perf_counter()
        log_in(page, ACTING)
        page.wait_for_selector("body[data-ready]")
        expect(page.locator(".pane-notice")).to_be_hidden(timeout=60_000)
        megapixels = dataset.Rows * dataset.Columns / 1e6
        print_line(
            f"{megapixels:.0f} megapixels in the study view, {page.viewport_size}"
        )
        print_line(f"  shown after           {time.perf_counter() - start:.2f} s")
        measure(page)
        browser.close()


def measure(page: Page) -> None:
    """Print the frame times of windowing, moving and zooming.

    Also print the time until the values of the window are no longer approximate.
    """
    box = page.locator("canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag() -> None:
        page.mouse.move(x, y)
        page.mouse.down()
        for step in range(STEPS):
            page.mouse.move(x - 3 * step, y - step)
        page.mouse.up()

    def zoom() -> None:
        page.mouse.move(x, y)
        for step in range(STEPS):
            page.mouse.wheel(0, -60 if step < STEPS / 2 else 60)

    frames(page, "dragging the window", drag)
    start = time.perf_counter()
    expect(page.locator(".pane-values")).not_to_contain_text("≈", timeout=60_000)
    print_line(f"  true window after     {time.perf_counter() - start:.2f} s")
    page.click("[data-mode=pan]")
    frames(page, "moving, fitted", drag)
    page.click("#full")
    frames(page, "moving, 1:1", drag)
    frames(page, "zooming", zoom)


def frames(page: Page, name: str, action: Callable[[], None]) -> None:
    """Print statistics of the times between the frames during an action."""
    page.evaluate(COUNT)
    action()
    times = page.evaluate("window.counted()")
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    print_line(
        f"  {name:<20}  {len(gaps)} frames, median {statistics.median(gaps):.1f} ms, "
        f"90 % within {gaps[int(0.9 * len(gaps))]:.1f} ms, worst {gaps[-1]:.1f} ms"
    )


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
