"""A fixture: the tests in this folder compute with one thread of torch."""

from tests.support.threads import one_thread  # noqa: F401 - a fixture of pytest
