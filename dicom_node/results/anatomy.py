"""Where and which side was imaged: the source's word, or that nobody said."""

from dicom_node.results.identity import Source, copied, empty, item_count
from dicom_node.results.objects import Elements

UNPAIRED = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "BACK", "BLADDER", "BRAIN", "CHEST", "CHESTABDOMEN",
    "CHESTABDPELVIS", "COCCYX", "COLON", "CSPINE", "CTSPINE", "DUODENUM", "ESOPHAGUS",
    "FACE", "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "JAW", "LARYNX", "LIVER",
    "LSPINE", "LSSPINE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST",
    "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PELVIS", "PHARYNX", "SKULL",
    "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "TLSPINE", "TRACHEA", "TSPINE",
    "WHOLEBODY",
})  # fmt: skip
"""Body Part Examined (0018,0015) of what there is one of, as far as radiographs show
it (PS3.16 annex L). What is not listed may be one of two."""


def anatomy(source: Source) -> Elements:
    """Copy where the General Series and General Image modules let it stand.

    Laterality (0020,0060) is present, if empty, unless the image says its own side or
    the body part has none (PS3.3 C.7.3.1, Type 2C). Anatomic Region Sequence
    (0008,2218) has one item (C.7.6.1), where DX also allows an empty sequence.
    """
    elements = copied(source, ("BodyPartExamined", "Laterality", "ImageLaterality"))
    if item_count(source, "AnatomicRegionSequence") == 1:
        elements |= copied(source, ["AnatomicRegionSequence"])
    is_said = "Laterality" in source.dataset or source.text("ImageLaterality")
    is_one = source.text("BodyPartExamined") in UNPAIRED
    return elements if is_said or is_one else elements | empty(["Laterality"])
