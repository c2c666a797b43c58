"""Counts events that no transaction records, such as refusals and rejections.

Counts are kept in memory and written every few seconds, so that a thousand rejections
do not cause a thousand transactions. If the database fails, the counts stay in memory.
If the process is killed, the counts that are not yet written are lost.
"""

import threading
from types import TracebackType
from typing import Self

from dicom_node.storage.database import DatabaseError, Engine, writing
from dicom_node.storage.records import Sample
from dicom_node.storage.tally import aggregate, write

FLUSH_EVERY_S = 5.0


class BufferedCounter:
    """A counter of the events of one process, for use by any thread.

    An object of this class is a context manager. During the `with` block, a thread
    writes the counts to the database every FLUSH_EVERY_S seconds.
    """

    def __init__(self, engine: Engine) -> None:
        """Create an empty counter."""
        self._engine = engine
        self._samples: list[Sample] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="counting")

    def __call__(self, sample: Sample) -> None:
        """Add a sample to the counts."""
        with self._lock:
            self._samples = aggregate([*self._samples, sample])

    def __enter__(self) -> Self:
        """Start the thread that writes the counts."""
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End the thread, and write the remaining counts."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def flush(self) -> None:
        """Write the counts to the database. If that fails, keep them in memory."""
        with self._lock:
            samples, self._samples = self._samples, []
        if not samples:
            return
        try:
            with writing(self._engine) as connection:
                write(connection, *samples)
        except DatabaseError:
            with self._lock:
                self._samples = aggregate([*samples, *self._samples])

    def _keep_writing(self) -> None:
        while not self._ended.wait(FLUSH_EVERY_S):
            self.flush()
