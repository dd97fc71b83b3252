"""The yardsticks of the benchmark, against mathematics that they do not use."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import scipy.fft

from dcryo.bench import truth
from dcryo.bench.timed_views import PIXEL_SIZE, Problem, make_problem

WIDTH = 1.5


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(32, 6, seed=3, width=WIDTH)


def real_space(problem: Problem) -> np.ndarray:
    """Projections of Gaussians as sums of two-dimensional Gaussians on the pixels."""
    n = problem.box
    y, x = np.indices((n, n)) - n // 2
    out = np.zeros((len(problem), n, n))
    for p, image in enumerate(out):
        shift = problem.particles.shift[p] / PIXEL_SIZE
        for centre, mass, s in zip(
            *(getattr(problem.cloud, f) for f in ("centers", "mass", "width")), strict=True
        ):
            u, v = problem.views.rotation[p, :2] @ centre + shift
            image += mass / (2 * math.pi * s**2) * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * s**2))
    return out


def test_analytic_projections_are_those_of_the_gaussians(problem: Problem) -> None:
    plain = problem.without_ctf()
    images = real_space(plain)
    # a Gaussian of 1.5 voxels falls to exp(-(1.5 pi)^2 / 2) = 1.5e-5 at Nyquist; their sum falls more slowly,
    # by interference at most by the root of their number, 20
    assert truth.projection_error(plain, images) < 20 * 1.5e-5
    assert truth.projection_error(plain, 1.02 * images) == pytest.approx(0.02, rel=1e-2)
    assert truth.projection_error(plain, np.roll(images, 1, axis=2)) > 0.1


def test_projections_through_the_ctf_are_those_of_the_dense_matrix() -> None:
    small = make_problem(12, 3, seed=1, width=WIDTH)
    images = oracle.projected(small.particles, 12, pixel_size=PIXEL_SIZE, detector=1).apply(small.volume)
    # 0.32 boxes and four widths of 1.5 do not fit a box of 12: what is cut off
    error = truth.projection_error(small, images)
    assert error < 0.05
    assert truth.projection_error(small, -images) == pytest.approx(2, abs=0.05)
    assert truth.projection_error(small.without_ctf(), images) > 0.5


def test_backprojection_is_that_of_the_dense_matrix() -> None:
    small = make_problem(12, 3, seed=1)
    dense = oracle.projected(small.particles, 12, pixel_size=PIXEL_SIZE, detector=1)
    volume = dense.rhs(small.images)
    assert truth.backprojection_error(small, small.images, volume) < 1e-10  # both are float64 sums
    assert truth.backprojection_error(small, small.images, 1.02 * volume) == pytest.approx(0.02)
    assert truth.backprojection_error(small, small.images[::-1], volume) > 0.1


def test_lattice_kernel_is_the_sum_of_waves() -> None:
    small = make_problem(8, 2, seed=2)
    n = 8
    k = np.arange(-n, n)
    total = np.zeros((2 * n,) * 3)
    for matrix in small.views.rotation:
        for b in range(-n // 2, n // 2):
            for a in range(-n // 2, n // 2):
                if a * a + b * b < (n / 2) ** 2:
                    w = 2 * math.pi / n * (a * matrix[0] + b * matrix[1])
                    total += np.cos(w[2] * k[:, None, None] + w[1] * k[:, None] + w[0] * k)
    assert truth.lattice_kernel_error(small, total) < 1e-10
    assert truth.lattice_kernel_error(small, 1.02 * total) == pytest.approx(0.02)


def test_our_kernel_is_right_and_another_is_not(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    # 6e-5 is the largest error of the window (tests/operators/test_window.py); smooth objects do better
    assert truth.kernel_error(problem) < 1e-4
    spectrum = Problem.spectrum
    monkeypatch.setattr(Problem, "spectrum", lambda self: spectrum(self.first(len(self) - 1)))
    assert truth.kernel_error(problem) > 1e-2


def test_convolution_is_the_sum_over_lags() -> None:
    n, length = 3, 6
    rng = np.random.default_rng(0)
    volume = rng.standard_normal((n, n, n)).astype(np.float32)
    spectrum = np.abs(scipy.fft.rfftn(rng.standard_normal((length,) * 3))).astype(np.float32)
    kernel = scipy.fft.irfftn(spectrum.astype(np.float64), s=(length,) * 3)
    out = (oracle.toeplitz(kernel, n) @ volume.reshape(-1)).reshape(n, n, n)
    assert truth.convolution_error(spectrum, volume, out) < 1e-12
    assert truth.convolution_error(spectrum, volume, 1.02 * out) == pytest.approx(0.02)


def test_a_map_that_is_another_one_is_seen() -> None:
    n = 24
    rng = np.random.default_rng(0)
    object_ = oracle.blob(n, 3.0) + 0.05 * oracle.noise((n, n, n), 1)
    same = truth.map_errors(3 * object_ + 1, object_)
    assert same["correlation"] == pytest.approx(1)
    negated = truth.map_errors(-object_, object_)
    assert negated["correlation"] == pytest.approx(-1)
    assert negated["mean_fsc"] == pytest.approx(1)
    other = truth.map_errors(rng.permutation(object_.ravel()).reshape(object_.shape), object_)
    assert abs(other["correlation"]) < 0.1
    assert other["mean_fsc"] < 0.3
