"""Datasets as bytes, and reproducible mutations of datasets.

pydicom would refuse to write most of these datasets, and a sender that parses datasets
would not send them. Datasets are therefore parsed and assembled by hand, in any
encoding. The name of a mutation is the name of its function.
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from dicom_node.dataset.source_attributes import IMAGE_TYPE_3, TYPE_2, TYPE_3
from dicom_node.dataset.transfer_syntaxes import DECODABLE
from dicom_node.network.presentation_contexts import STORED

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR"}
    | {b"UT", b"UV"}
)
SHORT = (
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO"),
    *(b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
)
PIXEL_DATA = int(Tag("PixelData"))
NOTHING = "2.25.0"


@dataclass(frozen=True, slots=True)
class Sample:
    """A dataset to send, and what the sender states about it.

    Attributes:
        kind: The name of its mutation.
        syntax: UID of the transfer syntax that it is sent in.
        sop_class_uid: SOP Class UID in the command.
        sop_instance_uid: SOP Instance UID in the command.
        dataset: The bytes, deflated if the transfer syntax requires it.
    """

    kind: str
    syntax: str
    sop_class_uid: str
    sop_instance_uid: str
    dataset: bytes

    @property
    def part10(self) -> bytes:
        """The dataset as a Part 10 file (PS3.10 7.1)."""
        # A file needs UIDs, even if the dataset has none.
        meta = create_file_meta(
            sop_class_uid=UID(self.sop_class_uid or NOTHING),
            sop_instance_uid=UID(self.sop_instance_uid or NOTHING),
            transfer_syntax=UID(self.syntax),
        )
        return bytes(128) + b"DICM" + encode_file_meta(meta) + self.dataset


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of element headers (PS3.5 7.1)."""

    implicit: bool
    order: str  # for struct: "<" or ">"

    def tag(self, number: int) -> bytes:
        return struct.pack(f"{self.order}HH", number >> 16, number & 0xFFFF)

    def element(self, tag: int, vr: bytes, value: bytes, length: int = -1) -> bytes:
        """Return an element. Its value is padded to an even length.

        `length` is the length that the header states, which may be wrong. -1 stands for
        the real length.
        """
        value += (b"\0" if vr in {b"UI", b"OB", b"UN"} else b" ") * (len(value) % 2)
        length = len(value) if length < 0 else length
        if self.implicit:
            return self.tag(tag) + struct.pack(f"{self.order}I", length) + value
        if vr in LONG:
            head = struct.pack(f"{self.order}2sHI", vr, 0, length)
        else:
            head = struct.pack(f"{self.order}2sH", vr, length & 0xFFFF)
        return self.tag(tag) + head + value

    def named(self, keyword: str, value: bytes, vr: bytes = b"") -> bytes:
        return self.element(int(Tag(keyword)), vr or vr_of(keyword), value)

    def item(self, content: bytes = b"", tag: int = ITEM) -> bytes:
        return self.tag(tag) + struct.pack(f"{self.order}I", len(content)) + content

    def short(self, *numbers: int) -> bytes:
        return struct.pack(f"{self.order}{len(numbers)}H", *numbers)


def vr_of(keyword: str) -> bytes:
    """Return the first VR that the standard permits for an attribute."""
    return dictionary_VR(keyword)[:2].encode()


@dataclass(frozen=True, slots=True)
class Field:
    """One top-level element, with its position in a dataset.

    `vr` is empty if the element has no explicit VR. `start`, `value` and `end` are
    offsets: of the element, of its value, and of the first byte after the element.
    """

    tag: int
    vr: bytes
    start: int
    value: int
    end: int


def fields(data: bytes, encoding: Encoding) -> list[Field]:
    """Return the top-level elements, up to the end or up to an incomplete header.

    Invalid bytes are parsed like elements, too. If the last value is too short, its
    element ends at the end of `data`.
    """
    found: list[Field] = []
    position, depth = 0, 0
    while position + 8 <= len(data):
        start = position
        group, number = struct.unpack_from(f"{encoding.order}HH", data, position)
        tag, vr = group << 16 | number, data[position + 4 : position + 6]
        if encoding.implicit or group == 0xFFFE or not vr.isupper():
            vr = b""
            (length,) = struct.unpack_from(f"{encoding.order}I", data, position + 4)
            position += 8
        elif vr in LONG:
            if position + 12 > len(data):
                break
            (length,) = struct.unpack_from(f"{encoding.order}I", data, position + 8)
            position += 12
        else:
            (length,) = struct.unpack_from(f"{encoding.order}H", data, position + 6)
            position += 8
        if not depth:
            found.append(Field(tag, vr, start, position, position))
        if tag in {ITEM_END, SEQUENCE_END}:
            depth = max(depth - 1, 0)
        elif length == UNDEFINED:
            depth += 1
        else:
            position += length
        if found:
            found[-1] = replace(found[-1], end=min(position, len(data)))
    return [each for each in found if each.tag >> 16 != 0xFFFE]


@dataclass(slots=True)
class Draft:
    """A dataset that is being mutated.

    Attributes:
        data: The bytes of the dataset, not deflated.
        encoding: The encoding of the dataset.
        syntax: UID of the transfer syntax that it will be sent in.
        chance: The source of random choices.
    """

    data: bytes
    encoding: Encoding
    syntax: str
    chance: random.Random

    @property
    def fields(self) -> list[Field]:
        return fields(self.data, self.encoding)

    def find(self, tag: int) -> Field | None:
        return next((each for each in self.fields if each.tag == tag), None)

    def put(self, keyword: str, value: bytes, vr: bytes = b"") -> None:
        """Replace an attribute, or insert it in the order of tags."""
        tag = int(Tag(keyword))
        self.put_element(tag, self.encoding.named(keyword, value, vr))

    def put_element(self, tag: int, element: bytes) -> None:
        found = self.fields
        same = next((each for each in found if each.tag == tag), None)
        after = next((each.start for each in found if each.tag > tag), len(self.data))
        start, end = (same.start, same.end) if same else (after, after)
        self.data = self.data[:start] + element + self.data[end:]

    def some(self) -> Field | None:
        found = self.fields
        return self.chance.choice(found) if found else None

    def splice(self, start: int, end: int, new: bytes) -> None:
        self.data = self.data[:start] + new + self.data[end:]


Harm = Callable[[Draft], None]
NASTY = (
    *(b"", b" ", b"\\", b"\\\\\\", b"0", b"-1", b"1e400", b"-1e400", b"nan", b"inf"),
    *(b"--", b"1\\2", b"1\\", b"\\1", b"1e-320", b"0.0", b"99999999999999999999"),
    *(b"1\\nan", b"0\\0", b"-1\\1", b"1\\1000000", b"0.000001\\1", b"4096\\x"),
    *(b"\xff\xfe\x00", b"\x1b$B\x1b", b"\xe3\x81", b"../../etc/passwd", b"A" * 70),
    *(b"1\n2", b"\0" * 8, b"%s%n", b"{}", b"1_0", b"0x10", b"\xd9\xa1", b"1" * 5000),
)
TEXTS = (
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"),
    *("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "NumberOfFrames"),
    *("StudyDate", "StudyTime", "PatientName", "PatientBirthDate", "PatientAge"),
    *("InstanceNumber", "SeriesNumber", "Modality", "BodyPartExamined"),
    *("SpecificCharacterSet", "PhotometricInterpretation", "VOILUTFunction"),
    *("PixelSpacingCalibrationType", "LossyImageCompression", "PatientOrientation"),
    *("LossyImageCompressionRatio", "LossyImageCompressionMethod", "RescaleType"),
    *("PresentationLUTShape", "PixelIntensityRelationship", "ImageLaterality"),
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("ViewPosition", "Laterality", "PresentationIntentType", "ImageType"),
)
SEQUENCES = (
    *("ContributingEquipmentSequence", "SourceImageSequence", "VOILUTSequence"),
    *("ModalityLUTSequence", "RequestAttributesSequence", "AnatomicRegionSequence"),
    *("OtherPatientIDsSequence", "ProcedureCodeSequence", "ReferencedStudySequence"),
)
NUMBERS = ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored",
           "HighBit", "PixelRepresentation", "PlanarConfiguration",
           "PixelPaddingValue", "PixelIntensityRelationshipSign",
           "SmallestImagePixelValue")  # fmt: skip


def flipped(draft: Draft) -> None:
    """Flip bits before Pixel Data; anywhere if the dataset has no Pixel Data."""
    pixels = draft.find(PIXEL_DATA)
    _flip(draft, 0, pixels.start if pixels else len(draft.data))


def flipped_pixels(draft: Draft) -> None:
    pixels = draft.find(PIXEL_DATA)
    _flip(draft, pixels.start if pixels else 0, len(draft.data))


def _flip(draft: Draft, start: int, end: int) -> None:
    data = bytearray(draft.data)
    for _ in range(draft.chance.choice((1, 3, 20))):
        if start < end:
            position = draft.chance.randrange(start, end)
            data[position] ^= 1 << draft.chance.randrange(8)
    draft.data = bytes(data)


def truncated(draft: Draft) -> None:
    pixels = draft.find(PIXEL_DATA)
    header = pixels.value + 16 if pixels else len(draft.data)
    end = draft.chance.choice((header, len(draft.data)))
    draft.data = draft.data[: draft.chance.randrange(end + 1)]


def wrong_length(draft: Draft) -> None:
    """Overwrite the length in the header of an element. The value does not change."""
    found = draft.some()
    if found is None:
        return
    wide = found.vr in LONG or not found.vr
    length = found.end - found.value
    new = draft.chance.choice(
        (
            0,
            1,
            length + 1,
            max(length - 1, 0),
            length * 2,
            65535,
            2147483647,
            UNDEFINED,
            UNDEFINED - 1,
            2**24,
        )
    )
    size = "I" if wide else "H"
    code = struct.pack(
        f"{draft.encoding.order}{size}", new & (2 ** (32 if wide else 16) - 1)
    )
    draft.splice(found.value - len(code), found.value, code)


def swapped_tags(draft: Draft) -> None:
    one, other = draft.some(), draft.some()
    if one and other:
        draft.splice(one.start, one.start + 4, draft.encoding.tag(other.tag))
        draft.splice(other.start, other.start + 4, draft.encoding.tag(one.tag))


def disordered(draft: Draft) -> None:
    """Shuffle, repeat or drop elements."""
    found = draft.fields
    parts = [draft.data[each.start : each.end] for each in found]
    match draft.chance.randrange(3):
        case 0:
            draft.chance.shuffle(parts)
        case 1:
            parts += draft.chance.choices(parts, k=3) if parts else []
        case _:
            for _ in range(min(3, len(parts))):
                parts.pop(draft.chance.randrange(len(parts)))
    draft.data = b"".join(parts)


def nested(draft: Draft) -> None:
    """Write a sequence with 1 to 5000 levels.

    A recursive parser cannot read 5000 levels.
    """
    keyword = draft.chance.choice(SEQUENCES)
    tag, encoding = int(Tag(keyword)), draft.encoding
    depth = draft.chance.choice((1, 3, 50, 500, 5000))
    if draft.chance.random() < 0.5:
        opened = encoding.element(tag, b"SQ", b"", UNDEFINED)
        opened += encoding.tag(ITEM) + b"\xff" * 4
        closed = encoding.item(tag=ITEM_END) + encoding.item(tag=SEQUENCE_END)
        content = opened * depth + closed * draft.chance.choice(
            (depth, depth, depth - 1)
        )
    else:
        content = b""
        for _ in range(min(depth, 500)):
            content = encoding.element(tag, b"SQ", encoding.item(content))
    draft.put_element(tag, content)


def many_items(draft: Draft) -> None:
    keyword = draft.chance.choice(SEQUENCES)
    count = draft.chance.choice((1, 10, 1000, 40_000))
    draft.put(keyword, draft.encoding.item() * count)


def invalid_items(draft: Draft) -> None:
    """Write a sequence with a random element in an item, or with bytes without an item.

    The sequence itself may have a wrong VR.
    """
    keyword = draft.chance.choice(SEQUENCES)
    encoding, chance = draft.encoding, draft.chance
    inner = chance.choice(
        ("CodeValue", "CodeMeaning", "ManufacturerModelName", "LUTDescriptor",
         "LUTData", "PurposeOfReferenceCodeSequence", "ReferencedSOPInstanceUID",
         "PatientID", "AnatomicRegionSequence")
    )  # fmt: skip
    vr = chance.choice((vr_of(inner), chance.choice(SHORT), b"UN", b"SQ", b"OW"))
    content = encoding.named(inner, chance.choice(NASTY), vr)
    value = chance.choice((encoding.item(content), content, b"\0" * 5, b"xyzw"))
    draft.put(keyword, value, chance.choice((b"SQ", b"SQ", b"UN", b"OB", b"LO")))


def contradicting_pixels(draft: Draft) -> None:
    """Write random values to attributes that describe the pixel data."""
    for _ in range(draft.chance.choice((1, 1, 2, 4))):
        number = draft.chance.choice(
            (
                0,
                1,
                2,
                3,
                4,
                7,
                8,
                9,
                12,
                15,
                16,
                17,
                24,
                31,
                32,
                33,
                64,
                255,
                512,
                10000,
                32768,
                65535,
            )
        )
        if draft.chance.random() < 0.3:
            word = draft.chance.choice(
                (
                    b"MONOCHROME1",
                    b"MONOCHROME2",
                    b"RGB",
                    b"PALETTE COLOR",
                    b"YBR_FULL",
                    b"YBR_FULL_422",
                    b"YBR_RCT",
                    b"YBR_ICT",
                    b"",
                    b"MONOCHROME3",
                    b"ARGB",
                )
            )
            draft.put("PhotometricInterpretation", word)
        else:
            keyword = draft.chance.choice(NUMBERS)
            value = draft.encoding.short(number)
            draft.put(keyword, draft.chance.choice((value, value, value * 2, b"")))


def invalid_text(draft: Draft) -> None:
    for _ in range(draft.chance.choice((1, 2, 5))):
        draft.put(draft.chance.choice(TEXTS), draft.chance.choice(NASTY))


def invalid_window(draft: Draft) -> None:
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        if draft.chance.random() < 0.6:
            draft.put(keyword, draft.chance.choice((*NASTY, b"1", b"5000", b"1e308")))
    word = draft.chance.choice((b"SIGMOID", b"LINEAR_EXACT", b"LINEAR", b"odd"))
    draft.put("VOILUTFunction", word)


def invalid_table(draft: Draft) -> None:
    """Write a modality LUT, VOI LUT or color palette with random properties."""
    encoding, chance = draft.encoding, draft.chance
    descriptor = encoding.short(
        chance.choice((0, 1, 2, 256, 4096, 65_535)),
        chance.choice((0, 1, 256, 32_768, 65_535)),
        chance.choice((0, 1, 8, 12, 16, 17, 255)),
    )
    descriptor = chance.choice((descriptor, descriptor, descriptor[:4], b"", b"abc"))
    length = chance.choice((0, 1, 2, 3, 255, 512, 8192, 131_072))
    data = bytes(range(256)) * (length // 256) + b"\7" * (length % 256)
    if chance.random() < 0.3:
        draft.put("PhotometricInterpretation", b"PALETTE COLOR")
        for color in ("Red", "Green", "Blue"):
            draft.put(f"{color}PaletteColorLookupTableDescriptor", descriptor)
            if chance.random() < 0.9:
                draft.put(f"{color}PaletteColorLookupTableData", data, b"OW")
        return
    vr = chance.choice((b"OW", b"US", b"SS", b"OB", b"UN", b"LO"))
    parts = [encoding.named("LUTDescriptor", descriptor, chance.choice((b"US", b"SS")))]
    parts += [encoding.named("LUTData", data, vr)]
    item = encoding.item(b"".join(parts[: chance.choice((1, 2, 2, 2))]))
    keyword = chance.choice(("ModalityLUTSequence", "VOILUTSequence"))
    draft.put(keyword, item * chance.choice((1, 1, 2)))


def other_vr(draft: Draft) -> None:
    """Write an attribute with a random VR instead of the VR of the standard."""
    keyword = draft.chance.choice(TEXTS + NUMBERS + SEQUENCES + TYPE_2 + TYPE_3)
    vr = draft.chance.choice((*SHORT, b"OB", b"OW", b"UN", b"SQ", b"UT", b"ZZ"))
    draft.put(keyword, draft.chance.choice(NASTY), vr)


def other_vr_in_place(draft: Draft) -> None:
    found = draft.some()
    if found and found.vr:
        vr = draft.chance.choice(
            (*SHORT, b"OB", b"UN", b"SQ", b"ZZ", b"\x00\x00", b"  ")
        )
        draft.splice(found.start + 4, found.start + 6, vr)


def invalid_identity(draft: Draft) -> None:
    """Write unusual values to six of the attributes that are copied to results."""
    for keyword in draft.chance.sample(TYPE_2 + TYPE_3 + IMAGE_TYPE_3, 6):
        value = draft.chance.choice(NASTY)
        if vr_of(keyword) == b"SQ" and draft.chance.random() < 0.7:
            inner = draft.encoding.named("CodeMeaning", value)
            value = draft.encoding.item(inner)
        draft.put(keyword, value)


def false_character_set(draft: Draft) -> None:
    draft.put(
        "SpecificCharacterSet",
        draft.chance.choice(
            (
                b"ISO_IR 192",
                b"ISO 2022 IR 87",
                b"\\ISO 2022 IR 149",
                b"GB18030",
                b"?",
                b"ISO_IR 13",
                b"\xff\xff",
                b"ISO_IR 999",
                b"\\" * 40,
                b"utf-8",
                b"\x00",
            )
        ),
    )
    for keyword in ("PatientName", "StudyDescription", "PatientComments"):
        draft.put(keyword, draft.chance.randbytes(draft.chance.choice((1, 9, 63))))


def garbage(draft: Draft) -> None:
    """Add random bytes before or after the elements, or in a private element.

    Alternatively, write a random group length (gggg,0000).
    """
    chance = draft.chance
    some = chance.randbytes(chance.choice((1, 7, 100)))
    match chance.randrange(4):
        case 0:
            draft.data += some
        case 1:
            draft.data = some + draft.data
        case 2:
            draft.put_element(
                0x00090011, draft.encoding.element(0x00090011, b"UN", some)
            )
        case _:
            length = struct.pack(f"{draft.encoding.order}I", chance.randrange(2**32))
            tag = chance.choice((0x00080000, 0x00280000, 0x7FE00000))
            draft.put_element(tag, draft.encoding.element(tag, b"UL", length))


def invalid_fragments(draft: Draft) -> None:
    """Write encapsulated Pixel Data with random, mostly wrong fragments and offsets."""
    encoding, chance = draft.encoding, draft.chance
    pixels = draft.find(PIXEL_DATA)
    content = draft.data[pixels.value + 8 : pixels.end - 8] if pixels else b""
    piece = content[: chance.choice((0, 2, 100, len(content) // 2 * 2))]
    table = chance.choice((b"", b"\0" * 4, b"\xff" * 4, b"\0" * 8, b"abc"))
    fragments = chance.choice(
        (
            b"",
            encoding.item(),
            encoding.item(piece),
            encoding.item(piece) * 3,
            encoding.item(piece, 524293),
            encoding.item()[:6],
            encoding.item(b"xyz"),
        )
    )
    end = chance.choice((encoding.item(tag=SEQUENCE_END),) * 3 + (b"",))
    head = encoding.element(PIXEL_DATA, b"OB", b"", UNDEFINED)
    draft.put_element(PIXEL_DATA, head + encoding.item(table) + fragments + end)


def overwritten_codestream(draft: Draft) -> None:
    """Overwrite bytes at the start of the frame, where codecs store the image size."""
    pixels = draft.find(PIXEL_DATA)
    if pixels is None:
        return
    data = bytearray(draft.data)
    start = pixels.value + (16 if pixels.end - pixels.value > 64 else 0)
    for _ in range(draft.chance.choice((1, 2, 4))):
        position = draft.chance.randrange(start, min(start + 120, pixels.end))
        value = draft.chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        width = draft.chance.choice((1, 2, 4))
        data[position : position + width] = bytes([value]) * width
    draft.data = bytes(data)[: len(draft.data)]


def other_syntax(draft: Draft) -> None:
    draft.syntax = draft.chance.choice(DECODABLE)


def false_uids(draft: Draft) -> None:
    keyword = draft.chance.choice(("StudyInstanceUID", "SeriesInstanceUID"))
    value = draft.chance.choice(
        (
            b"../../etc/passwd",
            b"",
            b"1" * 65,
            b"1.2\x00.3",
            b"1.2\n3",
            b"1..2",
            b"a.b",
            b"/etc/passwd",
            b"1.2\\3.4",
            b"-1",
            b"\xc3\xa9",
            b"." * 64,
            b"1.02",
        )
    )
    draft.put(keyword, value)


HARMS: tuple[Harm, ...] = (
    *(flipped, flipped_pixels, truncated, wrong_length, swapped_tags, disordered),
    *(nested, many_items, invalid_items, contradicting_pixels, invalid_text),
    *(invalid_window, invalid_table, other_vr, other_vr_in_place, invalid_identity),
    *(
        false_character_set,
        garbage,
        invalid_fragments,
        overwritten_codestream,
        other_syntax,
    ),
    *(false_uids,),
)


def part10_sample(content: bytes, kind: str) -> Sample:
    """Return the dataset of a file as a sample that can be sent.

    The file may be invalid. If the transfer syntax is not in DECODABLE, it is replaced
    by a guess. If the SOP Class is not in STORED, it is replaced by Digital X-Ray For
    Presentation. If the file has no SOP Instance UID, that of the sample is empty. The
    dataset itself is not changed.

    Args:
        content: The bytes of the file.
        kind: `Sample.kind` of the result.
    """
    start, syntax = 0, ""
    group_2 = Encoding(implicit=False, order="<")
    if content[128:132] == b"DICM":
        start = 132
    for each in fields(content[start:], group_2):
        if each.tag >> 16 != 2:
            start += each.start
            break
        if each.tag == 0x00020010:
            value = content[start + each.value : start + each.end]
            syntax = value.decode("latin-1").strip("\0 ")
    data = content[start:]
    if syntax not in DECODABLE:
        implicit = not data[4:6].isupper()
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    draft = opened(Sample(kind, syntax, "", "", data), random.Random(0))
    texts = [
        draft.data[found.value : found.end].decode("latin-1").strip("\0 ")
        if (found := draft.find(tag))
        else ""
        for tag in (0x00080016, 0x00080018)
    ]
    sop_class = (
        texts[0] if texts[0] in STORED else DigitalXRayImageStorageForPresentation
    )
    return Sample(kind, syntax, sop_class, texts[1], data)


def opened(sample: Sample, chance: random.Random) -> Draft:
    """Return a draft of a sample, to be mutated. Its dataset is not deflated.

    If the dataset of the sample cannot be inflated, that of the draft is empty.
    """
    data = sample.dataset
    if sample.syntax == DeflatedExplicitVRLittleEndian:
        try:
            data = zlib.decompressobj(-15).decompress(data, 2**24)
        except zlib.error:
            data = b""
    encoding = Encoding(
        implicit=sample.syntax == ImplicitVRLittleEndian,
        order=">" if sample.syntax == ExplicitVRBigEndian else "<",
    )
    return Draft(data, encoding, sample.syntax, chance)


def closed(draft: Draft) -> bytes:
    """Return the dataset to send, deflated if the transfer syntax requires it."""
    if draft.syntax != DeflatedExplicitVRLittleEndian:
        return draft.data
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(draft.data) + deflater.flush()


def _make_analyzable(draft: Draft, sample: Sample) -> str:
    """In four of five cases, remove common reasons not to analyze a draft.

    Returns:
        The SOP Class UID, which may differ from that of the sample.
    """
    sop_class = sample.sop_class_uid
    if draft.chance.random() < 0.8:
        draft.put("BodyPartExamined", b"HAND")
        if sop_class == SecondaryCaptureImageStorage:
            sop_class = DigitalXRayImageStorageForPresentation
        if draft.find(int(Tag("ContributingEquipmentSequence"))):
            draft.put("ContributingEquipmentSequence", b"")
        if draft.find(int(Tag("StudyInstanceUID"))) is None:
            draft.put("StudyInstanceUID", b"1.2.3")
    draft.put("SOPClassUID", sop_class.encode())
    return str(sop_class)


def mutations(samples: Sequence[Sample], seed: int, count: int) -> Iterator[Sample]:
    """Yield mutated samples. The mutations in HARMS take turns.

    Each sample has a new SOP Instance UID in command and dataset. The mutation may
    change the UID in the dataset, like any other attribute.

    Args:
        samples: The samples to mutate. They are not changed.
        seed: Determines all random choices, together with the number of the sample.
        count: Number of samples to yield.
    """
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        sample = samples[chance.randrange(len(samples))]
        harm = HARMS[(number + number // len(HARMS)) % len(HARMS)]
        draft = opened(sample, chance)
        uid = f"1.2.826.0.1.{seed}.{number}"
        sop_class = _make_analyzable(draft, sample)
        draft.put("SOPInstanceUID", uid.encode())
        harm(draft)
        yield Sample(harm.__name__, draft.syntax, sop_class, uid, closed(draft))


def samples_in(folder: Path, largest: int) -> list[Sample]:
    """Return the files of at most `largest` bytes in a folder and its subfolders.

    Files with the suffix .csv or .md are left out.
    """
    paths = (each for each in sorted(folder.rglob("*")) if each.is_file())
    return [
        part10_sample(path.read_bytes(), "as it is")
        for path in paths
        if path.stat().st_size <= largest and path.suffix not in {".csv", ".md"}
    ]
