"""The card of the shipped weights, and the card that a training starts with."""

import pytest

from inference.classification.classifier import SHIPPED
from inference.training.draft import DRAFT
from models.card import read_card

pytestmark = pytest.mark.unit


def test_no_card_allows_children() -> None:
    """FracAtlas states no ages, and growth plates cause false positives."""
    shipped = read_card(SHIPPED.with_suffix(".toml"))

    assert shipped.min_age_years == DRAFT.min_age_years == 18
    assert shipped.body_parts == DRAFT.body_parts
