"""The intended use of the model: limits on attributes of an image and its patient.

The model card states the intended use, and the settings may narrow it. A limit does not
exclude an image that lacks the attribute. If there is a minimum age and the age of the
patient is unknown, the results say so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from pydicom import Dataset

from dicom_node.dataset.anatomic_region import BODY_PART_SYNONYMS, region
from dicom_node.dataset.attributes import quoted, text
from dicom_node.reasons import Exclusion, Unanalyzed

YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
"""Years per unit of an Age String (AS, PS3.5 6.2)."""


@dataclass(frozen=True, slots=True)
class IntendedUse:
    """Limits on the patients and images that the model may analyze.

    Attributes:
        body_parts: Values of Body Part Examined (0018,0015), or of the same part in
            Anatomic Region Sequence (0008,2218); empty means any.
        views: Lists of values of View Position (0018,5101). Each list must allow the
            view of an image; an empty list allows any view.
        min_age_years: Minimum age of the patient at the time of the study, in years; 0
            means no limit.
    """

    body_parts: tuple[str, ...] = ()
    views: tuple[tuple[str, ...], ...] = ()
    min_age_years: float = 0


ANY_USE = IntendedUse()
"""The intended use without limits."""


def outside_intended_use(dataset: Dataset, use: IntendedUse) -> Iterator[Exclusion]:
    """Yield an exclusion for each limit that an image does not meet.

    An image without the attribute meets the limit. If Body Part Examined is absent or
    empty, the body part is that of Anatomic Region Sequence. The messages quote the
    body part or the view if it is a code string. They do not quote the age, because
    logs must not contain data of patients.
    """
    examined = text(dataset, "BodyPartExamined")
    synonym = BODY_PART_SYNONYMS.get(examined.upper(), examined)
    if not any(_is_listed(each, use.body_parts) for each in (examined, synonym)):
        yield Exclusion(
            Unanalyzed.BODY_PART,
            f"Body Part Examined (0018,0015) is {quoted(examined)}, which is outside "
            "the model's intended use.",
        )
    code, part = ("", "") if examined else region(dataset)
    if not _is_listed(part, use.body_parts):
        yield Exclusion(
            Unanalyzed.BODY_PART,
            f"Anatomic Region Sequence (0008,2218) has the code {code} ({part}), which "
            "is outside the model's intended use.",
        )
    view = text(dataset, "ViewPosition")
    if not all(_is_listed(view, each) for each in use.views):
        yield Exclusion(
            Unanalyzed.VIEW,
            f"View Position (0018,5101) is {quoted(view)}, which is outside the "
            "model's intended use (views on the model card or under [model]).",
        )
    age = patient_age(dataset)
    if age is not None and age < use.min_age_years:
        yield Exclusion(
            Unanalyzed.PATIENT_AGE,
            f"The patient was younger than {use.min_age_years:g} years at the time of "
            "the study, by Patient's Age (0010,1010), or by Patient's Birth Date "
            "(0010,0030) and Study Date (0008,0020). This is outside the model's "
            "intended use (min_age_years on the model card or under [model]).",
        )


def unknown_age(dataset: Dataset, use: IntendedUse) -> tuple[str, ...]:
    """Return a tuple with a sentence for the results if the patient's age is unknown.

    The tuple is empty if the age is known or if `use` has no minimum age.
    """
    if not use.min_age_years or patient_age(dataset) is not None:
        return ()
    sentence = (
        "The age of the patient is unknown, and the model is intended for patients of "
        f"at least {use.min_age_years:g} years."
    )
    return (sentence,)


def patient_age(dataset: Dataset) -> float | None:
    """Return the age of the patient at the time of the study in years, at least 0.

    The age is the value of Patient's Age (0010,1010), converted to years. If this value
    is absent or invalid, the age is the number of whole years from Patient's Birth Date
    (0010,0030) to Study Date (0008,0020). Return None if one of these dates is absent
    or invalid, too, or if the study is before the birth.
    """
    stated = re.fullmatch(r"(\d{1,3})([DWMY])", text(dataset, "PatientAge").upper())
    if stated:
        return int(stated[1]) * YEARS_PER_UNIT[stated[2]]
    born, studied = date_of(dataset, "PatientBirthDate"), date_of(dataset, "StudyDate")
    if born is None or studied is None or studied < born:
        return None
    had_birthday = (studied.month, studied.day) >= (born.month, born.day)
    return float(studied.year - born.year - (not had_birthday))


def date_of(dataset: Dataset, keyword: str) -> date | None:
    """Return the value of a DA attribute as a date; None if it is absent or invalid."""
    digits = text(dataset, keyword).replace(".", "")  # ACR-NEMA: 1990.01.31
    if not re.fullmatch(r"\d{8}", digits):
        return None
    try:
        return datetime.strptime(digits, "%Y%m%d").date()  # noqa: DTZ007
    except ValueError:
        return None


def _is_listed(value: str, values: tuple[str, ...]) -> bool:
    """Return whether `values` contains `value` or one of the words in `value`.

    For example, ELBOW is a word in ELBOW LT. The case of letters is ignored. Return
    True if `value` or `values` is empty.
    """
    known, value = {each.upper() for each in values}, value.upper()
    return (
        not value
        or not known
        or value in known
        or not known.isdisjoint(re.split(r"[ _]", value))
    )
