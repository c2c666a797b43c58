"""Decodes an image of an examination from its file, and draws its thumbnail."""

from datetime import date
from pathlib import Path

from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.screening import ScreeningRules
from inference.drawing.thumbnail import Thumbnail, draw_thumbnail
from inference.finding import Finding

_ANY_RADIOGRAPH = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, today=date.min
)
"""Rules that exclude only images that the node cannot decode."""


def examination_picture(
    path: Path, options: DecodeOptions, finding: Finding | None
) -> Thumbnail:
    """Return the thumbnail of an image of an examination.

    Images outside the intended use of the model are not analyzed, but get a thumbnail.

    Args:
        path: The file of the image.
        options: The options with which the image was decoded for the analysis.
        finding: The finding for the image; None if it was not analyzed.

    Raises:
        NotAnalyzedError: The instance is not a radiograph that the node can decode.
        TakesLongError: The image is larger than `options.megapixels_in_time`.
        AnalysisError: The file is broken.
    """
    decoded = decode_file(path, _ANY_RADIOGRAPH, options)
    return draw_thumbnail(decoded.radiograph, finding)
