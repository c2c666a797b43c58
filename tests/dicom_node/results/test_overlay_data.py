"""Drawings of findings are restored from the journal, with 8 bits of saliency."""

import numpy as np
import pytest

from dicom_node.results.overlay_data import overlay_in, overlay_of
from inference.finding import Arrow, Finding, ModelIdentity, Thresholds

SALIENCY = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 0.1]], np.float32)


@pytest.mark.parametrize("arrow", [None, Arrow((10.5, 20.0), (40.0, 60.25))])
def test_drawing_is_restored_from_its_row(arrow: Arrow | None) -> None:
    model = ModelIdentity("test", "1", "0" * 64)
    finding = Finding(0.75, Thresholds(0.25, 0.5), SALIENCY, arrow, model)

    row = overlay_of(finding, (200, 300)).values()
    restored = overlay_in(row)

    assert restored.picture_shape == (200, 300)
    assert restored.arrow == arrow
    assert (restored.doubtful, restored.definite) == (0.25, 0.5)
    # round(255 * saliency), to even at one half
    assert restored.levels.tolist() == [[0, 64, 255], [128, 191, 26]]
