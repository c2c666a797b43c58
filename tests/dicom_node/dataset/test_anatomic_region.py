"""Body parts by the code of Anatomic Region Sequence, compared with pydicom's codes."""

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from dicom_node.dataset.anatomic_region import BODY_PART_SYNONYMS, REGIONS, region
from dicom_node.results.codes import BODY_PARTS

pytestmark = pytest.mark.unit


def coded(scheme: str, value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value, scheme
    item.CodeMeaning = "Doe^Jane"  # the meaning must not be used
    return item


def image(*regions: Dataset) -> Dataset:
    dataset = Dataset()
    dataset.AnatomicRegionSequence = Sequence(regions)
    return dataset


@pytest.mark.parametrize(
    ("scheme", "value", "part"),
    [
        ("SCT", "85562004", "HAND"),
        ("SRT", "T-D8700", "HAND"),
        ("SNM3", "T-11100", "SKULL"),
        ("99SDM", "T-11100", "SKULL"),
        ("SCT", "51185008", "CHEST"),  # the former code of the thorax
        ("SCT", "816094009", "CHEST"),
    ],
)
def test_a_code_of_any_version_of_snomed_names_the_part(
    scheme: str, value: str, part: str
) -> None:
    assert region(image(coded(scheme, value))) == (value, part)


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset(),
        image(),
        image(coded("SCT", "85562004"), coded("SCT", "85562004")),
        image(coded("99ACME", "85562004")),  # a private code
        image(coded("SCT", "15497006")),  # the ovary
        image(coded("SCT", "")),
        image(Dataset()),
    ],
)
def test_other_values_name_no_part(dataset: Dataset) -> None:
    assert region(dataset) == ("", "")


def test_a_value_that_is_not_a_sequence_names_no_part() -> None:
    dataset = Dataset()
    dataset.add_new("AnatomicRegionSequence", "LO", "85562004")

    assert region(dataset) == ("", "")


def test_each_code_is_in_one_row() -> None:
    codes = [
        code for _, *columns in REGIONS for each in columns for code in each.split()
    ]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(("_part", "snomed_ct", "snomed_rt"), REGIONS)
def test_codes_are_those_of_pydicom(_part: str, snomed_ct: str, snomed_rt: str) -> None:
    known = {code for each in concepts["SCT"].values() for code in each}
    current = set(snomed_ct.split())

    assert current <= known
    assert {mapping["SRT"][each] for each in snomed_rt.split()} <= current


def test_parts_of_the_results_have_the_same_codes() -> None:
    codes = {part: snomed_ct.split() for part, snomed_ct, _ in REGIONS}

    for part, code in BODY_PARTS.items():
        if part != "LIMB":  # no value of annex L
            assert code.value in codes[part]
    assert set(BODY_PART_SYNONYMS.values()) <= set(codes)
