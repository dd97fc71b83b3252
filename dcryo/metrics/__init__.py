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
from dcryo.metrics.pose import Alignment, PoseErrors, align_rotations, pose_errors

__all__ = [
    "Alignment",
    "CorrectedFSC",
    "PoseErrors",
    "align_rotations",
    "corrected_fsc",
    "correlation",
    "fsc_curve",
    "mean_fsc",
    "nrmse",
    "phase_randomise",
    "pose_errors",
    "psnr",
    "resolution",
    "soft_ball",
]
