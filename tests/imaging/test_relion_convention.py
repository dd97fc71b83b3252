"""The conventions page, pinned by images that RELION projected from a map.

The projector here is the definition, written out in float64 and slow: the discrete Fourier transform of the
map, summed term by term at the frequencies of each central slice.  Angles, shifts and centres go through the
package's own functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from dcryo.geometry.rotations import euler_to_matrix
from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import images

MAP_BOX = 65
"""The 64-pixel images were made from this map resampled to 64 voxels of the same total width."""

# RELION centres an odd box one pixel further than n // 2, on both axes, whatever the pose.
EXTRA = {64: np.zeros(2), 65: np.ones(2)}


@dataclass
class Case:
    """What a STAR file and its stack say; origins in pixels."""

    recorded: np.ndarray
    rotation: np.ndarray
    origin: np.ndarray

    @property
    def n(self) -> int:
        return self.recorded.shape[-1]


def read_map(path: Path) -> np.ndarray:
    with mrcfile.open(path, permissive=True) as handle:
        return np.array(handle.data, dtype=np.float64)


def read_case(folder: Path, name: str) -> Case:
    table = starfile.read(folder / f"{name}.star", always_dict=True)["particles"]
    recorded = read_map(folder / f"{name}.mrcs")
    assert [int(entry.split("@")[0]) for entry in table["rlnImageName"]] == list(range(1, len(recorded) + 1))
    angles = [np.deg2rad(table[f"rlnAngle{part}"].to_numpy(np.float64)) for part in ("Rot", "Tilt", "Psi")]
    columns = (
        ["rlnOriginX", "rlnOriginY"] if "rlnOriginX" in table else ["rlnOriginXAngst", "rlnOriginYAngst"]
    )
    return Case(recorded, euler_to_matrix(*angles), table[columns].to_numpy(np.float64))


def central_slice(volume: np.ndarray, matrix: np.ndarray, n: int) -> np.ndarray:
    """F(e1 w1 + e2 w2) on the rfft2 lattice of n pixels as wide as the map, below Nyquist of both."""
    size = len(volume)
    index = np.arange(size) - (size) // 2
    q1, q2 = np.fft.rfftfreq(n) * n, np.fft.fftfreq(n)[:, None] * n  # cycles per box, the same width for both
    inside = np.hypot(q1, q2) < n / 2
    w = 2 * np.pi / size * (q1[None, :, None] * matrix[0] + q2[..., None] * matrix[1])[inside]
    ex, ey, ez = (np.exp(-1j * np.outer(w[:, axis], index)) for axis in range(3))
    out = np.zeros(inside.shape, complex)
    out[inside] = sum(
        wave * ((ey @ plane) * ex).sum(axis=1) for plane, wave in zip(volume, ez.T, strict=True)
    )
    return out


def shifted_image(transform: np.ndarray, shift: np.ndarray, n: int) -> np.ndarray:
    """image(j) = projection(j - shift), through the transfer function of a microscope without CTF."""
    particle = Particles.empty_columns(1, shift=shift[None], optics=(Optics(ctf=False, pixel_size=1.0),))
    return images(transform[None] * ctf_image(particle, 1.0, n), n)[0]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "particles" / "relion_projected"


@pytest.fixture(scope="module")
def volume(shared_data: Path) -> np.ndarray:
    return read_map(shared_data / "maps" / "clean70SRibosome_vol_65p.mrc")


@pytest.mark.parametrize("n", [64, 65])
@pytest.mark.parametrize("kind", ["_centered", "_shifted"])
def test_projections_by_relion(folder: Path, volume: np.ndarray, kind: str, n: int) -> None:
    case = read_case(folder, f"rln_proj_{n}{kind}")
    assert case.n == n
    assert np.any(case.origin != 0) == (kind == "_shifted")
    for recorded, matrix, origin in zip(case.recorded, case.rotation, case.origin, strict=True):
        transform = central_slice(volume, matrix, n)
        # RELION interpolates linearly in a padded transform: that is what keeps it from 1.
        assert correlation(shifted_image(transform, EXTRA[n] - origin, n), recorded) >= 0.999
        if kind == "_shifted":
            assert correlation(shifted_image(transform, EXTRA[n] + origin, n), recorded) < 0.2


@pytest.mark.parametrize("n", [64, 65])
def test_projections_of_an_off_centre_map(folder: Path, volume: np.ndarray, n: int) -> None:
    # For these 64-pixel images the map was resampled from its corner: its centre 32.5 x 64 / 65 = 32 came to
    # lie half an old voxel off in x, y and z, so every image is displaced by M x0 (pseudo-shift).
    case = read_case(folder, f"rln_proj_{n}")
    offset = np.full(3, -0.5 * n / MAP_BOX) if n == 64 else np.zeros(3)
    for recorded, matrix in zip(case.recorded, case.rotation, strict=True):
        shift = EXTRA[n] + matrix[:2] @ offset
        assert correlation(shifted_image(central_slice(volume, matrix, n), shift, n), recorded) >= 0.999


def test_other_conventions_are_told_apart(folder: Path, volume: np.ndarray) -> None:
    n = 64
    case = read_case(folder, "rln_proj_64_centered")
    recorded, matrix = case.recorded[0], case.rotation[0]
    mirror = np.diag([1.0, 1.0, -1.0])
    wrong = {
        "transposed matrix": (volume, matrix.T),
        "axes x and z exchanged": (volume.transpose(2, 1, 0), matrix),
        "other hand": (volume[::-1, ::-1, ::-1], matrix),
        "beam from the other side": (volume, mirror @ matrix @ mirror),
    }
    for name, (other, pose) in wrong.items():
        assert correlation(shifted_image(central_slice(other, pose, n), np.zeros(2), n), recorded) < 0.98, (
            name
        )
    for shift in ((1.0, 0.0), (0.0, -1.0), (0.5, 0.5)):  # another centre
        transform = central_slice(volume, matrix, n)
        assert correlation(shifted_image(transform, np.array(shift), n), recorded) < 0.99
