"""Draw the pages of an examination summary: one row for each listed image.

A page is at most as high as it is wide. So its text is legible if the page is shown in
a square of WIDTH pixels. Each page repeats the headline, because a reader may open any
page first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.drawing.text import filled, load_font
from inference.drawing.thumbnail import RgbImage

Ink = tuple[int, int, int]

Tone = Literal["definite", "doubtful", "none", "unanswered", "same_picture"]
"""The kind of answer in a row or the headline. It determines colors and bars.

"unanswered" means that there is no answer. "same_picture" means that the image is not
counted, because it shows the same picture as another image.
"""

WIDTH = 1024
"""Width and maximum height of a page in units. A unit is 1 to MAX_SCALE pixels."""

MAX_SCALE = 1.5
"""Maximum size of a unit in pixels."""

MARGIN, GAP = 24, 8
THUMBNAIL = 104
"""Width and height of the area for a thumbnail, in units."""
BAR = 8
"""Width of the bar at the left of a row, in units."""

TITLE, HEADLINE, ANSWER, TEXT, SMALL = 19, 31, 25, 19, 17
"""Sizes of the font in units. SMALL is still legible if a page is WIDTH pixels wide."""

LINE = 1.32
"""Height of a line, relative to the size of its font."""

_BACKGROUND, _RULE, _EMPTY = (14, 16, 18), (62, 66, 70), (30, 33, 36)
_WHITE, _LIGHT, _GRAY = (245, 245, 245), (206, 210, 214), (168, 172, 176)
_AMBER = (232, 190, 112)
_INKS: dict[Tone, Ink] = {
    "definite": (255, 118, 98),
    "doubtful": (255, 200, 70),
    "none": _WHITE,
    "unanswered": _AMBER,
    "same_picture": _GRAY,
}
_ANSWERS = "definite", "doubtful", "none"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The row of one image.

    Attributes:
        place: Where the image is in the study, as in "Image 3 (series 2, number 1)".
        anatomy: Body part, view and side; may be empty.
        answer: The answer in a few words.
        tone: The kind of the answer.
        details: Sentences: the probability, or the reason why there is no answer.
        thumbnail: RGB, uint8, (rows, columns, 3); None if there is no picture.
    """

    place: str
    anatomy: str
    answer: str
    tone: Tone
    details: str
    thumbnail: RgbImage | None


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """The content of the pages. It must not contain the name of the patient.

    Attributes:
        title: The kind of the document.
        headline: The most serious answer, and the number of images that it is based on.
        tone: The kind of the answer in the headline.
        warnings: Sentences about images without an answer.
        notes: Other sentences, such as the revision and the orders.
        rows: The images in the order of the pages.
        footer: Sentences below the rows, at least one. The first one is the most
            important.
    """

    title: str
    headline: str
    tone: Tone
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    footer: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of text.

    Attributes:
        text: The text; short enough for the width of its block.
        size: The size of the font in pixels.
        ink: The color.
    """

    text: str
    size: int
    ink: Ink

    @property
    def height(self) -> int:
        """The height of the line in pixels."""
        return round(LINE * self.size)


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines of text that are drawn one below the other."""

    lines: tuple[_Line, ...]

    @property
    def height(self) -> int:
        """The height of the block in pixels."""
        return sum(each.height for each in self.lines)


def page_scale(long_side: int) -> float:
    """Return the size of a unit in pixels, from 1 to MAX_SCALE.

    Args:
        long_side: Maximum side of a page in pixels. If it is below WIDTH, the page is
            larger than this, so that its text is legible.
    """
    return min(max(long_side / WIDTH, 1.0), MAX_SCALE)


def draw_pages(summary: Summary, scale: float) -> tuple[NDArray[np.uint8], ...]:
    """Draw the pages of an examination summary.

    Args:
        summary: The content.
        scale: The size of a unit in pixels; see `page_scale`.

    Returns:
        The pages: RGB, uint8, (rows, WIDTH * scale, 3). If there are several pages, all
        have the same size. A single page is only as high as its content.
    """
    return _Painter(scale).pages(summary)


class _Painter:
    """A painter of pages. The scale is the size of a unit in pixels."""

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def pages(self, summary: Summary) -> tuple[NDArray[np.uint8], ...]:
        header, footer = self._header(summary), self._footer(summary)
        texts = [self._row_text(each) for each in summary.rows]
        fixed = header.height + footer.height + self._px(2 * MARGIN + 4 * GAP)
        room = self._px(WIDTH) - fixed
        groups = _grouped([self._row_height(each) for each in texts], room)
        height = self._px(WIDTH)
        if len(groups) == 1:
            height = fixed + sum(self._row_height(each) for each in texts)
        pages = []
        for number, group in enumerate(groups, start=1):
            page = Image.new("RGB", (self._px(WIDTH), height), _BACKGROUND)
            self._draw_header(page, header, number, len(groups))
            top = self._px(MARGIN + 2 * GAP) + header.height
            for index in group:
                self._draw_row(page, summary.rows[index], texts[index], top)
                top += self._row_height(texts[index])
            self._draw_footer(page, footer)
            pages.append(np.asarray(page))
        return tuple(pages)

    def _px(self, units: float) -> int:
        return round(units * self._scale)

    def _block(self, texts: Sequence[tuple[str, int, Ink]], width: float) -> _Block:
        """Return texts as a block of lines.

        Args:
            texts: (text, size of the font, color) of each text. The size is in units.
            width: Maximum width of a line, in units.
        """
        lines = []
        for text, size, ink in texts:
            pixels = self._px(size)
            font = load_font(pixels)
            lines += [
                _Line(line, pixels, ink) for line in filled(text, font, self._px(width))
            ]
        return _Block(tuple(lines))

    def _header(self, summary: Summary) -> _Block:
        texts = [(summary.title, TITLE, _GRAY)]
        texts.append((summary.headline, HEADLINE, _INKS[summary.tone]))
        texts += [(each, TEXT, _AMBER) for each in summary.warnings]
        texts += [(each, SMALL, _LIGHT) for each in summary.notes]
        return self._block(texts, WIDTH - 2 * MARGIN)

    def _footer(self, summary: Summary) -> _Block:
        first, *others = summary.footer
        texts = [(first, TEXT, _AMBER), *((each, SMALL, _GRAY) for each in others)]
        return self._block(texts, WIDTH - 2 * MARGIN)

    def _row_text(self, row: Row) -> _Block:
        place = ", ".join(each for each in (row.place, row.anatomy) if each)
        return self._block(
            [
                (place, TEXT, _LIGHT),
                (row.answer, ANSWER, _INKS[row.tone]),
                (row.details, TEXT if row.tone in _ANSWERS else SMALL, _LIGHT),
            ],
            WIDTH - self._text_left() - MARGIN,
        )

    def _row_height(self, text: _Block) -> int:
        return max(text.height, self._px(THUMBNAIL)) + self._px(2 * GAP)

    def _text_left(self) -> int:
        """Return the left edge of the text of a row, in units."""
        return MARGIN + BAR + GAP + THUMBNAIL + 2 * GAP

    def _write(self, page: Image.Image, text: _Block, left: int, top: int) -> None:
        draw = ImageDraw.Draw(page)
        for line in text.lines:
            middle = left, top + line.height / 2
            draw.text(middle, line.text, line.ink, load_font(line.size), anchor="lm")
            top += line.height

    def _draw_header(
        self, page: Image.Image, header: _Block, number: int, count: int
    ) -> None:
        margin = self._px(MARGIN)
        self._write(page, header, margin, margin)
        first = header.lines[0]
        right = page.width - margin, margin + first.height / 2
        font = load_font(first.size)
        if count > 1:
            text = f"Page {number} of {count}"
            ImageDraw.Draw(page).text(right, text, _WHITE, font, anchor="rm")

    def _draw_footer(self, page: Image.Image, footer: _Block) -> None:
        top = page.height - self._px(MARGIN) - footer.height
        self._rule(page, top - self._px(GAP))
        self._write(page, footer, self._px(MARGIN), top)

    def _rule(self, page: Image.Image, top: int) -> None:
        margin = self._px(MARGIN)
        place = margin, top, page.width - margin, top + max(self._px(1), 1)
        ImageDraw.Draw(page).rectangle(place, _RULE)

    def _draw_row(self, page: Image.Image, row: Row, text: _Block, top: int) -> None:
        self._rule(page, top)
        top += self._px(GAP)
        height = self._row_height(text) - self._px(2 * GAP)
        self._draw_bar(page, row.tone, top, height)
        self._draw_thumbnail(page, row.thumbnail, top)
        offset = max(height - text.height, 0) // 2
        self._write(page, text, self._px(self._text_left()), top + offset)

    def _draw_bar(self, page: Image.Image, tone: Tone, top: int, height: int) -> None:
        """Draw the bar of a row. It distinguishes the answers even without color.

        The bar is solid for a definite fracture, dashed for a doubtful fracture, and
        hollow if there is no answer. For other tones, no bar is drawn.
        """
        draw, left = ImageDraw.Draw(page), self._px(MARGIN)
        right, bottom = left + self._px(BAR) - 1, top + height - 1
        ink = _INKS[tone]
        if tone == "definite":
            draw.rectangle((left, top, right, bottom), ink)
        elif tone == "doubtful":
            dash = height / 7
            for number in range(0, 7, 2):
                start = round(top + number * dash)
                draw.rectangle((left, start, right, round(start + dash) - 1), ink)
        elif tone == "unanswered":
            width = max(self._px(2), 1)
            draw.rectangle((left, top, right, bottom), outline=ink, width=width)

    def _draw_thumbnail(
        self, page: Image.Image, picture: RgbImage | None, top: int
    ) -> None:
        left, side = self._px(MARGIN + BAR + GAP), self._px(THUMBNAIL)
        draw = ImageDraw.Draw(page)
        draw.rectangle((left, top, left + side - 1, top + side - 1), _EMPTY)
        if picture is None:
            middle = left + side / 2, top + side / 2
            font = load_font(self._px(SMALL))
            draw.text(middle, "no picture", _GRAY, font, anchor="mm")
            return
        rows, columns, _ = picture.shape
        scale = side / max(rows, columns)
        size = max(1, round(columns * scale)), max(1, round(rows * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = Image.fromarray(
            np.asarray(cv2.resize(picture, size, interpolation=way))
        )
        place = left + (side - size[0]) // 2, top + (side - size[1]) // 2
        page.paste(small, place)


def _grouped(heights: Sequence[int], room: int) -> list[list[int]]:
    """Return which rows are on which page.

    Args:
        heights: The heights of the rows in pixels.
        room: The height of a page without header and footer, in pixels.

    Returns:
        The indices of the rows of each page; at least one page.
    """
    pages: list[list[int]] = [[]]
    left = room
    for index, height in enumerate(heights):
        if height > left and pages[-1]:
            pages.append([])
            left = room
        pages[-1].append(index)
        left -= height
    return pages
