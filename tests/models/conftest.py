"""Tests of networks use one thread."""

from tests.support.threads import one_thread  # noqa: F401 - a fixture of pytest
