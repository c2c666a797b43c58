"""The codes that results use, each with the context group it comes from (PS3.16)."""

from pydicom import Dataset
from pydicom.sr.coding import Code

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
"""CID 7202, Source Image Purposes of Reference."""

PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
"""CID 7005, Contributing Equipment Purposes of Reference."""


def code_item(code: Code) -> Dataset:
    """Write a code as the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
