"""Detect the type of an uploaded file by its content, and read the radiograph in it.

The name and the declared type of the file are ignored. They come from the sender and
are often wrong.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fastapi import HTTPException, status

from config.settings import WorkerSettings
from dicom_node.dataset.part10 import looks_like_dicom
from dicom_node.decoder.client import ChildTimeoutError, DecoderProcess
from dicom_node.errors import DicomNodeError, NotAnalyzedError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.screening import ScreeningRules
from inference.plain_image import (
    NotAnImageError,
    PlainImageError,
    TooLargeImageError,
    read_plain_image,
)
from inference.radiograph import Radiograph

HEAD = 132
"""Number of bytes that identify a DICOM file: preamble and prefix (PS3.10 7.1)."""

UNKNOWN_FORMAT = (
    "The file is neither an image nor DICOM. Supported formats are PNG, JPEG, BMP, "
    "TIFF, WebP and DICOM."
)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Reads the radiographs in untrusted files.

    Attributes:
        child: The child process that decodes the files.
        limits: The limits of size and time, and the number of the VOI window to use.
        body_parts: The body parts that the model covers, from its card; empty for all.
    """

    child: DecoderProcess
    limits: WorkerSettings
    body_parts: tuple[str, ...]

    def read(self, file: Path) -> Radiograph:
        """Read the radiograph in a file.

        Raises:
            ChildTimeoutError: Decoding exceeds the time limit of the child process.
            HTTPException: 400 if the file is broken, 413 if it is too large, 415 if it
                is neither an image nor a DICOM radiograph that can be analyzed.
        """
        with file.open("rb") as opened:
            is_dicom = looks_like_dicom(opened.read(HEAD))
        try:
            return self._read_dicom(file) if is_dicom else self._read_image(file)
        except ChildTimeoutError:
            raise
        except NotAnImageError:
            raise HTTPException(
                status.HTTP_415_UNSUPPORTED_MEDIA_TYPE, UNKNOWN_FORMAT
            ) from None
        except (DicomNodeError, PlainImageError) as error:
            raise HTTPException(_status(error), str(error)) from None

    def _read_dicom(self, file: Path) -> Radiograph:
        # No age limit: a user who uploads an old image wants it analyzed.
        rules = ScreeningRules(
            max_study_age_days=0,
            body_parts=self.body_parts,
            today=datetime.now(UTC).date(),
        )
        options = DecodeOptions(
            window=self.limits.window, max_megapixels=self.limits.max_megapixels
        )
        return self.child.run(decode_file, file, rules, options).radiograph

    def _read_image(self, file: Path) -> Radiograph:
        read = partial(read_plain_image, max_megapixels=self.limits.max_megapixels)
        return self.child.run(read, file.read_bytes())


def _status(error: DicomNodeError | PlainImageError) -> int:
    match error:
        case NotAnalyzedError():
            return status.HTTP_415_UNSUPPORTED_MEDIA_TYPE
        case TooLargeImageError():
            return status.HTTP_413_CONTENT_TOO_LARGE
        case _:
            return status.HTTP_400_BAD_REQUEST
