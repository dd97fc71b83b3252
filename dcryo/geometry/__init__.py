"""Rotations, grids on SO(3) and point groups: pure numpy, nothing of microscopes."""

from dcryo.geometry.rotations import (
    euler_to_matrix,
    geodesic_distance,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
    random_rotations,
    rotation_vector_to_matrix,
)
from dcryo.geometry.so3 import so3_grid
from dcryo.geometry.symmetry import point_group

__all__ = [
    "euler_to_matrix",
    "geodesic_distance",
    "matrix_to_euler",
    "matrix_to_quaternion",
    "point_group",
    "quaternion_to_matrix",
    "random_rotations",
    "rotation_vector_to_matrix",
    "so3_grid",
]
