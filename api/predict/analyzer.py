"""Analyze uploaded files one at a time, and decode slow files separately.

One thread decodes and classifies the files in turn. The event loop thus continues to
serve other requests, and analyses do not compete for the processor. The bytes of a file
are decoded in a child process, because they may crash it, hang it or exhaust its
memory. If decoding takes long, it is stopped and repeated in another thread and child
process. The first thread then continues with other files.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fastapi import HTTPException, status

from api.auth.request_user import user_key
from api.http.concurrency_limit import RETRY_AFTER_S, QueueLimit, UploadLimit
from api.operations.health import NotReadyError
from api.predict.reader import Reader
from config.settings import ModelSettings, ResultSettings, WorkerSettings
from dicom_node.decoder.client import ChildTimeoutError
from dicom_node.decoder.quick_client import QuickDecoder, slow_child
from inference.classification.classifier import Classifier, self_test
from inference.classification.out_of_distribution import OutOfDistributionError
from inference.drawing.result_image import Annotated, render
from inference.finding import Finding, ModelIdentity
from inference.radiograph import Radiograph
from models.card import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class UploadResult:
    """The finding on one radiograph, and the annotated image."""

    radiograph: Radiograph
    finding: Finding
    annotated: Annotated


@dataclass(frozen=True, slots=True, eq=False)
class _Tools:
    """The decoder and the model. They take seconds to load."""

    reader: Reader
    classifier: Classifier


class Analyzer:
    """Analyzes files, with a model, threads and a decoder of its own.

    Use it as a context manager.

    Attributes:
        queue: Limits the requests that wait for an analysis.
        uploads: Limits the uploads in progress.
    """

    def __init__(
        self, model: ModelSettings, worker: WorkerSettings, results: ResultSettings
    ) -> None:
        """Store the settings. The threads start when the context is entered."""
        self._model, self._worker, self._results = model, worker, results
        self.queue = QueueLimit(user_key, waiting=8)
        self.uploads = UploadLimit()
        self._slow_file: Future[Radiograph] | None = None
        self._tools: Future[_Tools] = Future()

    def __enter__(self) -> Self:
        """Start the threads, and load the model in one of them."""
        self._thread = ThreadPoolExecutor(1, "analyzer")
        self._slow_thread = ThreadPoolExecutor(1, "slow-analyzer")
        self._tools = self._thread.submit(self._load)
        self._tools.add_done_callback(_report)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Finish running analyses, cancel waiting ones, and stop the child process.

        A model that is still loading is not waited for.
        """
        # While the model is loading, do not wait for its thread.
        self._thread.shutdown(wait=self._tools.done(), cancel_futures=True)
        self._slow_thread.shutdown(wait=self._tools.done(), cancel_futures=True)
        # If the model is still loading, its child process starts later and is then
        # stopped.
        self._tools.add_done_callback(_close)

    def check(self) -> None:
        """Check that images can be analyzed.

        Raises:
            NotReadyError: The model is not loaded yet, or cannot be loaded.
        """
        if not self._tools.done():
            raise NotReadyError("the model is being loaded")
        if error := self._tools.exception():
            raise NotReadyError(f"the model cannot be used: {error}")

    def model(self) -> ModelIdentity | None:
        """Return the identity of the model; None if the model is not loaded."""
        tools = self._tools
        if not tools.done() or tools.cancelled() or tools.exception():
            return None
        return tools.result().classifier.identity

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
    ) -> UploadResult:
        """Wait for a slot, analyze the file and return the result.

        Args:
            file: The path of the upload.
            slot: Returns a context manager that waits for a slot for the request and
                holds it. If reading the file takes long, it is repeated without a slot,
                so that other requests do not wait for it.

        Raises:
            HTTPException: 400, 413 or 415 if the file has no radiograph that can be
                analyzed, with the reason. 503 if the file is slow and another slow file
                is being decoded. Errors of `slot` are raised, too.
        """
        submit = self._thread.submit
        try:
            async with slot():
                return await asyncio.wrap_future(submit(self._analyze, file))
        except ChildTimeoutError:
            radiograph = await self._read_slowly(file)
        async with slot():
            return await asyncio.wrap_future(submit(self._classify, radiograph))

    async def _read_slowly(self, file: Path) -> Radiograph:
        """Read a slow file. Only one is read at a time.

        `_slow_file` shows whether a file is being read. The reading continues even if
        the request is cancelled.

        Raises:
            HTTPException: 503 if another slow file is being read. 400, 413 or 415 as in
                `_read_in_own_child`.
        """
        if self._slow_file is not None and not self._slow_file.done():
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "This image takes long to decode, and another slow image is being "
                "decoded. Send this one again later.",
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        reader = self._tools.result().reader
        self._slow_file = self._slow_thread.submit(_read_in_own_child, reader, file)
        return await asyncio.wrap_future(self._slow_file)

    def _load(self) -> _Tools:
        model, worker = self._model, self._worker
        classifier = Classifier.load(model.weights, model.device)
        self_test(classifier)
        child = QuickDecoder(
            timeout_s=worker.decode_timeout_s, memory_mb=worker.decode_memory_mb
        )
        return _Tools(Reader(child, worker, classifier.card.body_parts), classifier)

    def _analyze(self, file: Path) -> UploadResult:
        return self._classify(self._tools.result().reader.read(file))

    def _classify(self, radiograph: Radiograph) -> UploadResult:
        start = time.monotonic()
        tools = self._tools.result()
        try:
            finding = tools.classifier.classify(radiograph)
        except OutOfDistributionError as error:
            code = status.HTTP_415_UNSUPPORTED_MEDIA_TYPE
            raise HTTPException(code, str(error)) from None
        long_side = self._results.long_side
        annotated = render(radiograph, finding, long_side=long_side)
        logger.info(
            "Analyzed an upload in %.2f s: %s", time.monotonic() - start, finding.label
        )
        return UploadResult(radiograph, finding, annotated)


def _read_in_own_child(reader: Reader, file: Path) -> Radiograph:
    """Read a file in a new child process, with the full time limit of the settings.

    Raises:
        HTTPException: As in `Reader.read`. Also 400 if the time limit is exceeded.
    """
    limits = reader.limits
    timeout_s, memory_mb = limits.decode_timeout_s, limits.decode_memory_mb
    with slow_child(timeout_s, memory_mb, reader.child.server) as child:
        try:
            return replace(reader, child=child).read(file)
        except ChildTimeoutError as error:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, str(error)) from None


def _close(tools: Future[_Tools]) -> None:
    """Stop the decoder, if the model was loaded."""
    if not tools.cancelled() and not tools.exception():
        tools.result().reader.child.close()


def _report(tools: Future[_Tools]) -> None:
    """Log that the model was loaded, or why it cannot be used."""
    if tools.cancelled():
        return
    if error := tools.exception():
        traceback = None if isinstance(error, ModelError) else error
        logger.error("The model cannot be used: %s", error, exc_info=traceback)
    else:
        identity = tools.result().classifier.identity
        logger.info("Loaded the model %s %s", identity.name, identity.version)
