"""The evaluation of a classifier: its figures, its files and its command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dicom_node.commands import evaluate
from inference.classification.classifier import SHIPPED, Classifier
from inference.finding import OperatingPoint
from inference.training.atlas import Sample, read_manifest
from inference.training.evaluate import _age_band, comparison, evaluation, figures
from inference.training.judging import Judged, Peak
from inference.training.phantoms import random_phantom
from inference.training.report import write_figures
from inference.training.robustness import CHANGES, _switched_at, robustness
from models.card import card_text, read_card
from tests.support.phantom_atlas import write_atlas

pytestmark = pytest.mark.usefixtures("few_resamples")

DEFINITE, DOUBTFUL = OperatingPoint.DEFINITE, OperatingPoint.DOUBTFUL
NONE = OperatingPoint.NONE


def judged(
    probability: float, point: OperatingPoint, *, box: float = 0, pointed: bool = False
) -> Judged:
    boxes = ((0.1, 0.1, 0.1 + box, 0.1 + box / 2),) if box else ()
    traits = {"body_part": "hand" if probability > 0.5 else "leg", "hardware": "0"}
    sample = Sample(Path("x.png"), bool(box), boxes, str(probability), "val", traits)
    tip = (0.1, 0.1) if pointed else None
    return Judged(sample, probability, point, tip, pointed, 0.5)


JUDGED = [
    judged(0.9, DEFINITE, box=0.05, pointed=True),
    judged(0.8, DOUBTFUL, box=0.1),
    judged(0.1, NONE, box=0.2),
    judged(0.7, DOUBTFUL, box=0.1, pointed=True),
    judged(0.6, DOUBTFUL),
    judged(0.2, NONE),
]


def test_sensitivity_is_of_fractured_and_specificity_of_other_radiographs() -> None:
    overall = evaluation(JUDGED)["overall"]

    assert (overall["radiographs"], overall["fractured"]) == (6, 4)
    figures = {name: value[0] for name, value in overall.items() if name in WANTED}
    assert figures == WANTED
    assert overall["arrow_in_box"][1] <= 0.5 <= overall["arrow_in_box"][2]


def test_refused_radiograph_counts_as_missed_and_has_no_probability() -> None:
    refused = replace(judged(0.0, NONE, box=0.1), refused=True)

    found = evaluation([*JUDGED, refused])

    assert found["overall"]["sensitivity_doubtful"][0] == 0.6
    assert found["overall"]["auc"][0] == 0.75
    assert found["reliability"] == evaluation(JUDGED)["reliability"]


WANTED = {
    "auc": 0.75,  # of 8 pairs, 2 are wrong: 0.1 is below 0.6 and 0.2
    "sensitivity_doubtful": 0.75,
    "specificity_doubtful": 0.5,
    "sensitivity_definite": 0.25,
    "specificity_definite": 1.0,
    "arrow_in_box": 0.5,
}


def test_second_arrow_in_a_box_counts_only_for_any_arrow() -> None:
    beside = Peak((0.5, 0.5), 0.6, (), is_highest=True, has_arrow=True)
    right = Peak((0.1, 0.1), 0.4, (0,), is_highest=False, has_arrow=True)
    missed = replace(judged(0.8, DEFINITE, box=0.1), peaks=(beside, right))
    without = replace(missed, peaks=(beside, replace(right, has_arrow=False)))
    no_fracture = replace(judged(0.6, DOUBTFUL), peaks=(right,))

    found = evaluation([missed, without, judged(0.1, NONE, box=0.1), no_fracture])

    assert found["overall"]["arrow_in_box"][0] == 0
    assert found["overall"]["any_arrow_in_box"][0] == pytest.approx(1 / 3, abs=1e-4)


def test_figures_are_computed_for_each_subgroup() -> None:
    subgroups = evaluation(JUDGED)["subgroups"]

    assert subgroups["body_part"]["hand"]["radiographs"] == 4
    assert subgroups["body_part"]["leg"]["fractured"] == 1
    assert set(subgroups["largest fracture"]) == {
        "under 6% of the side",
        "6% to 12%",
        "over 12%",
    }
    # Fractures of each size are compared with all radiographs without a fracture.
    assert subgroups["largest fracture"]["under 6% of the side"]["auc"][0] == 1
    assert subgroups["largest fracture"]["over 12%"]["auc"][0] == 0


def test_the_command_writes_figures_curves_and_sheets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_atlas(tmp_path / "atlas", 4), tmp_path / "report"
    arguments = ["evaluate", "--data", str(folder), "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)

    evaluate.main()

    written = json.loads((out / "evaluation.json").read_text("utf-8"))
    assert json.loads(capsys.readouterr().out) == written["overall"]
    assert written["overall"]["radiographs"] == 4
    # The shipped card has no finding_threshold, so each fracture has one arrow.
    assert written["froc"]["one_arrow"] == written["froc"]["arrows"]
    assert written["froc"]["one_arrow"][0] == written["overall"]["arrow_in_box"][0] == 1
    assert written["froc"]["reported_without_arrow"] == 0
    assert written["overall"]["any_arrow_in_box"][0] == 1
    for name in ("roc", "pr", "calibration", "froc", "misses", "alarms"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 400


def test_robustness_reports_the_effect_of_each_image_change(tmp_path: Path) -> None:
    samples = read_manifest(write_atlas(tmp_path / "atlas", 2))

    reports = list(robustness(Classifier.load(None, "cpu"), samples))

    assert [each["change"] for each in reports] == list(CHANGES)
    assert reports[0]["turned"] == 0
    assert reports[0]["auc"] == 1
    assert all(0 <= each["turned"] <= 1 for each in reports)
    assert reports[0]["turned_definite"] == 0
    share = _switched_at(
        DEFINITE, [DEFINITE, NONE, DOUBTFUL], [DEFINITE, DEFINITE, NONE]
    )
    assert share == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize("name", CHANGES)
def test_changes_keep_most_of_the_brightness(name: str) -> None:
    pixels = random_phantom(0, broken=True)[0].pixels

    changed = CHANGES[name](pixels)

    assert changed.dtype == np.uint8
    assert changed.ndim == 2
    assert changed.astype(float).sum() == pytest.approx(
        pixels.astype(float).sum(), rel=0.35
    )


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1], [0, 1, 0]])
def test_manifest_with_labels_only_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[int]
) -> None:
    rows = ["path,label,boxes_norm_xyxy"]
    for number, label in enumerate(labels):
        pixels = random_phantom(number, broken=label == 1)[0].pixels
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{label},")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    out = tmp_path / "report"
    arguments = ["evaluate", "--data", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)

    evaluate.main()

    overall = json.loads((out / "evaluation.json").read_text("utf-8"))["overall"]
    assert overall["fractured"] == sum(labels)
    assert (overall["auc"] is None) == (len(set(labels)) == 1)
    assert overall["arrow_in_box"] is None


def test_unreadable_images_are_listed_and_the_others_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_atlas(tmp_path / "atlas", 4), tmp_path / "report"
    (folder / "images" / "2.png").write_bytes(b"no picture")
    arguments = ["evaluate", "--data", str(folder), "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)

    evaluate.main()

    written = json.loads((out / "evaluation.json").read_text("utf-8"))
    assert written["overall"]["radiographs"] == 3
    (reason,) = written["unreadable"]
    assert "2.png" in reason


def test_fold_of_a_training_is_evaluated_without_the_excluded_radiographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_atlas(tmp_path / "atlas", 8), tmp_path / "report"
    (tmp_path / "copies.csv").write_text("path\nimages/1.png\n")
    arguments = ["evaluate", "--data", str(folder), "--out", str(out)]
    chosen = ["--split=fold-1", "--folds=2", f"--exclude={tmp_path / 'copies.csv'}"]
    monkeypatch.setattr("sys.argv", [*arguments, *chosen])

    evaluate.main()

    written = json.loads((out / "evaluation.json").read_text("utf-8"))
    assert written["overall"]["radiographs"] == 3  # of the four of this fold


def test_unknown_split_is_refused_and_the_splits_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_atlas(tmp_path / "atlas", 4)
    arguments = ["evaluate", "--data", str(folder), "--split", "test", "--out", "x"]
    monkeypatch.setattr("sys.argv", arguments)

    with pytest.raises(SystemExit, match="the manifest has: train, val"):
        evaluate.main()


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "under 18"),
        ("17.9", "under 18"),
        ("18", "18 to 39"),
        ("64", "40 to 64"),
        ("65", "65 and over"),
        ("90", "65 and over"),
        ("", "unknown"),
        ("065Y", "unknown"),
        ("-1", "unknown"),
        ("nan", "unknown"),
    ],
)
def test_ages_are_grouped_in_bands(age: str, band: str) -> None:
    assert _age_band(age) == band


def test_figures_are_reported_by_age_and_sex() -> None:
    ages, sexes = ("5", "30", "50", "70", "80", ""), "FMFMFO"
    results = [
        replace(each, sample=replace(each.sample, traits={"age": age, "sex": sex}))
        for each, age, sex in zip(JUDGED, ages, sexes, strict=True)
    ]

    subgroups = evaluation(results)["subgroups"]

    counts = {band: part["radiographs"] for band, part in subgroups["age"].items()}
    assert counts == {
        "under 18": 1,
        "18 to 39": 1,
        "40 to 64": 1,
        "65 and over": 2,
        "unknown": 1,
    }
    assert {sex: part["radiographs"] for sex, part in subgroups["sex"].items()} == {
        "F": 3,
        "M": 2,
        "O": 1,
    }


def test_difference_of_two_models_is_that_of_their_figures() -> None:
    others = [replace(each, probability=1 - each.probability) for each in JUDGED]

    compared = comparison(JUDGED, others)

    found, one, other = compared["difference"], figures(JUDGED, 0), figures(others, 0)
    for name, (value, low, high) in found.items():
        assert value == pytest.approx(one[name][0] - other[name][0], abs=2e-4)
        assert low <= value + 1e-4
        assert value <= high + 1e-4
    assert found["auc"][0] != 0
    assert found["sensitivity_doubtful"] == [0, 0, 0]


def test_there_is_no_froc_curve_and_no_picture_of_it_without_peaks(
    tmp_path: Path,
) -> None:
    found = evaluation(JUDGED)

    write_figures(tmp_path, found, JUDGED)

    assert found["froc"] is None
    assert not (tmp_path / "froc.png").exists()
    assert (tmp_path / "roc.png").exists()


@pytest.fixture
def other_weights(tmp_path: Path) -> Path:
    """The path of the shipped weights with a higher bias for the class Fracture.

    The card beside them has the name "other".
    """
    path = tmp_path / "other.pth"
    weights = torch.load(SHIPPED, weights_only=True)
    weights["fc.bias"][0] += 4
    torch.save(weights, path)
    card = read_card(SHIPPED.with_suffix(".toml"))
    card = replace(card, name="other", sha256="", phantom_logits={})
    path.with_suffix(".toml").write_text(card_text(card), "utf-8")
    return path


def test_command_compares_two_weights_on_the_same_radiographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_weights: Path
) -> None:
    folder, out = write_atlas(tmp_path / "atlas", 6), tmp_path / "report"
    arguments = ["evaluate", "--data", str(folder), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*arguments, "--against", str(other_weights)])

    evaluate.main()

    written = json.loads((out / "evaluation.json").read_text("utf-8"))
    compared = written["comparison"]
    assert compared["model"] == "other 0.4.0"
    assert written["model"] == "fracture-resnet18 0.4.0"
    # The other model reports each phantom as a fracture, in the same order.
    assert compared["overall"]["specificity_doubtful"][0] == 0
    assert written["overall"]["specificity_doubtful"][0] == 1
    assert compared["difference"]["specificity_doubtful"] == [1, 1, 1]
    assert compared["difference"]["auc"] == [0, 0, 0]
