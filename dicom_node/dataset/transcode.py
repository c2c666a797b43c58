"""Converts an instance to another transfer syntax without encoding its texts again.

Apart from deflation, transfer syntaxes (PS3.5) differ only in the headers of elements,
in the byte order of words and in Pixel Data. So this module copies the bytes of text
values unchanged, even if they are invalid in their character set. If a library wrote
the dataset, it would decode and encode each value, and repair, pad or replace some
values.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import (
    correct_ambiguous_vr_element,
    write_data_element,
)
from pydicom.hooks import raw_element_vr
from pydicom.tag import Tag
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless
from pydicom.valuerep import AMBIGUOUS_VR

from dicom_node.dataset.attributes import WORD_BYTES, uid
from dicom_node.dataset.element_reader import is_foreign
from dicom_node.dataset.file_meta import file_head
from dicom_node.dataset.part10 import MOST_INFLATED, read_part10
from dicom_node.dataset.transfer_syntaxes import join_fragments

ENCODERS: Mapping[UID, str] = MappingProxyType(
    {
        RLELossless: "pylibjpeg",
        JPEGLSLossless: "pyjpegls",
        JPEG2000Lossless: "pylibjpeg",
    }
)
"""pydicom's name of the plug-in for each compressed syntax that `transcode` writes.

Each transfer syntax has one plug-in, so that the same pixels give the same bytes on
every machine.
"""


def transcode(source: Path, target: Path, syntax: UID) -> None:
    """Write an instance in another transfer syntax, with the same SOP Instance UID.

    Args:
        source: A Part 10 file in any transfer syntax; compressed pixels are decoded.
        target: The file to write.
        syntax: Explicit or Implicit VR Little Endian, or one of ENCODERS.

    Raises:
        OSError: A file cannot be read or written.
        Exception: The instance cannot be read, decoded or encoded. pydicom may raise
            any exception.
    """
    dataset = read_part10(source, MOST_INFLATED)
    meta = dataset.file_meta
    if meta.TransferSyntaxUID.is_encapsulated:
        _decompress(dataset)
    if plugin := ENCODERS.get(syntax):
        dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    uids = uid(dataset, "SOPClassUID"), uid(dataset, "SOPInstanceUID")
    with target.open("wb") as file:
        file.write(file_head(*uids, syntax))
        file.write(_encoded(dataset, implicit=syntax.is_implicit_VR))


def _decompress(dataset: Dataset) -> None:
    tag = Tag("NumberOfFrames")
    frames = dataset.get_item(tag) if tag in dataset else None
    join_fragments(dataset)
    # pydicom converts YCbCr to RGB and sets Photometric Interpretation to RGB, too.
    dataset.decompress(generate_instance_uid=False)
    if frames is not None:
        dataset[tag] = frames


def _encoded(dataset: Dataset, *, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or is_foreign(tag):
            # Group lengths (retired) would be wrong. Groups 0000 and 0002 do not belong
            # in a dataset.
            continue
        element: DataElement | RawDataElement = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            element = _plain(element, dataset)
        if element.VR == "SQ":
            items = [_encoded(i, implicit=implicit) for i in dataset[tag].value]
            element = _sequence(element, items)
        write_data_element(buffer, element)
    return buffer.getvalue()


def _plain(raw: RawDataElement, dataset: Dataset) -> RawDataElement:
    """Return the element with an explicit VR and little endian words."""
    vr = raw.VR or _looked_up(raw, dataset)
    value = raw.value or b""
    word = WORD_BYTES.get(vr, 1)
    if not raw.is_little_endian and word > 1:
        value = np.frombuffer(value, f"u{word}").byteswap().tobytes()
    return raw._replace(VR=vr, value=value, length=len(value))


def _looked_up(raw: RawDataElement, dataset: Dataset) -> str:
    """Return the VR that the data dictionary (PS3.6) gives for an element without VR.

    The result is UN if the VR depends on another attribute that is missing.
    """
    found: dict[str, str] = {}
    raw_element_vr(raw, found, ds=dataset)
    vr = found["VR"]
    if vr not in AMBIGUOUS_VR:
        return vr
    try:
        element = correct_ambiguous_vr_element(
            raw._replace(VR=vr), dataset, is_little_endian=raw.is_little_endian
        )
    except AttributeError:  # the attribute that would decide is missing
        return "UN"
    return str(element.VR)


def _sequence(
    element: DataElement | RawDataElement, items: list[bytes]
) -> RawDataElement:
    value = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(i)) + i for i in items)
    return RawDataElement(
        element.tag,
        "SQ",
        len(value),
        value,
        value_tell=0,
        is_implicit_VR=False,
        is_little_endian=True,
    )
