"""The dataset of a C-STORE request, which is written to the spool as it arrives."""

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
    """The dataset of one request, with the interface of a buffer in memory.

    pynetdicom writes the dataset to a BytesIO. This class writes the bytes to a file of
    the spool instead. The dataset of a storage commitment report stays in memory,
    because it is short.

    Attributes:
        spool_file: The file. None before the first bytes arrive, and if the dataset
            stays in memory.
        refusal: The first error; None if there was no error. All bytes after an error
            are discarded.
        received: Number of bytes received, including the discarded bytes.
        began: Time when the first bytes arrived, in seconds of the monotonic clock.
            Before that, the time when this object was created.
    """

    def __init__(
        self, begin: Callable[["IncomingDataset"], SpoolFile | None], limit: int
    ) -> None:
        """Create an empty dataset.

        Args:
            begin: Returns the file for the bytes, or None if the dataset is to stay in
                memory. It is called with this object when bytes arrive, until it
                returns a file.
            limit: Maximum size of the dataset in bytes.
        """
        super().__init__()
        self.spool_file: SpoolFile | None = None
        self.refusal: RefusedError | None = None
        self.received = 0
        self.began = time.monotonic()
        self._begin = begin
        self._limit = limit

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Store bytes, and return their number. After an error, only count the bytes.

        Errors are recorded in `refusal`, because an exception would end pynetdicom's
        thread.
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
        """Whether the dataset has an open file."""
        return self.spool_file is not None and not self.spool_file.closed

    def release(self) -> None:
        """Close the file; remove it if it was not committed. May be called twice."""
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
