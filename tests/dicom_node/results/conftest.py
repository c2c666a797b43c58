"""A fixture: the validator of structured reports."""

from tests.support.sr_validator import sr_validation  # noqa: F401 - a fixture of pytest
