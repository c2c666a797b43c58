"""Exponential back-off."""

import pytest

from dicom_node.backoff import backoff_s


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (10**6, 300)]
)
def test_delay_doubles_up_to_its_maximum(failures: int, delay_s: float) -> None:
    assert backoff_s(failures, 2.0, 300.0) == delay_s
