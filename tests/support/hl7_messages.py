"""Functions that create HL7 messages of the node, and read them as a receiver does."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset

from config.destinations import Hl7Destination
from dicom_node.delivery.hl7_header import written_message
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.results.encode import ResultOptions, encode_file, encode_notice
from dicom_node.results.encoding import ResultObject
from dicom_node.results.result_kinds import ResultKind
from inference.finding import Arrow, Finding, ModelIdentity, Thresholds
from inference.phantom.long_bone import draw_phantom
from tests.support.locations import locations

PHANTOM = draw_phantom(broken=True, rows=200, columns=150)
MODEL = ModelIdentity("phantom-resnet18", "0.1.0", "ab" * 32)
FINDING = Finding(
    0.93,
    Thresholds(0.5, 0.7),
    np.zeros((7, 7), np.float32),
    locations(Arrow((40.0, 90.0), (10.0, 60.0)), score=0.93),
    MODEL,
)
OPTIONS = ResultOptions((ResultKind("hl7_message"),), 1024, 9001, 1)
RECEIVED_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def received(dataset: Dataset, folder: Path) -> ReceivedInstance:
    """Store a dataset in a folder, and return it as a received instance."""
    path = folder / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    header = InstanceHeader(
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
    )
    return ReceivedInstance(
        id="0" * 32,
        path=path,
        header=header,
        content_digest="cd" * 32,
        size=path.stat().st_size,
        calling_ae_title="DX1",
        calling_address="127.0.0.1",
        received_at=RECEIVED_AT,
    )


def made(
    folder: Path,
    values: Mapping[str, object] | None = None,
    *,
    finding: Finding | None = FINDING,
    is_correction: bool = False,
) -> ResultObject:
    """Return the HL7 message about a phantom.

    Args:
        folder: A folder for the file of the phantom.
        values: Attributes of the phantom to change, by keyword. The value None deletes
            an attribute.
        finding: The finding; None for an image that was not analyzed.
        is_correction: Whether the message is a correction.
    """
    dataset = phantom_dataset(PHANTOM)
    for keyword, value in (values or {}).items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    instance = received(dataset, folder)
    options = replace(OPTIONS, is_correction=is_correction)
    if finding is None:
        reason = "Not analyzed", "The study is too old."
        (result,) = encode_notice(instance, reason, MODEL, options)
    else:
        (result,) = encode_file(instance, PHANTOM.radiograph(), finding, options)
    return result


def ris(port: int = 2575, **values: object) -> Hl7Destination:
    """Return the settings of an HL7 destination on this machine.

    `values` are settings to add or to change.
    """
    address = {"name": "ris", "type": "hl7", "host": "127.0.0.1", "port": port}
    return Hl7Destination.model_validate({**address, "per": "image", **values})


def written(result: ResultObject, **values: object) -> str:
    """Return the text of an HL7 message as the node sends it to `ris(**values)`."""
    return written_message(result.content.decode(), ris(**values)).decode()


def segments(message: str, name: str) -> list[list[str]]:
    """Return the fields of each segment called `name`, and 25 empty fields after them.

    In a segment, index 0 is the name, and index n is field n. In MSH, field n has the
    index n - 1, because MSH-1 is the separator itself.
    """
    lines = [each.split("|") for each in message.split("\r")]
    return [[*each, *[""] * 25] for each in lines if each[0] == name]


def unescaped(encoded: str) -> str:
    """Return a field with its escape sequences (HL7 v2.5.1 2.7) decoded."""
    delimiters = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}
    plain, *rest = encoded.split("\\")
    for sequence, after in zip(rest[::2], rest[1::2], strict=True):
        character = delimiters.get(sequence) or chr(int(sequence[1:], 16))
        plain += character + after
    return plain
