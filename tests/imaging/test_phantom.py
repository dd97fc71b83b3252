"""Projections and volume of a cloud against the sums of Gaussians they stand for, and against each other."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.imaging.phantom import Cloud, gaussian_cloud, project_fourier, project_gaussians, rasterise


def small_cloud(width: float = 1.5) -> Cloud:
    # exp(-1.5^2 pi^2 / 2) = 1.5e-5: what such points have beyond Nyquist does not show at 1e-4.
    rng = np.random.default_rng(0)
    return Cloud(rng.uniform(-2.5, 2.5, (7, 3)), rng.uniform(0.5, 2, 7), np.full(7, width))


def rotations(count: int) -> np.ndarray:
    return Rotation.random(count, rng=np.random.default_rng(1)).as_matrix()


@pytest.mark.parametrize("n", [24, 25])
def test_volume_is_the_sum_of_gaussians(n: int) -> None:
    cloud = small_cloud()
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")
    expected = np.zeros((n, n, n))
    for c, m, s in zip(cloud.centers, cloud.mass, cloud.width, strict=True):
        squared = (x - c[0]) ** 2 + (y - c[1]) ** 2 + (z - c[2]) ** 2
        expected += m * (2 * math.pi * s**2) ** -1.5 * np.exp(-squared / (2 * s**2))
    np.testing.assert_allclose(rasterise(cloud, n), expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("n", [24, 25])
def test_projection_is_the_sum_of_projected_gaussians(n: int) -> None:
    cloud = small_cloud()
    shifts = np.array([[0.0, 0.0], [1.5, -0.7], [-1.0, 2.0]])
    matrices = rotations(3)
    y, x = np.meshgrid(*[np.arange(n) - n // 2] * 2, indexing="ij")
    result = project_gaussians(cloud, matrices, shifts, n)
    assert result.shape == (3, n, n)
    assert result.dtype == np.float32
    for image, matrix, t in zip(result, matrices, shifts, strict=True):
        expected = np.zeros((n, n))
        for c, m, s in zip(cloud.centers, cloud.mass, cloud.width, strict=True):
            u, v = matrix[:2] @ c + t  # image(j) = projection(j - t)
            expected += m / (2 * math.pi * s**2) * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * s**2))
        np.testing.assert_allclose(image, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("n", [16, 17])
def test_projections_are_central_slices_of_the_volume(n: int) -> None:
    cloud = small_cloud(1.3)
    volume = rasterise(cloud, n).astype(np.float64)
    index = np.arange(n) - n // 2
    q1, q2 = 2 * np.pi * np.fft.rfftfreq(n), 2 * np.pi * np.fft.fftfreq(n)
    for matrix in rotations(2):
        w = q1[None, :, None] * matrix[0] + q2[:, None, None] * matrix[1]  # (n, n//2+1, 3)
        ex, ey, ez = (np.exp(-1j * w[..., axis, None] * index) for axis in range(3))
        expected = np.einsum("zyx,abx,aby,abz->ab", volume, ex, ey, ez, optimize=True)
        inside = np.hypot(*np.meshgrid(q1, q2)) < 0.9 * np.pi
        # Between lattice points the n^3 samples know the volume up to what it has outside the box (1e-3
        # of a point at the very edge) and beyond Nyquist (exp(-1.3^2 pi^2 / 2) = 2e-4).
        difference = (project_fourier(cloud, matrix, n)[0] - expected)[inside]
        assert np.abs(difference).max() < 3e-4 * cloud.mass.sum()


def test_kinds_have_their_form_factor() -> None:
    # Two kinds made of two terms each are the same as four plain Gaussians.
    n = 20
    forms = np.array([[[0.7, 1.0], [0.3, 1.6]], [[1.0, 0.5], [0.0, 0.0]]])
    centers = np.array([[1.0, -2.0, 0.5], [-1.5, 0.0, 1.0], [2.0, 2.0, -1.0]])
    mass, width, kind = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.2, 0.9]), np.array([0, 1, 0])
    mixed = Cloud(centers, mass, width, kind, forms)
    plain = Cloud(
        np.repeat(centers, 2, axis=0),
        np.concatenate([m * forms[k, :, 0] for m, k in zip(mass, kind, strict=True)]),
        np.concatenate([np.hypot(s, forms[k, :, 1]) for s, k in zip(width, kind, strict=True)]),
    )
    # float32 sums
    np.testing.assert_allclose(rasterise(mixed, n), rasterise(plain, n), atol=1e-6)
    matrices = rotations(2)
    shift = np.zeros((2, 2))
    np.testing.assert_allclose(
        project_gaussians(mixed, matrices, shift, n), project_gaussians(plain, matrices, shift, n), atol=1e-6
    )


def test_agrees_with_the_shared_phantom(shared_data: Path) -> None:
    path = shared_data.parent / "phantom" / "make_data.py"
    if not path.is_file():
        pytest.skip("the shared phantom (../shared/phantom/make_data.py) is not here")
    spec = importlib.util.spec_from_file_location("make_data", path)
    assert spec is not None
    assert spec.loader is not None
    make_data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_data)
    n, sigma = 32, 0.8
    rng = np.random.default_rng(0)
    points, weights = rng.uniform(-5, 5, (40, 3)), rng.uniform(0.5, 1.5, 40)
    cloud = Cloud(points, weights * (2 * math.pi * sigma**2) ** 1.5, np.full(40, sigma))
    matrices = make_data.euler_to_matrix(
        np.array([30.0, -70.0]), np.array([50.0, 110.0]), np.array([80.0, 5.0])
    )
    origin = np.array([[1.3, -2.1], [0.0, 0.4]])
    result = project_gaussians(cloud, matrices, -origin, n)
    keep = np.ones((n, n), dtype=bool)
    keep[n // 2] = keep[:, n // 2] = False  # the shared phantom keeps the line at -n/2, we do not
    for image, matrix, o in zip(result, matrices, origin, strict=True):
        expected = make_data.project(points, weights, sigma, matrix, o, n, 3)
        transform = np.fft.fft2(np.fft.ifftshift(image))
        # Its 3-fold supersampling is exact to 1e-10; float32 in both is what is left.
        assert np.abs(transform - expected)[keep].max() < 1e-5 * np.abs(expected).max()
    volume = np.fft.fftn(np.fft.ifftshift(rasterise(cloud, n)))
    expected = np.fft.fftn(np.fft.ifftshift(make_data.truth_volume(points, weights, sigma, n, 3)))
    keep = np.ones((n, n, n), dtype=bool)
    keep[n // 2] = keep[:, n // 2] = keep[:, :, n // 2] = False
    assert np.abs(volume - expected)[keep].max() < 1e-5 * np.abs(expected).max()


def test_cloud_is_compact_asymmetric_and_reproducible() -> None:
    cloud = gaussian_cloud(3, 400, 12.0)
    assert len(cloud) == 400
    radius = np.linalg.norm(cloud.centers, axis=1)
    assert radius.max() == pytest.approx(12.0)
    np.testing.assert_allclose(cloud.centers.mean(axis=0), 0, atol=1e-12)
    # Nearest neighbours keep apart: the closest pair is not far below the typical spacing.
    squared = ((cloud.centers[:, None] - cloud.centers) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    nearest = np.sqrt(squared.min(axis=1))
    assert nearest.min() > 0.5 * np.median(nearest)
    # No two principal axes alike.
    axes = np.linalg.eigvalsh(np.cov(cloud.centers.T))
    assert (axes[1:] / axes[:-1]).min() > 1.03
    np.testing.assert_array_equal(cloud.centers, gaussian_cloud(3, 400, 12.0).centers)
    assert not np.array_equal(cloud.centers, gaussian_cloud(4, 400, 12.0).centers)


def test_impossible_phantoms_are_refused() -> None:
    with pytest.raises(InputError, match="must be positive"):
        gaussian_cloud(0, 0, 5.0)
    with pytest.raises(InputError, match="must be positive"):
        gaussian_cloud(0, 10, -1.0)
