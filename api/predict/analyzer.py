"""Analyze uploaded files one at a time, and decode slow files separately.

One thread analyzes the files in turn. Therefore the event loop can serve other
requests, and analyses do not compete for the processor. For decoding, the thread uses a
child process, because a file may crash the decoder, hang it or exhaust its memory. If
decoding takes long, the decoding is stopped and repeated in another thread and child
process. The first thread then continues with other files.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from fastapi import HTTPException, status

from api.auth.request_user import user_key
from api.http.concurrency_limit import RETRY_AFTER_S, QueueLimit, UploadLimit
from api.operations.health import NotReadyError
from config.settings import Settings
from dicom_node.analysis.pipeline import (
    Analysis,
    Pipeline,
    Source,
    make_pipeline,
    slow_pipeline,
)
from dicom_node.decoder.client import ChildTimeoutError
from dicom_node.decoder.quick_client import QuickDecoder
from dicom_node.pixels.decode import DecodedInstance
from inference.drawing.result_image import Annotated
from inference.finding import ModelIdentity
from models.card import ModelError

logger = logging.getLogger(__name__)


class Analyzer:
    """The analysis of uploaded files: a model, two threads and a decoder.

    An analyzer is a context manager, and works only within its block.

    Attributes:
        queue: Limits the requests that wait for an analysis.
        uploads: Limits the uploads in progress.
    """

    def __init__(self, settings: Settings, uploads: UploadLimit) -> None:
        """Store the arguments. The threads start when the context is entered.

        Args:
            settings: All settings of the node.
            uploads: The limit of the uploads in progress. Other routes may share it.
        """
        self._settings = settings
        self.queue = QueueLimit(user_key, waiting=8)
        self.uploads = uploads
        self._slow_file: Future[DecodedInstance] | None = None
        self._pipeline: Future[Pipeline] = Future()

    def __enter__(self) -> Self:
        """Start the threads, and load the model in one of them."""
        self._thread = ThreadPoolExecutor(1, "analyzer")
        self._slow_thread = ThreadPoolExecutor(1, "slow-analyzer")
        self._pipeline = self._thread.submit(self._load)
        self._pipeline.add_done_callback(_report)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Finish running analyses, cancel waiting ones, and stop the child process.

        The method does not wait for a model that is still loading.
        """
        # While the model is loading, do not wait for its thread.
        is_loaded = self._pipeline.done()
        self._thread.shutdown(wait=is_loaded, cancel_futures=True)
        self._slow_thread.shutdown(wait=is_loaded, cancel_futures=True)
        # If the model is still loading, its child process starts later and is then
        # stopped.
        self._pipeline.add_done_callback(_close)

    def check(self) -> None:
        """Check that images can be analyzed.

        Raises:
            NotReadyError: The model is not loaded yet, or cannot be loaded.
        """
        if not self._pipeline.done():
            raise NotReadyError("the model is being loaded")
        if error := self._pipeline.exception():
            raise NotReadyError(f"the model cannot be used: {error}")

    def model(self) -> ModelIdentity | None:
        """Return the identity of the model; None if the model is not loaded."""
        loaded = self._pipeline
        if not loaded.done() or loaded.cancelled() or loaded.exception():
            return None
        return loaded.result().classifier.identity

    def require_ready(self) -> None:
        """Refuse a request if the model is not loaded.

        Raises:
            HTTPException: 503, with Retry-After in seconds.
        """
        try:
            self.check()
        except NotReadyError:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "The model is not ready; see /readyz. Send the image again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            ) from None

    async def analyze(
        self, file: Path, slot: Callable[[], AbstractAsyncContextManager[None]]
    ) -> Analysis[Annotated]:
        """Wait for a slot, analyze the file and return the result.

        Args:
            file: The path of the upload.
            slot: Returns a context manager that waits for a slot for the request and
                holds it during its block. If reading the file takes long, the reading
                is repeated without a slot, so that other requests do not wait for it.

        Raises:
            DicomNodeError, PlainImageError: The file has no radiograph that can be
                analyzed, as in `Pipeline.analyze`.
            HTTPException: 503 if the file is slow and another slow file is being
                decoded. Errors of `slot` are raised, too.
        """
        submit = self._thread.submit
        try:
            async with slot():
                return await asyncio.wrap_future(submit(self._analyze, file))
        except ChildTimeoutError:
            decoded = await self._read_slowly(file)
        async with slot():
            return await asyncio.wrap_future(submit(self._analyze, decoded))

    async def _read_slowly(self, file: Path) -> DecodedInstance:
        """Decode a slow file in another thread and child process; return the result.

        Only one slow file is decoded at a time. The decoding continues even if the
        request is cancelled.

        Raises:
            DicomNodeError, PlainImageError: As in `Pipeline.read`.
            HTTPException: 503 if another slow file is being decoded.
        """
        if self._slow_file is not None and not self._slow_file.done():
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "This image takes long to decode, and another slow image is being "
                "decoded. Send this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        read, pipeline = _read_in_own_child, self._pipeline.result()
        self._slow_file = self._slow_thread.submit(read, pipeline, file)
        return await asyncio.wrap_future(self._slow_file)

    def _load(self) -> Pipeline:
        return make_pipeline(self._settings, ignore_age=True, child=QuickDecoder)

    def _analyze(self, source: Source) -> Analysis[Annotated]:
        pipeline = self._pipeline.result()
        analysis = pipeline.analyze(source, pipeline.draw)
        # A slow file was decoded earlier, so the time does not include the decoding.
        seconds = analysis.seconds["classify"] + analysis.seconds["encode"]
        logger.info("Analyzed an upload in %.2f s: %s", seconds, analysis.finding.label)
        return analysis


def _read_in_own_child(pipeline: Pipeline, file: Path) -> DecodedInstance:
    """Decode a file in a new child process; the time limit is decode_timeout_s."""
    with slow_pipeline(pipeline) as slow:
        return slow.read(file)


def _close(loaded: Future[Pipeline]) -> None:
    """Stop the decoder, if the model was loaded."""
    if not loaded.cancelled() and not loaded.exception():
        loaded.result().child.close()


def _report(loaded: Future[Pipeline]) -> None:
    """Log that the model was loaded, or why it cannot be used."""
    if loaded.cancelled():
        return
    if error := loaded.exception():
        traceback = None if isinstance(error, ModelError) else error
        logger.error("The model cannot be used: %s", error, exc_info=traceback)
    else:
        identity = loaded.result().classifier.identity
        logger.info("Loaded the model %s %s", identity.name, identity.version)
