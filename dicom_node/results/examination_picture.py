"""Decodes an image of an examination from its file, and draws its thumbnail."""

from datetime import date
from pathlib import Path

from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from inference.drawing.thumbnail import Thumbnail, draw_thumbnail
from inference.finding import Finding

_ANY_RADIOGRAPH = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date.min
)
"""Screening rules that limit neither the age of the study nor the intended use."""


def examination_picture(
    path: Path, options: DecodeOptions, finding: Finding | None
) -> Thumbnail:
    """Return the thumbnail of an image of an examination.

    Images of old studies, and images outside the intended use of the model, are not
    analyzed, but get a thumbnail.

    Args:
        path: The file of the image.
        options: The options for decoding, the same as for the analysis.
        finding: The finding for the image; None if it was not analyzed.

    Raises:
        NotAnalyzedError: Screening excludes the instance for another reason, for
            example because it is not a radiograph; or the image is blank or too large.
        TakesLongError: The image is larger than `options.megapixels_in_time`.
        AnalysisError: The file is broken.
    """
    decoded = decode_file(path, _ANY_RADIOGRAPH, options)
    return draw_thumbnail(decoded.radiograph, finding)
