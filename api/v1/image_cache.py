"""Decode radiographs in a child process, and cache the images that pages show.

A view is a radiograph with one window. A view in the cache is not decoded again, for
example if a user opens a study again or resets a window.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from fastapi import HTTPException, status
from numpy.typing import NDArray

from api.auth.request_user import user_key
from api.http.concurrency_limit import RETRY_AFTER_S, QueueLimit
from config.settings import WorkerSettings
from dicom_node.decoder.client import ChildTimeoutError, DecoderProcess
from dicom_node.decoder.quick_client import QuickDecoder, slow_child
from dicom_node.errors import DicomNodeError
from dicom_node.pixels.rendering import Attribute, View, list_attributes, view_file
from dicom_node.results.overlay_data import OverlayData
from inference.drawing.result_image import tinted

T = TypeVar("T")
Key = tuple[str, tuple[float, float] | None]

CACHE_BYTES = 100_000_000

MOST_WAITING = 64
"""Maximum number of waiting requests of one user. A browser requests all images of a
study at once."""

AT_ONCE = 4
"""Maximum number of users that are served at the same time. Most of them wait for the
one decoder. If the image of a user takes long, its request keeps one of the slots."""

_QUALITY = 92
# Gray images need no color options. Encoding must be fast, because a page requests a
# new image for each step while a user drags the window.
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY)


class ImageCache:
    """A cache of radiographs for display, and the process that decodes them.

    One child process decodes the images in turn. /predict has its own child process. If
    an image takes long, its decoding is stopped and repeated in another child process.
    Other images do not wait for this repetition. The cache must only be used from the
    event loop.

    Attributes:
        queue: Limits the requests. A route must hold a slot of this queue while it
            calls `view` or `attributes`.
    """

    def __init__(self, limits: WorkerSettings) -> None:
        """Create an empty cache. The child process starts on first use."""
        self._limits = limits
        self._child: DecoderProcess | None = None
        self.queue = QueueLimit(user_key, waiting=MOST_WAITING, at_once=AT_ONCE)
        self._thread = ThreadPoolExecutor(1, "images")
        self._slow_thread = ThreadPoolExecutor(1, "slow-images")
        self._slow: Future[Any] | None = None
        self._views: OrderedDict[Key, View] = OrderedDict()

    def close(self) -> None:
        """Finish running calls, cancel waiting ones, and stop the child process."""
        self._thread.shutdown(cancel_futures=True)
        self._slow_thread.shutdown(cancel_futures=True)
        if self._child is not None:
            self._child.close()

    async def view(
        self, instance_id: str, path: Path, ends: tuple[float, float] | None
    ) -> View:
        """Return the image of an instance as pages show it.

        Args:
            instance_id: The id of the instance.
            path: The path of its file.
            ends: The modality values at the ends of the gray scale. None selects the
                window that the model uses.

        Raises:
            HTTPException: 422 with the reason if the instance has no image that can be
                decoded. 503 if the image takes long, and another slow image is already
                being decoded.
        """
        key = instance_id, ends
        view = await self._run(lambda child: self._view(child, key, path))
        self._store(key, view)
        return view

    async def attributes(self, path: Path) -> list[Attribute]:
        """Return the attributes of the instance in a file, up to a maximum number.

        Raises:
            HTTPException: 422 if the file cannot be read; 503 as in `view`.
        """
        most = self._limits.max_megapixels
        return await self._run(lambda child: child.run(list_attributes, path, most))

    async def _run(self, call: Callable[[DecoderProcess], T]) -> T:
        try:
            try:
                quick = self._thread.submit(lambda: call(self._started()))
                return await asyncio.wrap_future(quick)
            except ChildTimeoutError:
                return await self._run_slowly(call)
        except DicomNodeError as error:
            code = status.HTTP_422_UNPROCESSABLE_CONTENT
            raise HTTPException(code, str(error)) from None

    async def _run_slowly(self, call: Callable[[DecoderProcess], T]) -> T:
        """Repeat a call in a new child process, and return its result.

        The time limit is decode_timeout_s. The limit of the first try is usually
        shorter.

        Raises:
            HTTPException: 503 if another call is being repeated.
        """
        if self._slow is not None and not self._slow.done():
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "This image takes long to decode, and another slow image is being "
                "decoded. Request this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        slow = self._slow_thread.submit(self._in_own_child, call)
        self._slow = slow
        return await asyncio.wrap_future(slow)

    def _view(self, child: DecoderProcess, key: Key, path: Path) -> View:
        # An earlier request may have decoded this view.
        if (known := self._views.get(key)) is not None:
            return known
        limits, (_, ends) = self._limits, key
        window = limits.window if ends is None else ends
        return child.run(view_file, path, window, limits.max_megapixels)

    def _in_own_child(self, call: Callable[[DecoderProcess], T]) -> T:
        limits, server = self._limits, self._started().server
        timeout_s, memory_mb = limits.decode_timeout_s, limits.decode_memory_mb
        with slow_child(timeout_s, memory_mb, server) as child:
            return call(child)

    def _store(self, key: Key, view: View) -> None:
        """Add a view. Drop the least recently used views beyond CACHE_BYTES."""
        self._views[key] = view
        self._views.move_to_end(key)
        while len(self._views) > 1 and self._bytes() > CACHE_BYTES:
            self._views.popitem(last=False)

    def _bytes(self) -> int:
        return sum(view.pixels.nbytes for view in self._views.values())

    def _started(self) -> DecoderProcess:
        if self._child is None:
            self._child = QuickDecoder(
                timeout_s=self._limits.decode_timeout_s,
                memory_mb=self._limits.decode_memory_mb,
            )
        return self._child


def jpeg(pixels: NDArray[np.uint8], long_side: int | None) -> bytes:
    """Return a gray image as a JPEG file.

    Args:
        pixels: The image, (rows, columns).
        long_side: Maximum long side in pixels. A larger image is reduced to this size.
            None means no maximum.
    """
    scale = min((long_side or max(pixels.shape)) / max(pixels.shape), 1.0)
    if scale < 1:
        rows, columns = (max(1, round(side * scale)) for side in pixels.shape)
        interpolation = cv2.INTER_AREA
        pixels = np.asarray(
            cv2.resize(pixels, (columns, rows), interpolation=interpolation)
        )
    _, encoded = cv2.imencode(".jpg", pixels, _JPEG)
    return encoded.tobytes()


def heatmap_png(overlay: OverlayData) -> bytes:
    """Return a heatmap as a PNG file in color, transparent where its values are low."""
    rgba = tinted(overlay.levels)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    return encoded.tobytes()
