"""Solvent: a random field of the band and strength asked for, everywhere but inside the particle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.imaging.phantom import Cloud, gaussian_cloud, project_gaussians
from dcryo.imaging.solvent import Solvent, envelope

EYE = np.eye(3)[None]


def shells(image: np.ndarray) -> np.ndarray:
    n = image.shape[-1]
    power = np.mean(np.abs(np.fft.fft2(image)) ** 2, axis=0)
    q = np.fft.fftfreq(n) * n
    radius = np.rint(np.hypot(q[:, None], q)).astype(int)
    return np.bincount(radius.ravel(), power.ravel()) / np.bincount(radius.ravel())


def test_envelope_is_one_around_the_points_and_zero_far_away() -> None:
    cloud = Cloud(np.array([[3.0, -2.0, 1.0]]), np.ones(1), np.ones(1))
    mask = envelope(cloud, 20, margin=2.0, edge=2.0)
    z, y, x = np.meshgrid(*[np.arange(20) - 10] * 3, indexing="ij")
    distance = np.sqrt((x - 3) ** 2 + (y + 2) ** 2 + (z - 1) ** 2)
    assert (mask[distance <= 2] == 1).all()
    assert (mask[distance >= 4] == 0).all()
    np.testing.assert_allclose(mask[distance == 3], 0.5, atol=1e-6)


@pytest.mark.parametrize(("n", "band"), [(32, 0.5), (33, 0.4), (24, 1.0)])
def test_free_solvent_has_its_variance_and_its_band(n: int, band: float) -> None:
    std, baseline, count = 2.0, 5.0, 400
    solvent = Solvent(np.zeros((n, n, n), np.float32), std, baseline, band)
    images = solvent.project(np.repeat(EYE, count, axis=0), np.random.default_rng(0)).astype(np.float64)
    assert images.mean() == pytest.approx(baseline * n, rel=0.02)
    power = shells(images - images.mean())
    assert power[int(np.ceil(band * n / 2)) + 1 :].max() < 1e-8 * power[1]
    # A slice has the power of the field, |F|^2 = std^2 n^3 n^3 gain^2 / (sum of gain^2 over the 3-D lattice);
    # here the integral instead of the sum.
    limit = band * n / 2
    radius = np.linspace(0, limit, 2001)
    gain = 0.5 * (1 + np.cos(np.pi * np.clip((radius / limit - 0.8) / 0.2, 0, 1)))
    lattice = np.sum(4 * np.pi * radius**2 * gain**2) * (radius[1] - radius[0])
    expected = std**2 * n**3 / lattice * n**3
    # 400 images of 4 or more values, half of them independent: 5 sigma = 18 %.
    np.testing.assert_allclose(power[1 : int(0.7 * limit)], expected, rtol=0.2)


def test_no_solvent_inside_the_particle() -> None:
    n = 16
    full = Solvent(np.ones((n, n, n), np.float32), 3.0, 1.0, band=0.3)
    image = full.project(EYE, np.random.default_rng(0))[0]
    np.testing.assert_allclose(image, 0, atol=1e-5)
    half = np.zeros((n, n, n), np.float32)
    half[:, :, : n // 2] = 1
    images = Solvent(half, 3.0, band=1.0).project(np.repeat(EYE, 50, axis=0), np.random.default_rng(0))
    assert images[:, :, 1:6].std() < 1e-4 * images[:, :, 9:].std()


def test_the_envelope_turns_with_the_particle() -> None:
    n = 40
    cloud = gaussian_cloud(2, 200, 11.0, 1.2)
    solvent = Solvent(envelope(cloud, n, 1.5), 0.0, 2.0)
    matrices = Rotation.random(3, rng=np.random.default_rng(5)).as_matrix()
    missing = 2.0 * n - solvent.project(matrices, np.random.default_rng(0))
    # The path through the envelope, against the envelope's own sum for the pose that is on the grid.
    straight = solvent.project(EYE, np.random.default_rng(0))[0]
    exact = 2.0 * (1 - solvent.particle).sum(axis=0)
    # The edge of 2 voxels is sampled at 1.6 voxels.
    assert np.abs(straight - exact).max() < 0.05 * 2.0 * n
    assert np.abs(straight - exact).std() < 0.01 * 2.0 * n
    images = project_gaussians(cloud, matrices, np.zeros((3, 2)), n)
    wrong = project_gaussians(cloud, matrices.transpose(0, 2, 1), np.zeros((3, 2)), n)
    for hole, image, other in zip(missing, images, wrong, strict=True):
        good = np.corrcoef(hole.ravel(), image.ravel())[0, 1]
        assert good > 0.93
        assert good > np.corrcoef(hole.ravel(), other.ravel())[0, 1] + 0.03


def test_every_particle_has_its_own_and_seeds_repeat() -> None:
    solvent = Solvent.around(gaussian_cloud(0, 100, 6.0), 20)
    a = solvent.project(np.repeat(EYE, 2, axis=0), np.random.default_rng(1))
    b = solvent.project(np.repeat(EYE, 2, axis=0), np.random.default_rng(1))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a[0], a[1])


def test_around_scales_with_the_particle() -> None:
    cloud = gaussian_cloud(0, 100, 6.0)
    heavier = Cloud(cloud.centers, 3 * cloud.mass, cloud.width)
    light, heavy = Solvent.around(cloud, 20), Solvent.around(heavier, 20)
    assert heavy.std == pytest.approx(3 * light.std)
    assert light.baseline == pytest.approx(0.3 * cloud.mass.sum() / light.particle.sum())
    np.testing.assert_allclose(light.mean, light.baseline * (1 - light.particle), rtol=1e-6)


def test_bad_solvent_is_refused() -> None:
    with pytest.raises(InputError, match="cube"):
        Solvent(np.zeros((4, 4, 5), np.float32), 1.0)
    for std, band in ((-1.0, 0.5), (np.nan, 0.5), (1.0, 0.0), (1.0, 1.5)):
        with pytest.raises(InputError, match="band in"):
            Solvent(np.zeros((4, 4, 4), np.float32), std, 0.0, band)
