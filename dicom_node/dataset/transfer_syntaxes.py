"""The accepted transfer syntaxes, and the library that decodes each of them.

The library depends only on the transfer syntax and, for JPEG Extended, on the bits of a
sample. So the same bytes give the same pixels on every machine, even if other libraries
are installed there. The node accepts these transfer syntaxes from senders, and a test
decodes an image in each of them.
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

from dicom_node.dataset.attributes import number, put
from dicom_node.dataset.frame_header import (
    begins_frame,
    declared_samples,
    declared_size,
)
from dicom_node.errors import AnalysisError, DicomNodeError
from inference.jpeg_limits import find_excess

UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)

LOSSLESS_DECODERS: Mapping[UID, str] = MappingProxyType(
    {
        JPEGLosslessSV1: "gdcm",
        JPEGLossless: "gdcm",
        # pyjpegls takes up to 20 s to detect a truncated stream if GDCM is loaded, too.
        JPEGLSLossless: "gdcm",
        JPEG2000Lossless: "pylibjpeg",
        HTJ2KLossless: "pylibjpeg",
        HTJ2KLosslessRPCL: "pylibjpeg",
        RLELossless: "pylibjpeg",
    }
)
"""pydicom's name of the decoding plug-in for each lossless transfer syntax."""

LOSSY_DECODERS: Mapping[UID, str] = MappingProxyType(
    {
        JPEGBaseline8Bit: "pillow",
        JPEGExtended12Bit: "pillow",  # if 8-bit; see `_decode_12_bit_jpeg`
        JPEGLSNearLossless: "gdcm",
        JPEG2000: "pylibjpeg",
        HTJ2K: "pylibjpeg",
    }
)
"""pydicom's name of the decoding plug-in for each transfer syntax that may be lossy."""

DECODABLE: tuple[UID, ...] = (*UNCOMPRESSED, *LOSSLESS_DECODERS, *LOSSY_DECODERS)
"""All transfer syntaxes that can be decoded: uncompressed, lossless, lossy.

PS3.8 lets the acceptor choose one of the proposed transfer syntaxes. The node chooses
the proposed one that comes first in this tuple. Those that may be lossy are last. So
the node chooses one of these only if a modality proposes none of the others.
"""


def decode_pixels(dataset: Dataset) -> NDArray[Any]:
    """Return the decoded pixels of the first frame of an image.

    Args:
        dataset: The image, with File Meta Information and a complete Image Pixel
            Module. The dataset itself is changed: see `join_fragments`.

    Returns:
        An integer array, (rows, columns), of stored values; its item size is Bits
        Allocated. Bits above Bits Stored are undefined. If the image has three samples
        per pixel, the shape is (rows, columns, 3). These samples are RGB if the codec
        or pydicom can convert them to RGB.

    Raises:
        AnalysisError: The node does not decode the transfer syntax, or the pixel data
            is damaged.
        MemoryError: Decoding needs more memory than the process may use.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in DECODABLE:
        raise AnalysisError(
            f"Transfer Syntax UID (0002,0010) is {syntax}, which the node does not "
            "decode. Send the image in a transfer syntax that the node accepts."
        )
    try:
        return _decoded(dataset, syntax)
    except (MemoryError, DicomNodeError):
        raise
    # Codecs may raise anything on damaged data, and their messages quote values.
    except Exception as error:  # noqa: BLE001
        raise AnalysisError(
            f"Pixel Data (7FE0,0010) cannot be decoded as {syntax.name} "
            f"({type(error).__name__}): it is damaged, or shorter than Rows and "
            "Columns declare. Send the image again, or in another transfer syntax."
        ) from None


def join_fragments(dataset: Dataset) -> None:
    """Join the fragments of a compressed single-frame image in the dataset itself.

    All fragments belong to the only frame (PS3.5 A.4). Offset tables are ignored,
    because they may be absent, empty or wrong. If Number of Frames is present, it is
    set to 1, because it may be 0 or empty. A dataset with several frames is not
    changed.

    Raises:
        ValueError: The transfer syntax is a compressed one, but Pixel Data is not a
            sequence of items.
    """
    if number(dataset, "NumberOfFrames", 1) > 1:
        return
    if "NumberOfFrames" in dataset:
        put(dataset, "NumberOfFrames", 1)
    if not UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
        return
    table, *fragments = generate_fragments(dataset.PixelData)
    if begins_frame(table):  # the Basic Offset Table is missing
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
        decoding_plugin={**LOSSLESS_DECODERS, **LOSSY_DECODERS}.get(syntax, ""),
        correct_unused_bits=False,  # type: ignore[arg-type]  # see pixels/grayscale.py
        bits_stored=_precision(dataset, syntax),  # type: ignore[arg-type]
    )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_encapsulation(dataset: Dataset, syntax: UID) -> None:
    """Check that the pixels are compressed if and only if the transfer syntax says so.

    Raises:
        AnalysisError: The pixels and the transfer syntax do not agree.
    """
    is_encapsulated = dataset["PixelData"].is_undefined_length
    if is_encapsulated != syntax.is_encapsulated:
        found = "compressed" if is_encapsulated else "not compressed"
        raise AnalysisError(
            f"Pixel Data (7FE0,0010) is {found}, which the transfer syntax "
            f"{syntax.name} does not allow. Send the image in the transfer syntax that "
            "it is encoded in."
        )


def _precision(dataset: Dataset, syntax: UID) -> int:
    """Return the bits per sample that a compressed frame declares, else Bits Stored.

    Some codecs cut samples to the number of bits that they get from pydicom.
    """
    found = declared_samples(_frame(dataset)) if syntax.is_encapsulated else None
    return found.bits if found else int(dataset.BitsStored)


def _check_frame(dataset: Dataset) -> None:
    """Check a frame before its codec spends memory and time on it.

    Raises:
        AnalysisError: The frame's own header contradicts Rows and Columns, or the frame
            has more scans or segments than the node reads.
    """
    frame = _frame(dataset)
    if excess := find_excess(frame):
        raise AnalysisError(
            f"The compressed image has more than {excess}, the maximum that the node "
            "reads. Send the image in another transfer syntax."
        )
    size = declared_size(frame)
    if size is not None and size != (dataset.Rows, dataset.Columns):
        raise AnalysisError(
            f"The compressed image declares {size[0]} x {size[1]} pixels, but Rows "
            f"(0028,0010) and Columns (0028,0011) declare {dataset.Rows} x "
            f"{dataset.Columns}. Send the image again, or in another transfer syntax."
        )


def _frame(dataset: Dataset) -> bytes:
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _is_8_bit_jpeg(frame: bytes) -> bool:
    """Return whether a JPEG frame has 8-bit samples.

    Only these frames can be opened with Pillow, which rejects 12-bit frames.
    """
    try:
        Image.open(BytesIO(frame), formats=("JPEG",)).close()
    except OSError:
        return False
    return True


def _decode_12_bit_jpeg(dataset: Dataset) -> NDArray[np.uint16]:
    """Return the pixels, (rows, columns), of an image in 12-bit JPEG Extended.

    GDCM decodes the image, because pydicom's plug-ins reject it.
    """
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
    # GDCM's binding returns a buffer as text, and None if decoding failed.
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(content, "<u2").reshape(dataset.Rows, dataset.Columns)
