"""The shipped model, loaded once for tests of a process."""

import pytest


@pytest.fixture(scope="session")
def shipped_model() -> object:
    """Return the classifier with the shipped weights."""
    # Not at the top: the process that distributes the tests reads this module, too.
    from inference.classification.classifier import Classifier  # noqa: PLC0415

    return Classifier.load(None, "cpu")


@pytest.fixture
def preloaded_model(shipped_model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preload the shipped model, as the fork server of the roles does.

    Each pipeline of a test would otherwise load the model and run its self-test.
    """
    monkeypatch.setattr("inference.classification.classifier._preloaded", shipped_model)
