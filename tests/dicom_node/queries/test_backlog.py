"""The age of a delivery as text for users."""

import time

import pytest

from dicom_node.queries.backlog import format_age


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-60, "0 s"),  # a clock that was set back
        (12, "12 s"),
        (119, "119 s"),
        (121, "2 min"),
        (7_201, "2 h"),
        (172_801, "2 d"),
        (10 * 86_400 + 1, "10 d"),
    ],
)
def test_an_age_has_one_unit(
    monkeypatch: pytest.MonkeyPatch, seconds: int, text: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)

    assert format_age(1_000_000_000 - seconds) == text
