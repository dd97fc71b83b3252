"""The cycle-spun Haar frame against its functions written out, and against PyWavelets' own shifts."""

from __future__ import annotations

import numpy as np
import oracle
import penalties
import pytest
import pywt

from dcryo.operators.wavelet import RADIUS, SHIFTS, Haar

SHAPES = [(8, 8, 8), (6, 6, 6), (5, 9, 17)]


def transpose(y: np.ndarray, shape: tuple[int, ...], threads: int = 1) -> np.ndarray:
    """Lᵀy by the primal sweep."""
    out = np.empty(shape, np.float32)
    Haar(threads).primal_sweep(np.zeros(shape, np.float32), y, out, -1.0, False)
    return out


def coefficients(x: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """L x of the details by a dual step too short to reach the ball."""
    dual = Haar(1).dual(x)
    ahead = np.zeros_like(dual)
    Haar(1).dual_sweep(x, ahead, dual, step, 0.0)
    return dual.astype(np.float64) / step


def test_shifts_are_those_of_the_definition() -> None:
    assert SHIFTS == tuple(penalties.SHIFTS)
    assert all(sorted(shift[axis] for shift in SHIFTS) == list(range(8)) for axis in range(3))
    assert len({tuple(s % 2 for s in shift) for shift in SHIFTS}) == 8
    assert len(SHIFTS) * RADIUS**2 == pytest.approx(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_is_the_mean_over_shifts(shape: tuple[int, ...]) -> None:
    x = oracle.noise(shape, 1)
    assert Haar(1).value(x) == pytest.approx(penalties.value("haar", x), rel=1e-6)
    # a constant has edges only where it was padded
    assert Haar(1).value(np.full((8, 16, 8), 3.0, np.float32)) == pytest.approx(0, abs=1e-3)


def test_value_in_the_words_of_the_library() -> None:
    """Every shift a transform by PyWavelets, level by level: the l1 norms of its details."""
    x = oracle.noise((16, 8, 24), 2).astype(np.float64)
    total = 0.0
    for shift in penalties.SHIFTS:
        part = np.roll(x, shift, (0, 1, 2))
        for _ in range(3):
            bands = pywt.dwtn(part, "haar", mode="periodization")
            part = bands.pop("aaa")
            total += sum(np.abs(band).sum() for band in bands.values())
    assert Haar(1).value(x.astype(np.float32)) == pytest.approx(total / 8, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_frame_is_tight(shape: tuple[int, ...]) -> None:
    """LᵀL = 1: details by the dual sweep; what is missing of the energy are the coarsest averages."""
    x = oracle.noise(shape, 3)
    expected = penalties.details(shape) @ x.ravel().astype(np.float64) * RADIUS * 8
    found = coefficients(x)
    # the same numbers, in whatever order and with whatever signs
    np.testing.assert_allclose(
        np.sort(np.abs(found[found != 0])), np.sort(np.abs(expected))[-np.count_nonzero(found) :], atol=1e-5
    )
    padded = [-(-n // 8) * 8 for n in shape]
    index = tuple(slice(n // 8) for n in padded)
    whole = found.copy()
    for s, shift in enumerate(SHIFTS):
        box = np.zeros(padded)
        box[tuple(slice(n) for n in shape)] = x
        blocks = np.roll(box, shift, (0, 1, 2)).reshape([side for n in padded for side in (n // 8, 8)])
        whole[s][index] = RADIUS * blocks.sum(axis=(1, 3, 5)) / 8**1.5
    assert np.sum(whole**2) == pytest.approx(np.sum(x.astype(np.float64) ** 2), rel=1e-5)
    np.testing.assert_allclose(transpose(whole.astype(np.float32), shape), x, atol=1e-5)
    np.testing.assert_array_equal(
        Haar.norm2 * np.ones((*shape[:2], shape[2] // 2 + 1)), Haar().eigenvalues(shape)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_sweeps_are_adjoint(shape: tuple[int, ...]) -> None:
    x = oracle.noise(shape, 4)
    y = oracle.noise(Haar().dual(x).shape, 5)
    y[:, : -(-shape[0] // 8), : -(-shape[1] // 8), : -(-shape[2] // 8)] = 0  # the dual of an average is 0
    left = np.sum(coefficients(x) * y)
    right = np.sum(x * transpose(y, shape).astype(np.float64))
    assert abs(left - right) < 1e-5 * np.linalg.norm(x) * np.linalg.norm(y)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_primal_sweep_subtracts(nonnegative: bool) -> None:
    z = oracle.noise((6, 7, 5), 6)
    y = oracle.noise(Haar().dual(z).shape, 7)
    out = np.empty_like(z)
    Haar(1).primal_sweep(z, y, out, 0.7, nonnegative)
    expected = z - 0.7 * transpose(y, z.shape).astype(np.float64)
    np.testing.assert_allclose(out, np.maximum(expected, 0) if nonnegative else expected, atol=2e-6)


def test_dual_sweep_projects_and_extrapolates() -> None:
    x = oracle.noise((8, 8, 16), 8)
    shape = Haar().dual(x).shape
    ahead, dual = 0.3 * oracle.noise(shape, 9), 0.3 * oracle.noise(shape, 10)
    point = ahead + 0.4 * coefficients(x)
    new = np.clip(point, -RADIUS, RADIUS)
    new[:, :1, :1, :2] = 0  # the averages are not penalised
    expected_ahead = new + 0.6 * (new - dual)
    Haar(1).dual_sweep(x, ahead, dual, 0.4, 0.6)
    assert np.any(np.abs(point) > RADIUS)
    np.testing.assert_allclose(dual, new, atol=2e-6)
    np.testing.assert_allclose(ahead, expected_ahead, atol=5e-6)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    x = oracle.noise((9, 8, 7), 11)
    given = 0.3 * oracle.noise(Haar().dual(x).shape, 12)
    results = []
    for count in (1, threads):
        frame = Haar(count)
        out, ahead, dual = np.empty_like(x), given.copy(), given[::-1].copy()
        frame.primal_sweep(x, given, out, 0.4, True)
        frame.dual_sweep(x, ahead, dual, 0.4, 0.3)
        results.append((out, ahead, dual, frame.value(x)))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)
