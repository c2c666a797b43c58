"""Transfer syntaxes: which the node takes, and which library decodes each.

One library a syntax, so that the same bytes are the same pixels on every machine,
whatever else is installed there. What stands here is advertised to senders, and a
test decodes an image in each.

Importing this costs no more than importing pydicom does.
"""

from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Any

import gdcm
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_fragments, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_node.attributes import number, put
from dicom_node.codestream import begins_frame, declared_samples, declared_size
from dicom_node.errors import AnalysisError, DicomNodeError
from inference.jpeg_limits import find_excess

UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)

LOSSLESS: Mapping[UID, str] = MappingProxyType(
    {
        JPEGLosslessSV1: "gdcm",
        JPEGLossless: "gdcm",
        # Beside GDCM, pyjpegls takes up to 20 s to see that a stream is truncated.
        JPEGLSLossless: "gdcm",
        JPEG2000Lossless: "pylibjpeg",
        HTJ2KLossless: "pylibjpeg",
        HTJ2KLosslessRPCL: "pylibjpeg",
        RLELossless: "pylibjpeg",
    }
)
"""pydicom's name for the plug-in that decodes each."""

LOSSY: Mapping[UID, str] = MappingProxyType(
    {
        JPEGBaseline8Bit: "pillow",
        JPEGExtended12Bit: "pillow",  # 8 bits; 12 bits: see below
        JPEGLSNearLossless: "gdcm",
        JPEG2000: "pylibjpeg",
        HTJ2K: "pylibjpeg",
    }
)
"""The same for those that may have lost something."""

DECODABLE: tuple[UID, ...] = (*UNCOMPRESSED, *LOSSLESS, *LOSSY)
"""All that can be decoded: uncompressed, lossless, lossy. An acceptor's order decides
(PS3.8 leaves the choice to it): lossy first would make modalities compress."""


def decode_pixels(dataset: Dataset) -> NDArray[Any]:
    """Decompress the first frame.

    Args:
        dataset: With its File Meta Information and a whole Image Pixel Module.

    Returns:
        Stored values, (rows, columns), of 8, 16 or 32 bits as allocated. What bits
        above Bits Stored hold is undefined. Color, but PALETTE COLOR, comes as RGB,
        (rows, columns, 3).

    Raises:
        AnalysisError: The syntax is not one of ours, or the pixel data is damaged.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in DECODABLE:
        raise AnalysisError(
            f"Transfer Syntax UID (0002,0010) is {syntax}, which the node does not "
            "decode. Send the image in one that it accepts."
        )
    try:
        return _decoded(dataset, syntax)
    except (MemoryError, DicomNodeError):
        raise
    # What codecs raise on damaged data is anything, and quotes what they found.
    except Exception as error:  # noqa: BLE001
        raise AnalysisError(
            f"Pixel Data (7FE0,0010) cannot be decoded as {syntax.name} "
            f"({type(error).__name__}): it is damaged, or shorter than Rows and "
            "Columns say. Send the image again, or in another transfer syntax."
        ) from None


def join_fragments(dataset: Dataset) -> None:
    """Put the fragments of a single-frame image together, in the dataset itself.

    All fragments belong to the one frame (PS3.5 A.4), so offset tables say nothing:
    they may be absent, empty, or wrong. Number of Frames is 1 afterwards, if it was
    there: it may have been 0 or empty. Does nothing if the image has several frames.

    Raises:
        ValueError: Pixel Data is not a sequence of items though it is compressed.
    """
    if number(dataset, "NumberOfFrames", 1) > 1:
        return
    if "NumberOfFrames" in dataset:
        put(dataset, "NumberOfFrames", 1)
    if not UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
        return
    table, *fragments = generate_fragments(dataset.PixelData)
    if begins_frame(table):  # The Basic Offset Table was left out.
        fragments.insert(0, table)
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    if table or len(fragments) > 1:
        dataset.PixelData = encapsulate([b"".join(fragments)], has_bot=False)
        dataset["PixelData"].is_undefined_length = True


def _decoded(dataset: Dataset, syntax: UID) -> NDArray[Any]:
    _check_encapsulation(dataset, syntax)
    join_fragments(dataset)
    if syntax.is_encapsulated:
        _check_frame(dataset)
    if syntax == JPEGExtended12Bit and not _is_8_bit_jpeg(_frame(dataset)):
        return _decode_12_bit_jpeg(dataset)
    array, _ = get_decoder(syntax).as_array(
        dataset,
        index=0,
        decoding_plugin={**LOSSLESS, **LOSSY}.get(syntax, ""),
        correct_unused_bits=False,  # type: ignore[arg-type]  # the look-up table does
        bits_stored=_precision(dataset, syntax),  # type: ignore[arg-type]
    )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_encapsulation(dataset: Dataset, syntax: UID) -> None:
    """Refuse pixels that are compressed, or not, against their transfer syntax."""
    is_encapsulated = dataset["PixelData"].is_undefined_length
    if is_encapsulated != syntax.is_encapsulated:
        found = "compressed" if is_encapsulated else "not compressed"
        raise AnalysisError(
            f"Pixel Data (7FE0,0010) is {found}, which the transfer syntax "
            f"{syntax.name} does not allow. Send the image in the transfer syntax that "
            "it is encoded in."
        )


def _precision(dataset: Dataset, syntax: UID) -> int:
    """Return the bits that a frame says its samples have, else Bits Stored.

    Some codecs cut samples down to what they are told.
    """
    found = declared_samples(_frame(dataset)) if syntax.is_encapsulated else None
    return found.bits if found else int(dataset.BitsStored)


def _check_frame(dataset: Dataset) -> None:
    """Check a frame before its codec takes memory and time for it.

    Raises:
        AnalysisError: Its own header disagrees about its size, or it has more scans or
            segments than are read.
    """
    frame = _frame(dataset)
    if excess := find_excess(frame):
        raise AnalysisError(
            f"The compressed image has more than {excess}, the most that the node "
            "reads. Send the image in another transfer syntax."
        )
    size = declared_size(frame)
    if size is not None and size != (dataset.Rows, dataset.Columns):
        raise AnalysisError(
            f"The compressed image says that it has {size[0]} x {size[1]} pixels, Rows "
            f"(0028,0010) and Columns (0028,0011) say {dataset.Rows} x "
            f"{dataset.Columns}. Send the image again, or in another transfer syntax."
        )


def _frame(dataset: Dataset) -> bytes:
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _is_8_bit_jpeg(frame: bytes) -> bool:
    """Whether pillow reads it; it reads the header only, and no 12 bits."""
    try:
        Image.open(BytesIO(frame), formats=("JPEG",)).close()
    except OSError:
        return False
    return True


def _decode_12_bit_jpeg(dataset: Dataset) -> NDArray[np.uint16]:
    """Decode JPEG Extended of 12 bits by GDCM, which pydicom's plug-in declines to."""
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_frame(dataset))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((dataset.Columns, dataset.Rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(
        gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4)
    )
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM's binding hands a buffer out as text; None where it failed.
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(content, "<u2").reshape(dataset.Rows, dataset.Columns)
