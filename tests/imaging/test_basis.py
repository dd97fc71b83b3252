"""The Kaiser-Bessel window against quadrature, elementary forms and the published table of its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from dcryo.errors import InputError
from dcryo.imaging.basis import BandLimited, KaiserBessel, parse_basis

WINDOWS = [KaiserBessel(2, 10.8, 2), KaiserBessel(4, 19, 2), KaiserBessel(2.5, 7, 1), KaiserBessel(3, 12, 3)]
ids = [window.spec for window in WINDOWS]


@pytest.mark.parametrize("window", WINDOWS, ids=ids)
def test_projection_is_the_line_integral(window: KaiserBessel) -> None:
    for r in (0.0, 0.3, 1.1, 0.9 * window.radius):
        half = math.sqrt(window.radius**2 - r**2)
        expected = 2 * quad(lambda t, r=r: float(window.value(math.hypot(r, t))), 0, half, epsabs=1e-13)[0]
        assert window.projection(r) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("window", WINDOWS, ids=ids)
def test_slope_is_the_derivative(window: KaiserBessel) -> None:
    r = np.linspace(0, 0.95 * window.radius, 30)
    step = 1e-5
    difference = (window.projection(r + step) - window.projection(np.abs(r - step))) / (2 * step)
    np.testing.assert_allclose(window.projection_slope(r), difference, atol=1e-8 * window.projection(0.0))


@pytest.mark.parametrize("window", WINDOWS, ids=ids)
def test_transform_is_the_radial_fourier_integral(window: KaiserBessel) -> None:
    total = float(window.fourier(0.0))
    for w in (0.0, 0.7, math.pi, window.alpha / window.radius, 6.5):
        expected = quad(
            lambda r, w=w: 4 * math.pi * r**2 * np.sinc(w * r / math.pi) * float(window.value(r)),
            0, window.radius, epsabs=1e-13, limit=200,
        )[0]  # fmt: skip
        assert window.fourier(w) == pytest.approx(expected, abs=1e-10 * total)


def test_order_two_is_elementary() -> None:
    # I_(7/2)(z) = sqrt(2 / (pi z)) [(z^3 + 15 z) cosh z - (6 z^2 + 15) sinh z] / z^3
    window = KaiserBessel(4, 19, 2)
    w = np.linspace(0, 4, 50)
    z = np.sqrt(19**2 - (4 * w) ** 2)
    bessel = np.sqrt(2 / (np.pi * z)) * ((z**3 + 15 * z) * np.cosh(z) - (6 * z**2 + 15) * np.sinh(z)) / z**3
    i2 = (
        float(np.i0(19.0))
        - 2 / 19 * quad(lambda t: math.exp(19 * math.cos(t)) * math.cos(t) / math.pi, 0, math.pi)[0]
    )
    expected = (2 * np.pi) ** 1.5 * 4**3 * 19**2 / i2 * bessel / z**3.5
    np.testing.assert_allclose(window.fourier(w), expected, rtol=1e-7)  # quad's tolerance


@pytest.mark.parametrize(
    ("radius", "alpha", "dc", "nyquist", "zero", "beyond"),
    [
        (2, 10.8, 2.38939, 0.265, 6.432, (0.131, 0.062)),
        (2, 10.83, 2.38214, 0.266, 6.445, (0.132, 0.062)),
        (4, 19, 9.74562, 0.0245, 5.062, (0.0015, 0.0005)),
    ],
)
def test_published_properties(
    radius: float, alpha: float, dc: float, nyquist: float, zero: float, beyond: tuple[float, float]
) -> None:
    window = KaiserBessel(radius, alpha, 2)
    assert window.fourier(0.0) == pytest.approx(dc, abs=6e-6)
    assert window.fourier(math.pi) / window.fourier(0.0) == pytest.approx(nyquist, rel=3e-3)
    first = brentq(lambda w: float(window.fourier(w)), alpha / radius, math.hypot(alpha, 8) / radius)
    # 6.987932 is the first zero of J_(7/2); the table was read off a grid.
    assert first == pytest.approx(math.hypot(alpha, 6.987932) / radius, abs=1e-6)
    assert first == pytest.approx(zero, abs=1.5e-3)
    for dimension, share in zip((3, 2), beyond, strict=True):
        w = np.linspace(0, 40, 40001)
        energy = np.square(window.fourier(w)) * w ** (dimension - 1)
        # The table prints two or three digits.
        assert energy[w > math.pi].sum() / energy.sum() == pytest.approx(share, rel=0.05, abs=5e-5)


def test_transform_is_continuous_where_the_bessel_functions_change() -> None:
    window = KaiserBessel(2, 10, 2)
    w = 5.0 * (1 + np.array([-1e-9, 0.0, 1e-9]))
    np.testing.assert_allclose(window.fourier(w), window.fourier(5.0), rtol=1e-7)
    assert KaiserBessel(2, 800, 2).value(0.0) == 1.0  # I(800) itself overflows
    assert np.isfinite(KaiserBessel(2, 800, 2).fourier([0.0, 3.0])).all()


def test_zero_outside_the_support() -> None:
    window = KaiserBessel(2, 10.8, 2)
    r = np.array([2.0, 2.1, 5.0])
    for function in (window.value, window.projection, window.projection_slope):
        np.testing.assert_array_equal(function(r), 0)
    assert window.value(0.0) == 1


def test_parse() -> None:
    assert parse_basis("voxel") == BandLimited()
    assert parse_basis("kbwf:4,19,2") == KaiserBessel(4.0, 19.0, 2)
    for basis in (BandLimited(), KaiserBessel(2, 10.83, 2)):
        assert parse_basis(basis.spec) == basis
    np.testing.assert_array_equal(BandLimited().fourier(np.zeros((2, 3))), np.ones((2, 3)))


@pytest.mark.parametrize(
    "text",
    ["", "spline", "kbwf", "kbwf:4,19", "kbwf:a,b,c", "kb:4,19,2", "kbwf:-1,19,2", "kbwf:4,19,1.5",
     "kbwf:4,nan,2", "kbwf:4,19,0"],
)  # fmt: skip
def test_bad_names_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"kbwf:4,19,2"):
        parse_basis(text)
