"""Total variation and the sweeps of its prox against numpy's rolls."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from dcryo.operators.gradient import NORM2, Gradient, dual_sweep, primal_sweep, total_variation

SHAPES = [(5, 5, 5), (6, 6, 6), (17, 4, 3), (2, 3, 32), (3, 2, 37)]  # several slabs; rows of several vectors


def gradient(x: np.ndarray) -> np.ndarray:
    """Periodic forward differences along z, y, x."""
    return np.stack([np.roll(x, -1, axis) - x for axis in range(3)]).astype(np.float64)


def transpose(p: np.ndarray) -> np.ndarray:
    """Adjoint of :func:`gradient`."""
    return np.sum([np.roll(p[axis], 1, axis) - p[axis] for axis in range(3)], axis=0)


def length(p: np.ndarray, isotropic: bool) -> np.ndarray:
    """Of every voxel's vector: Euclidean, or the sum of the moduli."""
    return np.sqrt((p**2).sum(axis=0)) if isotropic else np.abs(p).sum(axis=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isotropic", [True, False])
def test_total_variation(shape: tuple[int, ...], isotropic: bool) -> None:
    x = oracle.noise(shape, 1)
    expected = length(gradient(x.astype(np.float64)), isotropic).sum()
    # each row is summed in float32
    assert total_variation(x, 1, isotropic) == pytest.approx(float(expected), rel=1e-6)
    assert Gradient(isotropic, 1).value(x) == total_variation(x, 1, isotropic)
    assert total_variation(np.full(shape, 3.0, np.float32), 1, isotropic) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nonnegative", [False, True])
def test_primal_sweep(shape: tuple[int, ...], nonnegative: bool) -> None:
    z, dual = oracle.noise(shape, 2), oracle.noise((3, *shape), 3)
    out = np.empty_like(z)
    primal_sweep(z, dual, out, 0.7, nonnegative, 1)
    expected = z - 0.7 * transpose(dual.astype(np.float64))
    if nonnegative:
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(out, expected, atol=3e-6)  # a dozen float32 operations on numbers of up to 10


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isotropic", [True, False])
def test_dual_sweep(shape: tuple[int, ...], isotropic: bool) -> None:
    x, ahead, dual = oracle.noise(shape, 4), oracle.noise((3, *shape), 5), oracle.noise((3, *shape), 6)
    point = ahead + 0.3 * gradient(x.astype(np.float64))
    new = point / np.maximum(1, length(point, True)) if isotropic else np.clip(point, -1, 1)
    expected_ahead = new + 0.6 * (new - dual)
    dual_sweep(x, ahead, dual, 0.3, 0.6, 1, isotropic)
    np.testing.assert_allclose(dual, new, atol=2e-6)
    np.testing.assert_allclose(ahead, expected_ahead, atol=5e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_and_its_transpose_are_adjoint(shape: tuple[int, ...]) -> None:
    """A short dual step from 0 is the gradient itself; the primal sweep of 0 is minus its transpose."""
    x, y = oracle.noise(shape, 7), oracle.noise((3, *shape), 8)
    ahead = np.zeros((3, *shape), np.float32)
    dual = np.zeros_like(ahead)
    dual_sweep(x, ahead, dual, 2.0**-6, 0.0, 1)
    back = np.empty_like(x)
    primal_sweep(np.zeros_like(x), y, back, -1.0, False, 1)
    left = 64 * np.sum(dual.astype(np.float64) * y)
    right = np.sum(back.astype(np.float64) * x)
    assert abs(left - right) < 1e-6 * np.linalg.norm(x) * np.linalg.norm(y)


def test_norm_is_the_largest_eigenvalue() -> None:
    """On an even box the checkerboard reaches it."""
    z, y, x = np.indices((6, 6, 6))
    board = (-1.0) ** (x + y + z)
    np.testing.assert_allclose(transpose(gradient(board)), NORM2 * board)
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((5, 5, 5))
        assert np.sum(gradient(x) ** 2) <= NORM2 * np.sum(x**2)


@pytest.mark.parametrize("shape", SHAPES)
def test_eigenvalues_are_those_of_the_laplacian(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal(shape)
    expected = transpose(gradient(x))
    found = np.fft.irfftn(np.fft.rfftn(x) * Gradient().eigenvalues(shape), s=shape, axes=(0, 1, 2))
    np.testing.assert_allclose(found, expected, atol=1e-5)  # eigenvalues of up to 12 in float32


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("isotropic", [True, False])
def test_threads_do_not_change_a_bit(threads: int, isotropic: bool) -> None:
    shape = (19, 7, 5)
    z, given = oracle.noise(shape, 9), oracle.noise((3, *shape), 10)
    results = []
    for count in (1, threads):
        out, ahead, dual = np.empty_like(z), given.copy(), given[::-1].copy()
        operator = Gradient(isotropic, count)
        operator.primal_sweep(z, given, out, 0.4, True)
        operator.dual_sweep(z, ahead, dual, 0.4, 0.3)
        results.append((out, ahead, dual, operator.value(z)))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)
