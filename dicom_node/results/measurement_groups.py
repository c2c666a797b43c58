"""The measurement groups of an image (PS3.16 TID 1410 and TID 1501).

The first group is about the image. Groups about the locations may follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)

from dicom_node.results.anatomy import body_part, side
from dicom_node.results.codes import (
    ABSENT,
    ARTIFICIAL_INTELLIGENCE,
    COMMENT,
    FRACTURE_OF_BONE,
    NO_UNITS,
    OPERATING_POINT,
    PRESENCE,
    PRESENT,
    PROBABILITY,
    SUMMARY,
    SUSPECTED,
    VISUAL_EXPLANATION,
    WITH_FINDINGS,
    WITHOUT_FINDINGS,
)
from dicom_node.results.encoding import ResultObject
from dicom_node.results.provenance import plain
from dicom_node.results.source import Source
from dicom_node.uids import derived_uid
from inference.drawing.caption import DISCLAIMER, headline, percent
from inference.drawing.contour import outline
from inference.finding import Finding, Location, OperatingPoint, Point

TRACKING = "AI assessment for fracture"
"""Tracking Identifier (112039, DCM) of the group about the image."""

PRESENCE_CODES = {
    OperatingPoint.NONE: ABSENT,
    OperatingPoint.DOUBTFUL: SUSPECTED,
    OperatingPoint.DEFINITE: PRESENT,
}

Group = Any
"""A measurement group: one of two templates of highdicom."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportedImage:
    """An image with a finding, as a structured report describes it.

    Attributes:
        source: The instance that was analyzed.
        finding: The finding for the image.
        stored_shape: (rows, columns) of the image as stored; None if it is not known.
        displayed_shape: (rows, columns) of the image as displayed, which differ from
            the stored ones if the pixels are not square. The locations of the finding
            are in pixels of this shape. None if it is not known.
        segmentation: The heatmap that the report references as visual explanation; None
            for no reference.
    """

    source: Source
    finding: Finding
    stored_shape: tuple[int, int] | None
    displayed_shape: tuple[int, int] | None
    segmentation: ResultObject | None = None


def measurement_groups(image: ReportedImage) -> list[Group]:
    """Return the measurement groups of an image.

    The first group has the probability of a fracture in the image. If the finding has
    one location, this group is about the region around it (TID 1410). Otherwise, or if
    a shape is not known, it is about the whole image (TID 1501).

    There is also a group for each location, about the point of its arrow (TID 1410),
    with the score of the location. Then the first group has no Finding, so that a
    viewer that lists findings lists each location once. These groups are omitted if a
    shape is not known, or if the rounded score of the only location is equal to the
    rounded probability.

    Each group references `segmentation`, unless it is None.
    """
    located = _location_groups(image)
    groups = [_image_group(image, has_finding=not located), *located]
    if image.segmentation:
        for group in groups:
            group[0].ContentSequence.append(_explanation(image.segmentation))
    return groups


def _image_group(image: ReportedImage, *, has_finding: bool) -> Group:
    """Return the group about the image.

    Args:
        image: The image.
        has_finding: Whether the group has a Finding if a fracture is reported. A
            negative report has none, because a viewer may list findings without their
            evaluation.
    """
    header, finding = image.source.instance.header, image.finding
    # The tracking identifier is the same for every result about the image. A viewer may
    # show it as a label, so it does not name the finding.
    tracking = TrackingIdentifier(
        uid=derived_uid("tracking", header.sop_instance_uid), identifier=TRACKING
    )
    arguments = {
        **_common(image),
        "finding_type": FRACTURE_OF_BONE
        if has_finding and finding.is_fracture
        else None,
        "tracking_identifier": tracking,
        "measurements": [_probability(finding.probability)],
        "qualitative_evaluations": [
            QualitativeEvaluation(PRESENCE, PRESENCE_CODES[finding.operating_point]),
            QualitativeEvaluation(
                SUMMARY, WITH_FINDINGS if finding.is_fracture else WITHOUT_FINDINGS
            ),
        ],
    }
    if contour := _contour(image):
        region = _region(image.source, "POLYLINE", [*contour, contour[0]])
        group: Group = PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=region, **arguments
        )
    else:
        uids = header.sop_class_uid, header.sop_instance_uid
        group = MeasurementsAndQualitativeEvaluations(
            source_images=[SourceImageForMeasurementGroup(*uids)], **arguments
        )
    sentence = f"{headline(finding)}. {DISCLAIMER}."
    return _with_texts(group, finding.operating_point, sentence)


def _contour(image: ReportedImage) -> tuple[Point, ...]:
    """Return the outline of the only location, in stored pixels.

    Empty if there is not exactly one location, or if its point is not known.
    """
    points = _stored_points(image)
    if len(points) != 1 or not image.stored_shape:
        return ()
    rows, columns = image.stored_shape
    return outline(image.finding.saliency, (columns, rows), points[0])


def _stored_points(image: ReportedImage) -> list[Point]:
    """Return the point of each location, in stored pixels.

    Empty if a shape is not known.
    """
    if not (image.stored_shape and image.displayed_shape):
        return []
    (stored_rows, stored_columns), (rows, columns) = (
        image.stored_shape,
        image.displayed_shape,
    )
    tips = [each.arrow.tip for each in image.finding.locations]
    return [
        (column * stored_columns / columns, row * stored_rows / rows)
        for column, row in tips
    ]


def _location_groups(image: ReportedImage) -> list[Group]:
    """Return the groups about the locations; empty if they are not needed.

    If there is only one location, and its rounded score is equal to the rounded
    probability, no group is needed. The result is also empty if a shape is not known.
    """
    points, finding = _stored_points(image), image.finding
    scores = {_rounded(each.score) for each in finding.locations}
    if not points or (len(points) == 1 and scores == {_rounded(finding.probability)}):
        return []
    return [
        _location_group(image, location, point, number)
        for number, (location, point) in enumerate(
            zip(finding.locations, points, strict=True), start=1
        )
    ]


def _location_group(
    image: ReportedImage, location: Location, point: Point, number: int
) -> Group:
    """Return the group about a location.

    Args:
        image: The image.
        location: The location.
        point: The point of the arrow, in stored pixels.
        number: The number of the location, from 1, as on the other results.
    """
    # The UID is that of a point, not of a number: the first location of another model
    # may be somewhere else.
    header, (column, row) = image.source.instance.header, point
    tracked = header.sop_instance_uid, f"{column:.1f}", f"{row:.1f}"
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derived_uid("tracking", *tracked), identifier=f"Finding {number}"
        ),
        referenced_region=_region(image.source, "POINT", [point]),
        measurements=[_probability(location.score)],
        qualitative_evaluations=[
            QualitativeEvaluation(PRESENCE, PRESENCE_CODES[location.operating_point])
        ],
        finding_type=FRACTURE_OF_BONE,
        **_common(image),
    )
    sentence = (
        f"Finding {number} of {len(image.finding.locations)}: "
        f"{location.operating_point}, probability of a fracture "
        f"{percent(location.score)}, considering only this location. {DISCLAIMER}."
    )
    return _with_texts(group, location.operating_point, sentence)


def _common(image: ReportedImage) -> dict[str, Any]:
    """Return the arguments that are the same for all groups of an image."""
    return {
        "algorithm_id": _algorithm(image.finding),
        "finding_sites": _sites(image.source),
    }


def _region(source: Source, graphic: str, points: Sequence[Point]) -> ImageRegion:
    """Return a region of an image (PS3.16 TID 1410, row 5).

    Args:
        source: The image.
        graphic: The Graphic Type (0070,0023).
        points: The points in stored pixels. (0, 0) is the top left corner of the first
            pixel (PS3.3 C.18.6.1.1).
    """
    header = source.instance.header
    return ImageRegion(
        GraphicTypeValues(graphic),
        np.array(points),
        SourceImageForRegion(header.sop_class_uid, header.sop_instance_uid),
    )


def _probability(probability: float) -> Measurement:
    """Return the measurement of a probability."""
    return Measurement(PROBABILITY, _rounded(probability), NO_UNITS)


def _rounded(probability: float) -> float:
    """Return a probability with four decimals, from 0.0001 to 0.9999.

    A rounded value of 0 or 1 is replaced by the nearest end of this range, because it
    would express certainty.
    """
    return min(max(round(probability, 4), 0.0001), 0.9999)


def _algorithm(finding: Finding) -> AlgorithmIdentification:
    """Return the model and the thresholds that were applied (TID 4019)."""
    points = finding.thresholds
    return AlgorithmIdentification(
        name=plain(finding.model.name),
        version=plain(finding.model.version),
        parameters=[
            f"doubtful from a probability of {points.doubtful:.6g}",
            f"definite from a probability of {points.definite:.6g}",
        ],
        family=ARTIFICIAL_INTELLIGENCE,
    )


def _sites(source: Source) -> list[FindingSite] | None:
    """Return the body part with its side; None if the body part is not known."""
    part = body_part(source)
    return part and [FindingSite(part, laterality=side(source))]


def _with_texts(group: Group, point: OperatingPoint, sentence: str) -> Group:
    """Add the operating point and a comment to a group as texts; return the group."""
    group[0].ContentSequence.extend(
        TextContentItem(name, text, RelationshipTypeValues.CONTAINS)
        for name, text in ((OPERATING_POINT, point.value), (COMMENT, sentence))
    )
    return group


def _explanation(segmentation: ResultObject) -> ImageContentItem:
    """Return a reference to the heatmap, the visual explanation of a group.

    In TID 1410, the row CONTAINS, IMAGE, (130401, DCM, "Visual explanation") follows
    row 9, Illustration of ROI. In TID 1501, it is row 9d. The reference has no
    Referenced Segment Number, because it applies to all segments of the object, which
    has only one (PS3.3 table 10-3).
    """
    return ImageContentItem(
        CodedConcept.from_code(VISUAL_EXPLANATION),
        segmentation.sop_class_uid,
        segmentation.sop_instance_uid,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
