"""The phantom of Figure 4.1: its symmetry, and that it fits."""

from __future__ import annotations

import numpy as np

from dcryo.figures.tetramer import tetramer
from dcryo.geometry.symmetry import point_group
from dcryo.methods.specimen import FILL


def test_the_tetramer_is_symmetric_and_fits() -> None:
    specimen = tetramer(32, 100)
    centers = specimen.cloud.centers
    assert len(centers) == 400
    order = np.lexsort(np.round(centers, 6).T)
    for operation in point_group("D2"):
        turned = centers @ operation.T
        np.testing.assert_allclose(turned[np.lexsort(np.round(turned, 6).T)], centers[order], atol=1e-9)
    assert np.linalg.norm(centers, axis=1).max() < FILL * 32
