"""Evaluation: what is counted, and that the shipped weights are worth shipping."""

from inference.classifier import Classifier
from inference.training.evaluate import Judged, judge_phantoms, summary


def test_shares_are_of_the_broken_and_of_the_whole() -> None:
    judged = [
        Judged(broken=True, probability=0.9, answered=True, pointed=True),
        Judged(broken=True, probability=0.8, answered=True, pointed=False),
        Judged(broken=True, probability=0.1, answered=False, pointed=False),
        Judged(broken=True, probability=0.7, answered=True, pointed=False),
        Judged(broken=False, probability=0.9, answered=True, pointed=False),
        Judged(broken=False, probability=0.1, answered=False, pointed=False),
    ]

    assert summary(judged) == {
        "phantoms": 6,
        "sensitivity": 0.75,
        "specificity": 0.5,
        "arrow_in_box": 0.25,
    }


def test_shipped_weights_find_the_break_in_phantoms_they_have_not_seen() -> None:
    shipped = Classifier.load(None, "cpu")

    found = summary(list(judge_phantoms(shipped, range(40))))

    assert found["sensitivity"] >= 0.9
    assert found["specificity"] >= 0.9
    assert found["arrow_in_box"] >= 0.85
