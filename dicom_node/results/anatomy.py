"""Body part and side of a result, as codes or as attributes, from its source."""

import re

from pydicom.sr.coding import Code
from pydicom.tag import Tag

from dicom_node.dataset.anatomic_region import BODY_PART_SYNONYMS
from dicom_node.results.codes import BODY_PARTS, SIDES
from dicom_node.results.encoding import Elements, encoded
from dicom_node.results.provenance import plain
from dicom_node.results.source import Source, copied, empty, item_count, item_text

UNPAIRED = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "BACK", "BLADDER", "BRAIN", "CHEST", "CHESTABDOMEN",
    "CHESTABDPELVIS", "COCCYX", "COLON", "CSPINE", "CTSPINE", "DUODENUM", "ESOPHAGUS",
    "FACE", "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "JAW", "LARYNX", "LIVER",
    "LSPINE", "LSSPINE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST",
    "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PELVIS", "PHARYNX", "SKULL",
    "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "TLSPINE", "TRACHEA", "TSPINE",
    "WHOLEBODY",
})  # fmt: skip
"""Values of Body Part Examined (0018,0015) for unpaired body parts on radiographs.

The values are from PS3.16 annex L. A body part with another value may be paired.
"""


REGION = "AnatomicRegionSequence"

_LONGEST = {"CodeValue": 16, "CodingSchemeDesignator": 16, "CodeMeaning": 64}
"""Maximum number of characters of SH and LO (PS3.5 6.2), by attribute of a code."""

SIDE_WORDS = {"LT": "L", "LEFT": "L", "RT": "R", "RIGHT": "R"}
"""The side (L or R) by the word for it in Body Part Examined.

Some equipment adds such a word, as in ELBOW LT.
"""

_NO_PART = frozenset({
    *SIDE_WORDS, "L", "R", "AP", "PA", "LAT", "LATERAL", "OBL", "OBLIQUE", "JOINT",
})  # fmt: skip
"""Words in Body Part Examined that do not change which body part it names."""


def body_part(source: Source) -> Code | None:
    """Return the code of the body part: Anatomic Region, else Body Part Examined.

    All words of Body Part Examined together must name a part, apart from side, view and
    JOINT: UPPER LEG is the thigh, although the code of LEG is that of the lower leg.
    Return None if neither attribute has a usable value. The texts of Anatomic Region
    are usable if they are printable ASCII without a backslash, and not too long for
    their VR.
    """
    if item_count(source, REGION) == 1:
        values = [item_text(source, REGION, 0, each) for each in _LONGEST]
        if all(map(_is_usable, values, _LONGEST.values())):
            return Code(*values)
    part = "".join(each for each in _words(source) if each not in _NO_PART)
    return BODY_PARTS.get(BODY_PART_SYNONYMS.get(part, part))


def _is_usable(text: str, limit: int) -> bool:
    return text != "" and plain(text, limit) == text


def side(source: Source) -> Code | None:
    """Return the code of left or right; None if the source states neither.

    The side is the value of Image Laterality. If this is empty, it is that of
    Laterality, and if this is empty, too, a word in Body Part Examined. For any other
    value, such as B (both sides), return None.
    """
    laterality = source.code("ImageLaterality") or source.code("Laterality")
    sides = (SIDE_WORDS[w] for w in _words(source) if w in SIDE_WORDS)
    return SIDES.get(laterality or next(sides, ""))


def _words(source: Source) -> list[str]:
    return re.split("[ _]+", source.code("BodyPartExamined"))


def anatomy(source: Source) -> Elements:
    """Return the attributes of body part and side, copied from the source.

    If the source lacks Laterality (0020,0060), an empty Laterality is added, because it
    is Type 2C (PS3.3 C.7.3.1). It is not added if the source has Image Laterality
    (0020,0062), or if the body part is unpaired. Anatomic Region Sequence (0008,2218)
    is copied only if it has exactly one item, as C.7.6.1 requires. In a DX image, this
    sequence may be empty.
    """
    elements = _part(source) | copied(source, ("Laterality", "ImageLaterality"))
    has_laterality = "Laterality" in source.dataset or source.code("ImageLaterality")
    is_unpaired = source.code("BodyPartExamined") in UNPAIRED
    return (
        elements if has_laterality or is_unpaired else elements | empty(["Laterality"])
    )


def image_anatomy(source: Source) -> Elements:
    """Return the attributes of body part and side for a multi-frame image.

    The side is in Image Laterality (0020,0062). Its value is copied from Image
    Laterality of the source. If the source has no such value, but Laterality
    (0020,0060) of the source is L or R, the value is that of Laterality. Otherwise
    Image Laterality is empty, or absent if the body part is unpaired.
    """
    if source.code("ImageLaterality"):
        return _part(source) | copied(source, ["ImageLaterality"])
    side = source.code("Laterality")
    if side in SIDES:
        tag = Tag("ImageLaterality")
        return _part(source) | {tag: encoded(tag, "CS", side.encode())}
    is_unpaired = source.code("BodyPartExamined") in UNPAIRED
    return _part(source) | ({} if is_unpaired else empty(["ImageLaterality"]))


def _part(source: Source) -> Elements:
    elements = copied(source, ["BodyPartExamined"])
    if item_count(source, REGION) == 1:
        elements |= copied(source, [REGION])
    return elements
