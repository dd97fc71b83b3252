"""How good a result is: Fourier shell correlation, pose errors, image similarity."""

from dcryo.metrics.fsc import (
    CorrectedFSC,
    corrected_fsc,
    fsc_curve,
    mean_fsc,
    phase_randomise,
    resolution,
    soft_ball,
)
from dcryo.metrics.image import correlation, nrmse, psnr
from dcryo.metrics.pose import (
    Alignment,
    PoseErrors,
    align_rotations,
    geodesic_distance_modulo,
    pose_errors,
    to_asymmetric_unit,
)
from dcryo.metrics.registration import register
from dcryo.metrics.rigid import Registration

__all__ = [
    "Alignment",
    "CorrectedFSC",
    "PoseErrors",
    "Registration",
    "align_rotations",
    "corrected_fsc",
    "correlation",
    "fsc_curve",
    "geodesic_distance_modulo",
    "mean_fsc",
    "nrmse",
    "phase_randomise",
    "pose_errors",
    "psnr",
    "register",
    "resolution",
    "soft_ball",
    "to_asymmetric_unit",
]
