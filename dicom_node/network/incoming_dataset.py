"""The dataset of a request, written to the spool while it arrives."""

import logging
import time
from collections.abc import Callable
from io import BytesIO

from dicom_node.errors import CannotUnderstandError, OutOfResourcesError, RefusedError
from dicom_node.reasons import Refusal
from dicom_node.storage.spool import MB, SpoolFile

logger = logging.getLogger(__name__)

NO_UID = (
    "Affected SOP Class UID (0000,0002) or Instance UID (0000,1000) is not a UID. "
    "Send the instance under its own UIDs."
)


class IncomingDataset(BytesIO):
    """The dataset of one request, which pynetdicom writes as if to a buffer in memory.

    The bytes go to a file of the spool. A report stays in memory, because it is short.

    Attributes:
        spool_file: The file; None until the first bytes arrive.
        refusal: Why no file is written, or why writing has stopped.
        received: Number of bytes received, kept or not.
        began: Time when the first bytes arrived, by the monotonic clock.
    """

    def __init__(
        self, begin: Callable[["IncomingDataset"], SpoolFile | None], limit: int
    ) -> None:
        """Prepare for a dataset of at most `limit` bytes. It may remain empty.

        `begin` opens the file, or returns None if the dataset is to stay in memory.
        """
        super().__init__()
        self.spool_file: SpoolFile | None = None
        self.refusal: RefusedError | None = None
        self.received = 0
        self.began = time.monotonic()
        self._begin = begin
        self._limit = limit

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Store bytes, or count and discard them after an error (see `refusal`).

        Never raises: an exception would end pynetdicom's thread.
        """
        if not self.received:
            self.began = time.monotonic()
        self.received += len(data)
        try:
            self._store(data)
        except RefusedError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - its text may quote the dataset
            logger.error("Cannot store a dataset: %s", type(error).__name__)  # noqa: TRY400
            message = "The node failed; send again later."
            self._refuse(OutOfResourcesError(message, Refusal.PROGRAM))
        return len(data)

    @property
    def is_open(self) -> bool:
        """True if the dataset has a file that is not closed."""
        return self.spool_file is not None and not self.spool_file.closed

    def release(self) -> None:
        """Close the file, and remove it if it was not kept. May be called twice."""
        if self.spool_file is not None:
            self.spool_file.close()

    def _store(self, data: bytes | memoryview) -> None:
        if self.refusal is not None:
            return
        if self.received > self._limit:
            raise CannotUnderstandError(
                f"The instance is larger than {self._limit // MB} MB, the limit here. "
                "To accept it, increase max_instance_mb under [receiver].",
                Refusal.TOO_LARGE,
            )
        if self.spool_file is None:
            self.spool_file = self._begin(self)
        if self.spool_file is None:
            super().write(data)
        else:
            self.spool_file.write(data)

    def _refuse(self, error: RefusedError) -> None:
        self.refusal = error
        self.truncate(0)
        self.release()
