"""Common fixtures of tests of training and evaluation."""

import pytest

from inference.training import evaluate, train


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use 50 bootstrap resamples for a confidence interval, and 10 for a subgroup.

    The usual numbers would take most of the time of an evaluation of a few radiographs.
    test_statistics.py tests the intervals.
    """
    monkeypatch.setattr(evaluate, "RESAMPLED", 50)
    monkeypatch.setattr(evaluate, "FEW", 10)
    monkeypatch.setattr(train, "RESAMPLED", 50)
