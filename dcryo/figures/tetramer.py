"""A phantom of the size, the symmetry and about the shape of beta-galactosidase."""

from __future__ import annotations

import numpy as np

from dcryo.geometry.symmetry import point_group
from dcryo.imaging.phantom import Cloud, gaussian_cloud
from dcryo.methods.specimen import CloudSpecimen

FIELD = 256.0
"""Width of the box in Å: the tetramer is 160 Å long in it."""


def tetramer(box: int, points: int) -> CloudSpecimen:
    """Four protomers of ``points`` Gaussians each about D2 axes, in a box of ``box`` voxels."""
    protomer = gaussian_cloud(seed=1, count=points, radius=0.18 * box, width=1.0)
    placed = protomer.centers + np.array([0.13, 0.08, 0.05]) * box
    group = np.asarray(point_group("D2"))
    centers = np.einsum("gij,pj->gpi", group, placed).reshape(-1, 3)
    copies = len(group)
    cloud = Cloud(centers, np.tile(protomer.mass, copies), np.tile(protomer.width, copies))
    return CloudSpecimen(cloud, box, FIELD / box)
