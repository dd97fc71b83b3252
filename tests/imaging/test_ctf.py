"""The transfer function against independent code: RELION's formulas retyped, and published values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcryo.errors import InputError
from dcryo.imaging.ctf import (
    check_optics,
    ctf_image,
    distortion,
    evaluate,
    random_defocus,
    transfer_coefficients,
    wavelength,
)
from dcryo.imaging.particles import Optics, Particles


def one(optics: Optics, **columns: Any) -> Particles:
    rows = {name: np.asarray(value)[None] for name, value in columns.items()}
    return Particles.empty_columns(1, optics=(optics,), **rows)


def relion_ctf(fx, fy, *, kv, cs_mm, q0, u, v, angle_deg, phase_deg=0.0, bfac=0.0, scale=1.0, offset=0.0):
    """CTF::initialise and CTF::getCTF of RELION 4, in its own units and with its own constants K1 to K5."""
    volts = kv * 1e3
    lam = 12.2643247 / math.sqrt(volts * (1.0 + volts * 0.978466e-6))
    k1, k2 = math.pi * lam, math.pi / 2 * cs_mm * 1e7 * lam**3
    k3, k4, k5 = math.atan(q0 / math.sqrt(1 - q0**2)), -bfac / 4, math.radians(phase_deg)
    average, deviation = -(u + v) * 0.5, -(u - v) * 0.5
    u2 = fx**2 + fy**2
    defocus = average + deviation * np.cos(2 * (np.arctan2(fy, fx) - math.radians(angle_deg)))
    gamma = k1 * defocus * u2 + k2 * u2**2 - k5 - k3 + offset
    return -np.sin(gamma) * np.exp(k4 * u2) * scale


def relion_zernike(m: int, n: int, x, y):
    """Z(m, n, rho, phi) by the factorial sum of the radial polynomial."""
    rho, phi = np.hypot(x, y), np.arctan2(y, x)
    a = abs(m)
    radial = sum(
        (-1) ** k
        * math.factorial(n - k)
        / (math.factorial(k) * math.factorial((n + a) // 2 - k) * math.factorial((n - a) // 2 - k))
        * rho ** (n - 2 * k)
        for k in range((n - a) // 2 + 1)
    )
    return radial * (np.cos(m * phi) if m >= 0 else np.sin(-m * phi))


def even_index(i: int) -> tuple[int, int]:
    k = int(math.sqrt(i))
    return 2 * (i - k * k - k), 2 * k


def odd_index(i: int) -> tuple[int, int]:
    k = int((math.sqrt(1 + 4 * i) - 1) / 2)
    n = 2 * k + 1
    return 2 * (i - k * k - k) - n, n


@pytest.fixture
def frequencies() -> np.ndarray:
    """Frequencies inside the Nyquist square [rad per voxel], and the origin."""
    v = np.random.default_rng(1).uniform(-math.pi, math.pi, (400, 2))
    v[0] = 0
    return v


@pytest.mark.parametrize(
    ("voltage", "expected"), [(100.0, 0.0370), (200.0, 0.0251), (300.0, 0.0197)], ids=str
)
def test_wavelength_of_textbooks(voltage: float, expected: float) -> None:
    assert wavelength(voltage) == pytest.approx(expected, abs=5e-5)  # four decimals are printed


def test_value_at_the_origin_is_plus_amplitude_contrast() -> None:
    # The convention table of the field: RELION +0.1 where four other packages have -0.1.
    particle = one(Optics(amplitude_contrast=0.1), defocus=[15e3, 14e3, 0.3])
    assert evaluate(transfer_coefficients(particle, 1.0), np.zeros(2)) == pytest.approx(0.1, abs=1e-15)


def test_underfocus_is_positive() -> None:
    # Close to the origin pi lambda z k^2 adds to the amplitude contrast when z > 0.
    particle = one(Optics(), defocus=[1e4, 1e4, 0.0])
    k = 0.01
    expected = math.sin(math.pi * wavelength(300) * 1e4 * k**2 + math.asin(0.1))
    value = evaluate(transfer_coefficients(particle, 1.0), np.array([2 * math.pi * k, 0.0]))[0]
    assert value.real == pytest.approx(expected, abs=2e-5)  # the spherical aberration, pi/2 Cs l^3 k^4 = 3e-6
    assert expected > 0.1


@given(
    voltage=st.floats(80, 300),
    cs_mm=st.floats(0, 5),
    q0=st.floats(0, 0.99),
    u=st.floats(-5e3, 5e4),
    difference=st.floats(-2e3, 2e3),
    angle_deg=st.floats(-180, 180),
    phase_deg=st.floats(0, 180),
    bfac=st.floats(0, 200),
    scale=st.floats(0.1, 2),
    pixel_size=st.floats(0.5, 4),
)
def test_equals_the_formula_of_relion(
    voltage, cs_mm, q0, u, difference, angle_deg, phase_deg, bfac, scale, pixel_size
) -> None:
    v = np.random.default_rng(2).uniform(-math.pi, math.pi, (50, 2))
    optics = Optics(voltage=voltage, cs=cs_mm * 1e7, amplitude_contrast=q0, pixel_size=pixel_size)
    particle = one(
        optics,
        defocus=[u, u - difference, math.radians(angle_deg)],
        phase_shift=math.radians(phase_deg),
        bfactor=bfac,
        scale=scale,
    )
    f = v / (2 * math.pi * pixel_size)
    expected = relion_ctf(
        *f.T, kv=voltage, cs_mm=cs_mm, q0=q0, u=u, v=u - difference, angle_deg=angle_deg,
        phase_deg=phase_deg, bfac=bfac, scale=scale,
    )  # fmt: skip
    value = evaluate(transfer_coefficients(particle, pixel_size), v)[0]
    # chi reaches 1e4 rad, so float64 leaves 1e4 * 2e-16 * a few operations in its sine.
    np.testing.assert_allclose(value, expected, atol=1e-10)


@pytest.mark.parametrize("index", range(9))
def test_even_zernike_one_by_one(index: int, frequencies: np.ndarray) -> None:
    pixel_size = 1.3
    # rlnEvenZernike of order 4 is of size 1e3 Å^4 in practice.
    coefficient = [0.4, 30.0, 30.0, 30.0, 900.0, 900.0, 900.0, 900.0, 900.0][index]
    given = [0.0] * 9
    given[index] = coefficient
    optics = Optics(even_zernike=tuple(given), pixel_size=pixel_size)
    f = frequencies / (2 * math.pi * pixel_size)
    expected = relion_ctf(
        *f.T, kv=300, cs_mm=2.7, q0=0.1, u=12e3, v=11e3, angle_deg=20,
        offset=coefficient * relion_zernike(*even_index(index), *f.T),
    )  # fmt: skip
    particle = one(optics, defocus=[12e3, 11e3, math.radians(20)])
    value = evaluate(transfer_coefficients(particle, pixel_size), frequencies)[0]
    np.testing.assert_allclose(value, expected, atol=1e-11)


@pytest.mark.parametrize("index", range(6))
def test_odd_zernike_one_by_one(index: int, frequencies: np.ndarray) -> None:
    pixel_size = 0.9
    given = [0.0] * 6
    given[index] = 7.0
    particle = one(Optics(odd_zernike=tuple(given), pixel_size=pixel_size), defocus=[12e3, 11e3, 0.0])
    f = frequencies / (2 * math.pi * pixel_size)
    value = evaluate(transfer_coefficients(particle, pixel_size), frequencies)[0]
    plain = one(Optics(pixel_size=pixel_size), defocus=[12e3, 11e3, 0.0])
    amplitude = evaluate(transfer_coefficients(plain, pixel_size), frequencies)[0]
    expected = amplitude * np.exp(1j * 7.0 * relion_zernike(*odd_index(index), *f.T))
    np.testing.assert_allclose(value, expected, atol=1e-11)


def test_beam_tilt_is_the_phase_that_relion_puts_into_the_odd_zernikes(frequencies: np.ndarray) -> None:
    tilt_mrad, cs_mm, pixel_size = (0.3, -0.7), 2.7, 1.1
    optics = Optics(
        beam_tilt=(tilt_mrad[0] * 1e-3, tilt_mrad[1] * 1e-3), cs=cs_mm * 1e7, pixel_size=pixel_size
    )
    particle = one(optics, defocus=[12e3, 12e3, 0.0])
    f = frequencies / (2 * math.pi * pixel_size)
    # TiltHelper::insertTilt
    scale = cs_mm * 20000 * wavelength(300) ** 2 * math.pi
    z3x, z3y = -scale * tilt_mrad[0] / 3, -scale * tilt_mrad[1] / 3
    terms = [2 * z3y, 2 * z3x, 0, z3y, z3x]
    phase = sum(c * relion_zernike(*odd_index(i), *f.T) for i, c in enumerate(terms))
    plain = one(Optics(cs=cs_mm * 1e7, pixel_size=pixel_size), defocus=[12e3, 12e3, 0.0])
    amplitude = evaluate(transfer_coefficients(plain, pixel_size), frequencies)[0]
    value = evaluate(transfer_coefficients(particle, pixel_size), frequencies)[0]
    np.testing.assert_allclose(value, amplitude * np.exp(1j * phase), atol=1e-11)


def test_without_a_ctf_an_image_is_moved_in_pixels_and_scaled() -> None:
    n, pixel_size = 16, 2.5
    optics = Optics(ctf=False, pixel_size=pixel_size)
    particle = one(optics, shift=[3 * pixel_size, -2 * pixel_size], scale=1.25)
    image = np.random.default_rng(0).normal(size=(n, n))
    moved = np.fft.irfft2(np.fft.rfft2(image) * ctf_image(particle, pixel_size, n)[0], s=(n, n))
    np.testing.assert_allclose(moved, 1.25 * np.roll(image, (-2, 3), axis=(0, 1)), atol=1e-13)


def test_another_voxel_size_changes_the_variable_and_not_the_value() -> None:
    # The same recorded image, described on a volume of larger voxels: v = D w.
    optics = Optics(pixel_size=1.0, odd_zernike=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0), beam_tilt=(1e-4, 0.0))
    particle = one(optics, defocus=[1e4, 9e3, 0.4], shift=[1.3, 0.2], bfactor=30.0)
    np.testing.assert_allclose(ctf_image(particle, 1.0, 9), ctf_image(particle, 2.3, 9), atol=1e-12)


def test_magnification_matrix_goes_from_recorded_to_undistorted_frequencies() -> None:
    matrix = ((1.02, 0.01), (-0.03, 0.97))
    optics = Optics(pixel_size=1.2, magnification=matrix)
    np.testing.assert_allclose(distortion(optics, 2.4), 2 * np.array(matrix))
    particle = one(optics, defocus=[11e3, 10e3, 0.7], shift=[2.4, -1.2])
    w = np.random.default_rng(3).uniform(-math.pi, math.pi, (30, 2))
    # RELION: the CTF is drawn at M f, the shift is applied to the recorded image.
    f = (w / (2 * math.pi * 1.2)) @ np.array(matrix).T
    expected = relion_ctf(
        *f.T, kv=300, cs_mm=2.7, q0=0.1, u=11e3, v=10e3, angle_deg=math.degrees(0.7)
    ) * np.exp(-1j * (w @ [2.0, -1.0]))
    value = evaluate(transfer_coefficients(particle, 2.4), w @ distortion(optics, 2.4).T)[0]
    np.testing.assert_allclose(value, expected, atol=1e-11)


def test_groups_are_kept_apart() -> None:
    groups = (Optics(voltage=300, pixel_size=1.0), Optics(voltage=200, pixel_size=1.5), Optics(ctf=False))
    defocus = np.array([[1e4, 9e3, 0.1], [2e4, 2e4, 0.0], [3e4, 3e4, 0.0]])
    index = np.array([1, 0, 2])
    both = Particles.empty_columns(3, optics=groups, defocus=defocus, optics_group=index)
    v = np.random.default_rng(0).normal(size=(4, 5, 2))
    values = evaluate(transfer_coefficients(both, 1.0), v)
    assert values.shape == (3, 4, 5)
    for row in range(3):
        alone = one(groups[index[row]], defocus=defocus[row])
        expected = evaluate(transfer_coefficients(alone, 1.0), v)[0]
        np.testing.assert_allclose(values[row], expected, atol=1e-12)
    np.testing.assert_array_equal(values[2], 1.0)


@pytest.mark.parametrize(
    ("field", "length", "column"),
    [("odd_zernike", 7, "rlnOddZernike"), ("even_zernike", 10, "rlnEvenZernike")],
)
def test_higher_orders_are_refused_by_name(field: str, length: int, column: str) -> None:
    zero, one_more = [0.0] * length, [0.0] * (length - 1) + [1.0]
    transfer_coefficients(one(Optics(**{field: tuple(zero)})), 1.0)
    with pytest.raises(InputError, match=column):
        transfer_coefficients(one(Optics(name="g7", **{field: tuple(one_more)})), 1.0)


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError, match="optics group index 3"):
        transfer_coefficients(one(Optics(), optics_group=np.int32(3)), 1.0)
    with pytest.raises(InputError, match="rlnMagMat00"):
        distortion(Optics(magnification=((1.0, 0.0), (0.0, -1.0))), 1.0)
    with pytest.raises(InputError, match="not in Å"):
        check_optics(one(Optics(), defocus=[1.5, 1.4, 0.0]))
    with pytest.raises(InputError, match="missing or not finite"):
        check_optics(one(Optics(), defocus=[np.nan, 1e4, 0.0]))
    with pytest.raises(InputError, match="zero everywhere"):
        check_optics(one(Optics(cs=0.0, amplitude_contrast=0.0)))
    check_optics(one(Optics(cs=0.0, amplitude_contrast=0.0, ctf=False)))
    check_optics(one(Optics(), defocus=[15e3, 14e3, 0.0]))
    with pytest.raises(InputError, match="--defocus"):
        random_defocus(3, 2e4, 1e4, np.random.default_rng(0))


def test_random_defocus_stays_in_range() -> None:
    defocus = random_defocus(1000, 1e4, 2e4, np.random.default_rng(0))
    assert defocus.shape == (1000, 3)
    assert defocus[:, 0].min() >= 1e4
    assert defocus[:, 0].max() <= 2e4
    astigmatism = defocus[:, 0] - defocus[:, 1]
    assert 0 <= astigmatism.min()
    assert astigmatism.max() <= 800
    assert 0 <= defocus[:, 2].min()
    assert defocus[:, 2].max() < math.pi
