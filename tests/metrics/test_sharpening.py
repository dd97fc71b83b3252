"""B factors that were put in come out; weights and filters are their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from dcryo.imaging.radial import filtered, low_pass
from dcryo.metrics.sharpening import fit_guinier, fsc_weight, mean_amplitude, sharpen


def white(n: int, seed: int = 0) -> np.ndarray:
    """Amplitude 1 at every frequency, random phases: a flat Guinier plot."""
    noise = np.fft.rfftn(np.random.default_rng(seed).standard_normal((n, n, n)))
    return np.fft.irfftn(noise / np.abs(noise), s=(n, n, n), axes=(0, 1, 2))


def radii(n: int) -> np.ndarray:
    q = np.fft.fftfreq(n) * n
    return np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q**2)


@pytest.mark.parametrize("n", [7, 8])
def test_amplitudes_are_means_over_the_full_transform(n: int) -> None:
    volume = np.random.default_rng(0).standard_normal((n, n, n))
    full, shell = np.abs(np.fft.fftn(volume)), np.rint(radii(n))
    expected = [full[shell == k].mean() for k in range(n // 2 + 1)]
    np.testing.assert_allclose(mean_amplitude(np.fft.rfftn(volume)), expected, rtol=1e-12)


@pytest.mark.parametrize(("n", "b"), [(32, 90.0), (33, 90.0), (32, -30.0)])
def test_the_fall_off_that_was_put_in_is_found_and_undone(n: int, b: float) -> None:
    pixel = 1.5
    flat = white(n)
    blurred = filtered(flat, lambda radius: np.exp(-b / 4 * (radius / (n * pixel)) ** 2))
    result = sharpen(blurred, pixel, weights=None, fit_range=(10, 3.2))
    # exp(-B/4 s^2) is not linear across a shell (1/48 Å wide): its mean differs from its value at the middle
    # by 1 %, which is alike in all shells but for their finite number of voxels.
    assert result.bfactor == pytest.approx(-b, rel=0.02, abs=0.5)
    assert result.fit is not None
    assert result.fit.slope == result.bfactor / 4
    assert result.fit.correlation == pytest.approx(1, abs=2e-3)
    inside = radii(n) <= n // 2
    np.testing.assert_allclose(
        np.abs(np.fft.fftn(result.volume))[inside], np.abs(np.fft.fftn(flat))[inside], rtol=0.1
    )
    # ln of the mean amplitude is that of exp(-B/4 s^2) times 1/n^3
    s = np.arange(n // 2 + 1) / (n * pixel)
    np.testing.assert_allclose(np.log(result.original[4:] * n**3), (-b / 4 * s**2)[4:], atol=0.03)
    np.testing.assert_array_equal(result.weighted, result.original)


def test_a_line_is_found_between_two_resolutions_only() -> None:
    n, pixel = 40, 2.0
    s2 = (np.arange(n // 2 + 1) / (n * pixel)) ** 2
    amplitude = np.exp(-25 * s2 - 3)
    amplitude[:8] = 7  # coarser than 10 Å
    amplitude[17:] = 11  # finer than 5 Å
    fit = fit_guinier(amplitude, n, pixel, 10, 5)
    assert fit is not None
    np.testing.assert_allclose([fit.slope, fit.intercept, fit.correlation], [-25, -3, 1], rtol=1e-9)
    assert fit.bfactor == pytest.approx(-100)
    amplitude[9] = 0  # nothing there: no logarithm
    again = fit_guinier(amplitude, n, pixel, 10, 5)
    assert again is not None
    assert again.slope == pytest.approx(-25)
    assert fit_guinier(amplitude, n, pixel, 10, 8.5) is None  # one shell
    # Scatter about the line: r^2 as numpy's correlation coefficient has it
    amplitude[8:17] *= np.exp(np.random.default_rng(0).normal(0, 0.1, 9))
    rough = fit_guinier(amplitude, n, pixel, 10, 5)
    assert rough is not None
    used = np.setdiff1d(np.arange(8, 17), [9])
    expected = np.corrcoef(s2[used], np.log(amplitude[used]))[0, 1] ** 2
    assert rough.correlation == pytest.approx(expected)


def test_weights_are_the_correlation_with_the_truth() -> None:
    """sqrt(2 FSC / (1 + FSC)) is the FSC of the average of two noisy halves with what they share."""
    n = 48
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((n, n, n))
    a, b = (truth + 1.5 * rng.standard_normal((n, n, n)) for _ in range(2))
    fa, fb, ft, fm = (np.fft.fftn(v).ravel() for v in (a, b, truth, (a + b) / 2))

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.vdot(x, y).real / (np.linalg.norm(x) * np.linalg.norm(y)))

    weight = fsc_weight([1.0, correlation(fa, fb)])
    # n^3 / 2 independent coefficients: the standard error of a correlation is 1/sqrt(n^3) = 0.003
    assert weight[1] == pytest.approx(correlation(fm, ft), abs=4 * n**-1.5)


def test_weights_end_where_the_fsc_first_vanishes() -> None:
    weight = fsc_weight([-1, 1, 0.5, 5e-5, 0.3])
    np.testing.assert_allclose(weight, [1, 1, np.sqrt(2 / 3), 0, 0])


def test_every_stage_acts_in_its_turn() -> None:
    n, pixel = 24, 2.0
    volume = np.random.default_rng(3).standard_normal((n, n, n))
    weights = np.linspace(1, 0.2, n // 2 + 1)

    def mtf(radius: np.ndarray) -> np.ndarray:
        return 1 / (1 + radius / n)

    result = sharpen(
        volume, pixel, weights=weights, fit_range=(10, 4), bfactor=-40.0, mtf=mtf, lowpass=low_pass(9)
    )
    r = radii(n)
    shell = np.rint(r).astype(int)
    spectrum = np.fft.fftn(volume)
    kept = r <= n / 2
    spectrum *= np.where(kept, np.append(weights, 0)[np.minimum(shell, n // 2 + 1)] / mtf(r), 0)
    weighted = np.abs(spectrum)
    spectrum *= np.exp(10 * (r / (n * pixel)) ** 2)
    sharpened = np.abs(spectrum)
    spectrum *= 0.5 + 0.5 * np.cos(np.pi * np.clip((r - 8) / 2, 0, 1))
    np.testing.assert_allclose(result.volume, np.fft.ifftn(spectrum).real, atol=1e-5)  # float32 of order 1
    assert result.fit is None
    assert result.bfactor == -40
    for k in (0, 3, 8, n // 2 - 1):
        assert result.weighted[k] * n**3 == pytest.approx(weighted[shell == k].mean(), rel=1e-9)
        assert result.sharpened[k] * n**3 == pytest.approx(sharpened[shell == k].mean(), rel=1e-9)
        plain = np.abs(np.fft.fftn(volume))
        assert result.original[k] * n**3 == pytest.approx(plain[shell == k].mean(), rel=1e-9)
        assert result.mtf_corrected[k] * n**3 == pytest.approx((plain / mtf(r))[shell == k].mean(), rel=1e-9)


def test_nothing_to_fit_leaves_the_map_as_it_is() -> None:
    volume = np.random.default_rng(4).standard_normal((8, 8, 8))
    result = sharpen(volume, 1.0, weights=None, fit_range=(3, 2.9))
    assert result.fit is None
    assert result.bfactor == 0
    np.testing.assert_allclose(result.volume, volume, atol=1e-6)
