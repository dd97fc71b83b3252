"""The tables that go with a particle stack: optics groups, and one row of numbers per particle.

Columns, never one object per particle; images stay in the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Optics:
    """One optics group.  Lengths in Å, angles in rad, voltage in kV.

    ``odd_zernike`` and ``even_zernike`` are RELION's coefficients (rad) in RELION's order;
    ``magnification`` is RELION's 2x2 matrix, which takes a frequency of the recorded image to the
    frequency of the undistorted one.  ``ctf`` False means that the images carry no CTF at all.
    ``noise`` is the noise spectrum (pixel variance per Fourier shell 0..n//2), or None if unknown.
    """

    voltage: float = 300.0
    cs: float = 2.7e7
    amplitude_contrast: float = 0.1
    pixel_size: float = 1.0
    name: str = "opticsGroup1"
    beam_tilt: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    ctf: bool = True
    phase_flipped: bool = False
    premultiplied: bool = False
    noise: tuple[float, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.pixel_size > 0:
            raise InputError(f"optics group {self.name}: pixel size {self.pixel_size} Å must be positive")
        if self.ctf and not 10 <= self.voltage <= 3000:
            raise InputError(f"optics group {self.name}: voltage {self.voltage} is not in kV (10 to 3000)")
        if self.ctf and not 0 <= self.cs < 1e9:
            raise InputError(f"optics group {self.name}: Cs {self.cs} Å is out of range (0 to 100 mm)")
        if self.ctf and not 0 <= self.amplitude_contrast <= 1:
            raise InputError(
                f"optics group {self.name}: amplitude contrast {self.amplitude_contrast} is not in [0, 1]"
            )


@dataclass(frozen=True)
class Particles:
    """Columns of a particle set; every array has one row per particle.  A missing pose is NaN.

    rotation (P, 4) quaternion x, y, z, w of A; shift (P, 2) x, y in Å; defocus (P, 3) u, v in Å and
    the angle of u in rad; phase_shift rad; bfactor Å^2; scale; optics_group index into ``optics``;
    half 0 (none), 1 or 2; micrograph index into ``micrographs`` or -1; source (P, 2): index into
    ``sources`` (the file an image came from, -1 unknown) and its 0-based row in that file; row (P,) the
    0-based row of the table it was read from (stores are sorted by half set, ``row`` gives the user's order
    back).
    """

    rotation: FloatArray
    shift: FloatArray
    defocus: FloatArray
    phase_shift: FloatArray
    bfactor: FloatArray
    scale: FloatArray
    optics_group: IntArray
    half: IntArray
    micrograph: IntArray
    source: IntArray
    row: IntArray
    optics: tuple[Optics, ...] = (Optics(),)
    micrographs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rotation)

    def take(self, index: slice | IntArray | NDArray[np.bool_]) -> Particles:
        """The rows ``index`` (slice, integer or boolean array), tables shared."""
        rows = {name: getattr(self, name)[index] for name in COLUMNS}
        return replace(self, **rows)

    @classmethod
    def empty_columns(cls, count: int, **given: Any) -> Particles:
        """``count`` rows of neutral values (no pose, no defocus, half 0), overridden by ``given``."""
        columns: dict[str, Any] = {
            "rotation": np.full((count, 4), np.nan),
            "shift": np.zeros((count, 2)),
            "defocus": np.zeros((count, 3)),
            "phase_shift": np.zeros(count),
            "bfactor": np.zeros(count),
            "scale": np.ones(count),
            "optics_group": np.zeros(count, np.int32),
            "half": np.zeros(count, np.int8),
            "micrograph": np.full(count, -1, np.int32),
            "source": np.full((count, 2), -1, np.int64),
            "row": np.arange(count, dtype=np.int64),
        }
        return cls(**(columns | given))


COLUMNS: tuple[str, ...] = tuple(
    f.name for f in fields(Particles) if f.name not in ("optics", "micrographs", "sources")
)
