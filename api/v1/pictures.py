"""Decode radiographs for display in a child process, and cache the last few.

When a study is opened, its images are drawn at two sizes, one after the other. Each
drag of the mouse draws an image with another window.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from fastapi import HTTPException, status
from numpy.typing import NDArray

from api.admission import FairQueue
from config.settings import WorkerSettings
from dicom_node.decoding_child import DecodingChild
from dicom_node.drawing import Drawing
from dicom_node.errors import DicomNodeError
from dicom_node.viewing import Attribute, View, list_attributes, view_file
from inference.overlay import tinted

T = TypeVar("T")
Key = tuple[str, tuple[float, float] | None]

KEPT_BYTES = 100_000_000

MOST_WAITING = 64
"""Maximum number of waiting requests of one user. A browser requests all images of a
study at once."""

QUALITY = 92
# Gray images need no color options, and fast encoding matters during dragging.
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, QUALITY)


class Pictures:
    """Decodes radiographs for display, in a child process apart from that of /predict.

    Attributes:
        queue: Requests must wait here before they call a method. Users then wait for
            each other and do not use memory at the same time.
    """

    def __init__(self, limits: WorkerSettings) -> None:
        """Store the limits. The child process starts on first use."""
        self._limits = limits
        self._child: DecodingChild | None = None
        self.queue = FairQueue(waiting=MOST_WAITING)
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._kept: OrderedDict[Key, View] = OrderedDict()

    def close(self) -> None:
        """Finish the running call and cancel waiting ones."""
        self._thread.shutdown(cancel_futures=True)
        if self._child is not None:
            self._child.close()

    async def view(
        self, instance_id: str, path: Path, ends: tuple[float, float] | None
    ) -> View:
        """Return the displayed pixels of an instance.

        Args:
            instance_id: The id of the instance.
            path: The path of its file.
            ends: The modality values at the ends of the gray scale. None selects the
                window that the model saw.

        Raises:
            HTTPException: 422 if the instance has no image that can be displayed, with
                the reason.
        """
        return await self._run(lambda: self._view((instance_id, ends), path))

    async def attributes(self, path: Path) -> list[Attribute]:
        """List the attributes of an instance.

        Raises:
            HTTPException: 422 if the file cannot be read.
        """
        most = self._limits.max_megapixels
        return await self._run(lambda: self._started().run(list_attributes, path, most))

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.wrap_future(self._thread.submit(call))
        except DicomNodeError as error:
            code = status.HTTP_422_UNPROCESSABLE_CONTENT
            raise HTTPException(code, str(error)) from None

    def _view(self, key: Key, path: Path) -> View:
        if key not in self._kept:
            limits = self._limits
            window = limits.window if key[1] is None else key[1]
            most = limits.max_megapixels
            self._kept[key] = self._started().run(view_file, path, window, most)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self._bytes() > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _bytes(self) -> int:
        return sum(view.pixels.nbytes for view in self._kept.values())

    def _started(self) -> DecodingChild:
        if self._child is None:
            self._child = DecodingChild(
                timeout_s=self._limits.decode_timeout_s,
                memory_mb=self._limits.decode_memory_mb,
            )
        return self._child


def jpeg(pixels: NDArray[np.uint8], long_side: int | None) -> bytes:
    """Encode an image as JPEG, reduced if its long side exceeds `long_side`."""
    scale = min((long_side or max(pixels.shape)) / max(pixels.shape), 1.0)
    if scale < 1:
        rows, columns = (max(1, round(side * scale)) for side in pixels.shape)
        way = cv2.INTER_AREA
        pixels = np.asarray(cv2.resize(pixels, (columns, rows), interpolation=way))
    _, encoded = cv2.imencode(".jpg", pixels, _JPEG)
    return encoded.tobytes()


def heatmap_png(drawing: Drawing) -> bytes:
    """Encode a heatmap as a transparent tint at its own coarse resolution."""
    rgba = tinted(drawing.levels)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    return encoded.tobytes()
