"""FSC against a direct sum over all frequencies, exact cases, and the reference program."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.metrics import corrected_fsc, fsc_curve, mean_fsc, phase_randomise, resolution, soft_ball

BOXES = [7, 8, 9, 12]

ROUNDING = 1e-12
"""float64 transforms of a few thousand samples, with shells of a few voxels."""


@pytest.fixture(scope="module")
def reference(shared_phantom: Path) -> ModuleType:
    """The reference FSC program, kept beside the checkout."""
    spec = importlib.util.spec_from_file_location("reference_fsc", shared_phantom / "fsc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n, n))


def particle(n: int, seed: int = 0) -> np.ndarray:
    """Gaussians of 1.5 voxels inside a ball of 0.2 n: an asymmetric object whose spectrum falls off."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 0.1 * n, (40, 3))
    centres = centres[np.linalg.norm(centres, axis=1) < 0.2 * n]
    x = np.arange(n) - n // 2
    factors = np.exp(-((x - centres[..., None]) ** 2) / (2 * 1.5**2))
    return np.einsum("pi,pj,pk->ijk", *np.moveaxis(factors, 1, 0))


def radii(n: int) -> np.ndarray:
    """|q| of every voxel of the full transform, in cycles per box."""
    q = np.fft.fftfreq(n) * n
    return np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q**2)


@pytest.mark.parametrize("n", BOXES)
def test_curve_is_the_sum_over_the_full_transform(n: int) -> None:
    a, b = noise(n, 0), noise(n, 1) + 0.5 * noise(n, 0)
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    shell = np.rint(radii(n))
    expected = []
    for k in range(n // 2 + 1):
        x, y = fa[shell == k], fb[shell == k]
        expected.append(np.vdot(y, x).real / (np.linalg.norm(x) * np.linalg.norm(y)))
    np.testing.assert_allclose(fsc_curve(a, b), expected, atol=ROUNDING)


@pytest.mark.parametrize("n", [16, 17])
def test_curve_and_crossings_are_the_reference_programs(reference: ModuleType, n: int) -> None:
    a = particle(n) + 0.05 * noise(n, 1)
    b = particle(n) + 0.05 * noise(n, 2)
    ball = soft_ball(n, 0.3 * n, 5)
    # The mask is stored as float32, with relative steps of 6e-8.
    np.testing.assert_allclose(ball, reference.soft_ball(n, 0.3 * n), atol=6e-8)
    for x, y in ((a, b), (a * ball, b * ball)):
        curve = fsc_curve(x, y)
        np.testing.assert_allclose(curve, reference.fsc_curve(x, y), atol=ROUNDING)
        for threshold in (0.143, 0.5, 0.9):
            expected = reference.crossing(curve, threshold, n, 1.7)
            assert resolution(curve, threshold, n, 1.7) == pytest.approx(expected, rel=1e-12)


def test_float32_maps_give_the_same_curve_and_are_left_alone() -> None:
    a, b = noise(16, 3).astype(np.float32), noise(16, 4).astype(np.float32)
    kept = a.copy()
    np.testing.assert_array_equal(fsc_curve(a, b), fsc_curve(a.astype(np.float64), b.astype(np.float64)))
    np.testing.assert_array_equal(a, kept)


def test_curve_of_equal_opposite_scaled_and_empty_maps() -> None:
    a = noise(10, 5)
    np.testing.assert_allclose(fsc_curve(a, 3 * a), 1, atol=ROUNDING)
    np.testing.assert_allclose(fsc_curve(1e-30 * a, -1e20 * a), -1, atol=ROUNDING)
    np.testing.assert_array_equal(fsc_curve(a, np.zeros_like(a)), 0)


def test_curve_of_signal_and_independent_noise_is_one_over_root_two() -> None:
    n = 32
    a = noise(n, 6)
    curve = fsc_curve(a, a + noise(n, 7))
    # E FSC = 1/sqrt(2); each of the 4 pi k^2 voxels of a shell holds half a complex number, so the standard
    # deviation is below 1/sqrt(2 pi k^2).
    k = np.arange(3, n // 2 + 1)
    assert np.all(np.abs(curve[3:] - math.sqrt(0.5)) < 4 / np.sqrt(2 * math.pi * k**2))


def test_maps_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="cubes of one size"):
        fsc_curve(np.zeros((4, 4, 4)), np.zeros((5, 5, 5)))
    with pytest.raises(InputError, match="cubes of one size"):
        fsc_curve(np.zeros((4, 4, 5)), np.zeros((4, 4, 5)))
    with pytest.raises(InputError, match="cubes of one size"):
        fsc_curve(np.zeros((0, 0, 0)), np.zeros((0, 0, 0)))
    with pytest.raises(InputError, match="complex"):
        fsc_curve(np.zeros((4, 4, 4), complex), np.zeros((4, 4, 4)))
    bad = np.zeros((4, 4, 4))
    bad[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fsc_curve(bad, np.ones((4, 4, 4)))


def test_resolution_interpolates_between_shells() -> None:
    # 0.5 lies halfway between shells 2 (0.8) and 3 (0.2): 20 voxels of 1.5 Å / 2.5
    curve = np.array([1, 0.9, 0.8, 0.2, 0.6, 0.1, 0, 0, 0, 0, 0])
    assert resolution(curve, 0.5, 20, 1.5) == pytest.approx(12.0)
    assert resolution(curve, 0.8, 20, 1.5) == pytest.approx(15.0)  # touched at shell 2, not yet below
    assert resolution(np.ones(11), 0.143, 20, 1.5) == 3.0
    assert mean_fsc(curve) == pytest.approx(0.26)


@pytest.mark.parametrize("origin", [-1.0, 0.0, 0.2, 1.0])
def test_the_mean_of_the_maps_does_not_decide_resolution(origin: float) -> None:
    resolved = np.array([origin, 0.9, 0.4, 0])
    assert resolution(resolved, 0.5, 6, 1.0) == pytest.approx(6 / 1.8)
    unresolved = np.array([origin, 0.0, 0, 0])
    assert resolution(unresolved, 0.5, 6, 1.0) == pytest.approx(6 / 0.5)  # from 1 to 0 between shells 0 and 1


def test_bad_curves_are_refused() -> None:
    with pytest.raises(InputError, match="needs 4 finite values"):
        resolution([1, 0.5, 0.1], 0.5, 6, 1.0)
    with pytest.raises(InputError, match="with 1 that are not finite"):
        resolution([1, np.nan, 0.1, 0], 0.5, 6, 1.0)


@pytest.mark.parametrize("n", [15, 16])
def test_soft_ball_is_one_inside_half_in_the_edge_and_zero_beyond(n: int) -> None:
    ball = soft_ball(n, 3, 4)
    assert ball.dtype == np.float32
    x = np.arange(n) - n // 2
    r = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    np.testing.assert_array_equal(ball[r <= 3], 1)
    np.testing.assert_array_equal(ball[r >= 7], 0)
    centre = n // 2
    assert ball[centre, centre, centre + 5] == pytest.approx(0.5)
    assert ball[centre - 4, centre, centre] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    np.testing.assert_array_equal(soft_ball(n, 3, 0), r <= 3)
    with pytest.raises(InputError, match="no length may be negative"):
        soft_ball(n, -1, 5)


@pytest.mark.parametrize("n", BOXES)
def test_phase_randomisation_keeps_amplitudes_and_low_frequencies(n: int) -> None:
    a, shell = noise(n, 8), 3
    b = phase_randomise(a, shell, np.random.default_rng(0))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    np.testing.assert_allclose(np.abs(fb), np.abs(fa), atol=1e-10)
    below = radii(n) < shell
    np.testing.assert_allclose(fb[below], fa[below], atol=1e-10)
    # The 6 voxels at |q| = 3 exactly, three pairs of q and -q, change as well; two random phases differ by
    # 4/pi of the amplitude in the mean.
    assert np.all(np.abs(fb - fa)[radii(n) == shell] > 1e-3)
    assert np.abs(fb - fa)[~below].sum() > 0.8 * np.abs(fa)[~below].sum()
    assert phase_randomise(a.astype(np.float32), shell, np.random.default_rng(0)).dtype == np.float32


def test_random_phases_are_uniform_and_differ_between_draws() -> None:
    n, rng = 24, np.random.default_rng(1)
    a = noise(n, 9)
    first, second = phase_randomise(a, 2, rng), phase_randomise(a, 2, rng)
    for x, y in ((first, second), (first, a)):
        turn = np.fft.rfftn(x) * np.conj(np.fft.rfftn(y))
        turn = turn[:, :, 1:-1][np.broadcast_to(radii(n)[:, :, 1 : n // 2] >= 2, turn[:, :, 1:-1].shape)]
        phasor = turn / np.abs(turn)
        # The mean of m independent phasors has modulus about 1/sqrt(m): 4 of these is p < 1e-6 each.
        for harmonic in (1, 2, 3):
            assert abs(np.mean(phasor**harmonic)) < 4 / math.sqrt(phasor.size)
    # Where |q| >= 2 nothing is common to two draws: |FSC| < 4/sqrt(2 pi k^2), as above
    k = np.arange(3, n // 2 + 1)
    assert np.all(np.abs(fsc_curve(first, second)[3:]) < 4 / np.sqrt(2 * math.pi * k**2))


def test_randomisation_from_the_mean_is_refused() -> None:
    with pytest.raises(InputError, match="shell 0"):
        phase_randomise(noise(6, 0), 0, np.random.default_rng(0))


def test_correction_is_chens_formula_from_two_shells_on() -> None:
    n = 32
    mask = soft_ball(n, 0.3 * n, 5)
    a, b = (particle(n) + 0.3 * noise(n, seed) for seed in (1, 2))
    result = corrected_fsc(a, b, mask, np.random.default_rng(0))
    np.testing.assert_array_equal(result.unmasked, fsc_curve(a, b))
    np.testing.assert_array_equal(result.masked, fsc_curve(a * mask, b * mask))
    shell = result.shell
    assert shell == 1 + int(np.argmax(result.unmasked[1:] < 0.8))
    # The same by hand with the public pieces: a's phases are drawn first, then b's.
    rng = np.random.default_rng(0)
    by_hand = fsc_curve(phase_randomise(a, shell, rng) * mask, phase_randomise(b, shell, rng) * mask)
    np.testing.assert_allclose(result.randomised, by_hand, atol=ROUNDING)
    np.testing.assert_array_equal(result.corrected[: shell + 2], result.masked[: shell + 2])
    masked, by_hand = result.masked[shell + 2 :], by_hand[shell + 2 :]
    formula = np.maximum(0, (masked - by_hand) / (1 - by_hand))
    np.testing.assert_allclose(result.corrected[shell + 2 :], formula, atol=ROUNDING)


def test_a_mask_alone_makes_no_resolution() -> None:
    """Independent noise under one tight, sharp mask looks alike; after correction it is not resolved."""
    n = 32
    mask = soft_ball(n, 4, 0)
    a, b = (noise(n, seed) + 3 for seed in (3, 4))  # an offset shared by both: the mask's own transform
    result = corrected_fsc(a, b, mask, np.random.default_rng(0))
    assert result.shell == 1
    assert resolution(result.masked, 0.143, n, 1.0) < n / 4  # resolved at a quarter of Nyquist or better
    assert mean_fsc(result.corrected[3:]) < 0.1
    assert mean_fsc(result.masked[3:]) > mean_fsc(result.corrected[3:]) + 0.1


def test_phase_randomised_maps_are_not_called_resolved() -> None:
    n, cut = 48, 8
    rng = np.random.default_rng(5)
    truth = particle(n)
    mask = soft_ball(n, 0.3 * n, 5)
    a, b = phase_randomise(truth, cut, rng), phase_randomise(truth, cut, rng)
    result = corrected_fsc(a, b, mask, rng)
    # True detail ends at |q| = 8; two shells of grace where the correction has not begun yet.
    assert n / (cut + 2) <= resolution(result.corrected, 0.143, n, 1.0) <= n / (cut - 1)


def test_identical_maps_need_no_correction() -> None:
    a = noise(12, 0)
    result = corrected_fsc(a, a, soft_ball(12, 4, 2), np.random.default_rng(0))
    assert result.shell is None
    for curve in (result.unmasked, result.masked, result.randomised, result.corrected):
        np.testing.assert_allclose(curve, 1, atol=ROUNDING)
