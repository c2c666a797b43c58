"""The origin of a result: its time, its software, and its source instance.

Texts of the node are ASCII, so they are valid in every character set of the source.
"""

import re
from datetime import datetime, timedelta, timezone
from itertools import chain

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.tag import Tag

from dicom_node.dataset.attributes import UID_PATTERN
from dicom_node.own_results import MODEL_NAME
from dicom_node.results.codes import PROCESSING_EQUIPMENT, SOURCE_IMAGE, code_item
from dicom_node.results.source import Source
from dicom_node.uids import IMPLEMENTATION_VERSION_NAME, derived_uid
from inference.finding import ModelIdentity
from inference.radiograph import Radiograph

MANUFACTURER = "fracture-node project"

_LONG_STRING = 64  # characters of an LO (PS3.5 6.2)


def plain(text: str, limit: int = _LONG_STRING) -> str:
    """Return text as a single DICOM value: at most `limit` printable ASCII characters.

    Each other character, and each backslash, is replaced by a question mark. Longer
    text is cut. Spaces at both ends are removed.
    """
    ascii_text = text.encode("ascii", "replace").decode()
    return re.sub(r"[^ -\[\]-~]", "?", ascii_text)[:limit].strip()


def assumed(made: str, radiograph: Radiograph) -> str:
    """Return `made` with the assumptions about the source appended, if there are any.

    Args:
        made: How the result was made, for Derivation Description.
        radiograph: The displayed source, with the assumptions.
    """
    if not radiograph.assumptions:
        return made
    return f"{made}. Assumed of the source: {' '.join(radiograph.assumptions)}"


def moment(source: Source) -> datetime:
    """Return the time of receipt of the source, in the time zone of its dataset.

    Results copy Timezone Offset From UTC (0008,0201) from the source. The offset
    applies to all times of a dataset. If the offset is absent or invalid, times are in
    the local time zone (PS3.3 C.12.1.1.8). The node then uses the time zone of this
    machine.
    """
    received = source.instance.received_at
    offset = re.fullmatch(
        r"([+-])(0\d|1[0-4])([0-5]\d)", source.text("TimezoneOffsetFromUTC")
    )
    if offset is None:
        return received.astimezone()
    sign, hours, minutes = offset.groups()
    east = timedelta(hours=int(hours), minutes=int(minutes))
    return received.astimezone(timezone(-east if sign == "-" else east))


def times(source: Source) -> Dataset:
    """Return the creation and content dates and times of a result.

    All are the time of receipt of the source (see `moment`). Series Date and Series
    Time are omitted, because the instances of a series are made at different times.
    """
    made = moment(source)
    dataset = Dataset()
    dataset.InstanceCreationDate = dataset.ContentDate = f"{made:%Y%m%d}"
    dataset.InstanceCreationTime = dataset.ContentTime = f"{made:%H%M%S.%f}"
    return dataset


def equipment(source: Source, *models: ModelIdentity) -> Dataset:
    """Return the attributes that name the node and the models, with their versions.

    Contributing Equipment Sequence has an item for each model. Content Qualification
    (0018,9004) is RESEARCH.

    Args:
        source: The instance that determines the time of the contributions.
        models: The models that made the findings, at least one.

    Source:
        PS3.3 C.7.5.1, C.12.1.
    """
    dataset = Dataset()
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.SoftwareVersions = _versions(*models)
    dataset.ContributingEquipmentSequence = [
        _contribution(source, each) for each in models
    ]
    dataset.ContentQualification = "RESEARCH"
    return dataset


def _contribution(source: Source, model: ModelIdentity) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = MODEL_NAME
    item.SoftwareVersions = _versions(model)
    item.DeviceUID = derived_uid("model", model.digest)  # changes with every training
    item.ContributionDateTime = f"{moment(source):%Y%m%d%H%M%S.%f%z}"
    item.ContributionDescription = "Fracture classification, Grad-CAM"
    return item


def _versions(*models: ModelIdentity) -> list[str]:
    """Return Software Versions: that of the node, and two values for each model."""
    of_models = (
        (plain(f"{each.name:.48} {each.version}"), plain(f"sha256 {each.digest:.16}"))
        for each in models
    )
    return [IMPLEMENTATION_VERSION_NAME, *chain.from_iterable(of_models)]


def reference(source: Source) -> Dataset:
    """Return references to the source (PS3.3 C.7.6.1, C.12.2).

    One reference is in Source Image Sequence, the other in Referenced Series Sequence.
    Referenced Series Sequence is omitted if the source has no valid Series Instance
    UID.
    """
    image = source_image(source)
    image.SpatialLocationsPreserved = "NO"  # the result is scaled and has a caption
    dataset = Dataset()
    dataset.SourceImageSequence = [image]
    if UID_PATTERN.fullmatch(source.text("SeriesInstanceUID")):
        dataset.ReferencedSeriesSequence = [source_series(source)]
    return dataset


def source_image(source: Source) -> Dataset:
    """Return a reference to the source, with the code for the purpose of the reference.

    Source:
        PS3.3 C.7.6.16.2.6.
    """
    image = source_instance(source)
    image.PurposeOfReferenceCodeSequence = [code_item(SOURCE_IMAGE)]
    return image


def source_series(source: Source) -> Dataset:
    """Return an item of Referenced Series Sequence for the source (PS3.3 C.12.2)."""
    series = Dataset()
    series.add(uid_element("SeriesInstanceUID", source.text("SeriesInstanceUID")))
    series.ReferencedInstanceSequence = [source_instance(source)]
    return series


def source_instance(source: Source) -> Dataset:
    """Return a reference to the source, by its SOP UIDs (PS3.3 10.8)."""
    item = Dataset()
    header = source.instance.header
    item.add(uid_element("ReferencedSOPClassUID", header.sop_class_uid))
    item.add(uid_element("ReferencedSOPInstanceUID", header.sop_instance_uid))
    return item


def uid_element(keyword: str, uid: str) -> DataElement:
    """Return an element with a UID, without checking the UID.

    Characters that are not ASCII are replaced by question marks.
    """
    ascii_uid = uid.encode("ascii", "replace").decode()
    return DataElement(Tag(keyword), "UI", ascii_uid, validation_mode=IGNORE)
