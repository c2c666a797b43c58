"""Reading of model cards. The message of an error names every wrong key."""

from dataclasses import replace
from pathlib import Path

import pytest

from inference.training.draft import DRAFT
from models.card import ModelError, card_text, read_card

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.toml"


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_card_is_read_as_written(path: Path) -> None:
    card = replace(
        DRAFT,
        name='Ñandú "x"',
        body_parts=("LEG", "ARM"),
        sha256="0f" * 32,
        phantom_logits={"whole": (-1.5, 2.0), "broken": (3.25, -1e-07)},
        finding_threshold=0.125,
    )

    assert read_card(write(path, card_text(card))) == card


def test_error_names_every_wrong_key(path: Path) -> None:
    text = card_text(DRAFT)
    for right, wrong in [
        ('"resnet16_fine"', '"vgg16"'),
        ("input_size = 224", 'input_size = "224"'),
        ("temperature = 1.0", "temperature = 0"),
        ("doubtful = 0.5", "doubtfull = 0.5"),
        ("std = [0.229, 0.224, 0.225]", "std = [0.25, 0.25]"),
    ]:
        assert right in text
        text = text.replace(right, wrong)

    with pytest.raises(ModelError) as refused:
        read_card(write(path, text))

    message = str(refused.value)
    assert "architecture: found 'vgg16'; expected 'resnet18'" in message
    assert "input_size: found '224'" in message
    assert "temperature: found 0" in message
    assert "doubtfull: no such key; did you mean doubtful?" in message
    assert "doubtful: missing" in message
    assert "std.2: missing" in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(
            {"classes": ("Fractura", "No")}, "exactly one must be 'Fracture'", id="none"
        ),
        pytest.param(
            {"classes": ("Fracture", "Fracture")}, "exactly one must be", id="two"
        ),
        pytest.param(
            {"doubtful": 0.9}, r"definite: found 0\.8; expected at least", id="order"
        ),
        pytest.param(
            {"phantom_logits": {"whole": (1.0, 2.0)}},
            r"found \['whole'\]; expected broken and whole",
            id="half-recorded",
        ),
        pytest.param(
            {"phantom_logits": {"whole": (1.0,), "broken": (1.0, 2.0)}},
            r"phantom_logits\.whole: found 1 numbers for 2 classes",
            id="too-few-logits",
        ),
        pytest.param({"scales": (2,)}, r"scales: found \[2\]; expected \[1\]", id="2"),
        pytest.param(
            {"finding_threshold": 0.1, "pooling": "average"},
            "finding_threshold: found with pooling 'average'; expected pooling",
            id="threshold-without-scores",
        ),
        pytest.param({"exposure": "dark"}, "exposure: found 'dark'", id="exposure"),
        pytest.param({"sha256": "F" * 64}, "sha256: found", id="uppercase-digest"),
        pytest.param({"temperature": float("nan")}, "temperature: found", id="nan"),
    ],
)
def test_inconsistent_card_is_refused(
    path: Path, change: dict[str, object], complaint: str
) -> None:
    text = card_text(replace(DRAFT, **change)).replace("NaN", "nan")  # type: ignore[arg-type]

    with pytest.raises(ModelError, match=complaint):
        read_card(write(path, text))


def test_error_names_the_missing_card(path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights\.toml does not exist"):
        read_card(path)


def test_card_with_invalid_toml_is_refused(path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read as TOML"):
        read_card(write(path, "name = "))


def test_date_for_a_number_is_reported(path: Path) -> None:
    text = card_text(DRAFT).replace("input_size = 224", "input_size = 2024-01-01")

    with pytest.raises(ModelError, match="input_size: found '2024-01-01'"):
        read_card(write(path, text))


def test_default_scales_and_exposure_of_a_card() -> None:
    for name in ("fracture_model.toml", "original_app.example.toml"):
        card = read_card(MODELS / name)

        assert card.scales == (1,)
        assert card.exposure == "as_shown"


def test_example_card_has_the_values_of_the_original_app() -> None:
    card = read_card(MODELS / "original_app.example.toml")

    assert card.architecture == "resnet18"
    assert card.classes.index("Fracture") == 0
    assert (card.input_size, card.resize) == (224, "stretch")
    assert card.mean == (0, 0, 0)
    assert card.std == (1, 1, 1)
    assert card.temperature == 1
    assert card.doubtful == card.definite == 0.5
