"""Answers for one uploaded file at a time.

All of it runs in one thread of its own, so that two images never compete for the
processor while the event loop goes on answering everybody else. The sender's bytes are
decoded in a child process, which they may kill, hang or bloat.
"""

import asyncio
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fastapi import HTTPException, status

from api.admission import RETRY_AFTER_S
from api.health import NotReadyError
from api.reading import Reader
from config.settings import Settings
from dicom_node.decoding_child import DecodingChild
from inference.classifier import Classifier, self_test
from inference.finding import Finding
from inference.overlay import Annotated, render
from inference.radiograph import Radiograph

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What was found on one radiograph, and its picture."""

    radiograph: Radiograph
    finding: Finding
    annotated: Annotated


class Analyzer:
    """The model, its thread and its decoding child; a context manager."""

    def __init__(self, settings: Settings) -> None:
        """Remember the settings. Nothing is started before the context is entered."""
        self._settings = settings
        self._model: Future[Classifier] = Future()

    def __enter__(self) -> Self:
        """Start, and load the model while others are already served."""
        worker = self._settings.worker
        self._thread = ThreadPoolExecutor(1, "analyzer")
        self._child = DecodingChild(
            timeout_s=worker.decode_timeout_s, memory_mb=worker.decode_memory_mb
        )
        self._model = self._thread.submit(self._load)
        self._model.add_done_callback(_report)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Finish what runs, drop what waits."""
        self._thread.shutdown(cancel_futures=True)
        self._child.close()

    def check(self) -> None:
        """Ask whether images can be analyzed.

        Raises:
            NotReadyError: The model is not loaded yet, or cannot be.
        """
        if not self._model.done():
            raise NotReadyError("the model is being loaded")
        if error := self._model.exception():
            raise NotReadyError(f"the model cannot be used: {error}")

    def require_ready(self) -> None:
        """Refuse a request while there is no model.

        Raises:
            HTTPException: 503.
        """
        try:
            self.check()
        except NotReadyError as error:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"Not ready: {error}.",
                {"Retry-After": str(RETRY_AFTER_S)},
            ) from None

    async def analyze(self, file: Path) -> Analysis:
        """Wait for this file's turn, then for its analysis.

        Raises:
            HTTPException: 400, 413 or 415: there is no radiograph in the file that can
                be analyzed, and why.
        """
        return await asyncio.wrap_future(self._thread.submit(self._analyze, file))

    def _load(self) -> Classifier:
        model = self._settings.model
        classifier = Classifier.load(model.weights, model.device)
        self_test(classifier)
        return classifier

    def _analyze(self, file: Path) -> Analysis:
        start = time.monotonic()
        classifier = self._model.result()
        reader = Reader(self._child, self._settings.worker, classifier.card.body_parts)
        radiograph = reader.read(file)
        finding = classifier.classify(radiograph)
        long_side = self._settings.results.long_side
        annotated = render(radiograph, finding, long_side=long_side)
        logger.info(
            "Analyzed an upload in %.2f s: %s", time.monotonic() - start, finding.label
        )
        return Analysis(radiograph, finding, annotated)


def _report(model: Future[Classifier]) -> None:
    """Log how loading ended, once."""
    if model.cancelled():
        return
    if error := model.exception():
        logger.error("The model cannot be used", exc_info=error)
    else:
        identity = model.result().identity
        logger.info("Loaded the model %s %s", identity.name, identity.version)
