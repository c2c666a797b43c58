"""Images of patients and views that the model was not made for are not analyzed."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pydicom import Dataset

from config.settings import load
from dicom_node.analysis.pipeline import intended_use
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import NotAnalyzedError
from dicom_node.pixels.decode import DecodeOptions, decode_file
from dicom_node.pixels.intended_use import (
    ANY_USE,
    IntendedUse,
    patient_age,
    unknown_age,
)
from dicom_node.pixels.screening import ScreeningRules, screen
from dicom_node.reasons import Unanalyzed
from inference.phantom.long_bone import draw_phantom
from models.card import read_card

pytestmark = pytest.mark.unit

ADULTS = IntendedUse(min_age_years=18)
SHIPPED = Path(__file__).parents[3] / "models" / "fracture_model.toml"


@pytest.fixture
def dataset() -> Dataset:
    """An image of a study of 2024-03-10. Its patient was born on 2000-01-01."""
    dataset = phantom_dataset(draw_phantom(broken=True, rows=64, columns=48))
    dataset.PatientBirthDate, dataset.StudyDate = "20000101", "20240310"
    return dataset


def rules(use: IntendedUse) -> ScreeningRules:
    return ScreeningRules(0, use, date(2024, 3, 10))


@pytest.mark.parametrize(
    ("stated", "years"),
    [
        ("018Y", 18.0),
        ("018y ", 18.0),
        ("215M", 215 / 12),
        ("053W", 53 * 7 / 365.25),
        ("010D", 10 / 365.25),
        ("000Y", 0.0),
        ("9Y", 9.0),
        # Not an age: the dates count.
        ("", 24.0),
        ("old", 24.0),
        ("18", 24.0),
        ("018X", 24.0),
    ],
)
def test_patients_age_counts_before_the_dates(
    stated: str, years: float, dataset: Dataset
) -> None:
    dataset.add_new("PatientAge", "LO", stated)

    assert patient_age(dataset) == pytest.approx(years)


@pytest.mark.parametrize(
    ("born", "studied", "years"),
    [
        ("20060310", "20240310", 18),
        ("20060311", "20240310", 17),
        ("20060229", "20240228", None),  # there was no such day
        ("20040229", "20220228", 17),
        ("20040229", "20220301", 18),
        ("2006.03.10", "2024.03.10", 18),
        ("20240310", "20240310", 0),
        ("20240311", "20240310", None),
        ("", "20240310", None),
        ("20060310", "", None),
        ("spring", "20240310", None),
    ],
)
def test_age_by_dates_is_the_number_of_birthdays(
    born: str, studied: str, years: float | None, dataset: Dataset
) -> None:
    dataset.add_new("PatientBirthDate", "LO", born)
    dataset.add_new("StudyDate", "LO", studied)

    assert patient_age(dataset) == years


@pytest.mark.parametrize(("stated", "passes"), [("018Y", True), ("215M", False)])
def test_younger_patients_are_not_analyzed(
    stated: str, *, passes: bool, dataset: Dataset
) -> None:
    dataset.PatientAge = stated
    screen(dataset, rules(ANY_USE), max_megapixels=1)

    if passes:
        screen(dataset, rules(ADULTS), max_megapixels=1)
        return
    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, rules(ADULTS), max_megapixels=1)
    assert caught.value.reason is Unanalyzed.PATIENT_AGE
    assert "younger than 18 years" in str(caught.value)
    assert "17" not in str(caught.value)  # the age is patient data
    assert "215" not in str(caught.value)


def test_an_unknown_age_is_analyzed_and_stated(
    dataset: Dataset, tmp_path: Path
) -> None:
    del dataset.PatientBirthDate
    path = tmp_path / "0.dcm"
    dataset.save_as(path, enforce_file_format=True)
    options = DecodeOptions(window=1, max_megapixels=1)

    (sentence,) = unknown_age(dataset, ADULTS)
    decoded = decode_file(path, rules(ADULTS), options)
    without_limit = decode_file(path, rules(ANY_USE), options)

    assert "age of the patient is unknown" in sentence
    assert sentence in decoded.radiograph.assumptions
    assert sentence not in without_limit.radiograph.assumptions
    assert unknown_age(dataset, ANY_USE) == ()


def test_nothing_is_stated_if_the_age_is_known(dataset: Dataset) -> None:
    assert unknown_age(dataset, ADULTS) == ()


@pytest.mark.parametrize(
    ("view", "views", "passes"),
    [
        ("AP", (("AP", "PA"),), True),
        ("ap ", (("AP", "PA"),), True),
        ("", (("AP", "PA"),), True),
        ("LL", (("AP", "PA"),), False),
        ("LL", ((), ()), True),
        ("AP", (("AP", "PA"), ("PA",)), False),
        ("PA", (("AP", "PA"), ("PA",)), True),
        ("PA", ((), ("AP",)), False),
    ],
)
def test_other_views_are_not_analyzed(
    view: str, views: tuple[tuple[str, ...], ...], *, passes: bool, dataset: Dataset
) -> None:
    dataset.add_new("ViewPosition", "LO", view)

    if passes:
        screen(dataset, rules(IntendedUse(views=views)), max_megapixels=1)
        return
    with pytest.raises(NotAnalyzedError) as caught:
        screen(dataset, rules(IntendedUse(views=views)), max_megapixels=1)
    assert caught.value.reason is Unanalyzed.VIEW
    assert f"View Position (0018,5101) is {view}," in str(caught.value)


@pytest.mark.parametrize(("site", "years"), [(0, 18), (16, 18), (21, 21)])
def test_the_settings_narrow_the_intended_use_and_do_not_extend_it(
    site: float, years: float
) -> None:
    card = replace(read_card(SHIPPED), views=("AP", "PA"))
    model = load(None, {}).model
    narrowed = model.model_copy(update={"min_age_years": site, "views": ("PA",)})

    use = intended_use(card, narrowed)

    assert use == IntendedUse(card.body_parts, (("AP", "PA"), ("PA",)), years)


def test_the_shipped_model_is_meant_for_adults(dataset: Dataset) -> None:
    use = intended_use(read_card(SHIPPED), load(None, {}).model)
    dataset.PatientAge = "017Y"

    with pytest.raises(NotAnalyzedError):
        screen(dataset, rules(use), max_megapixels=1)
