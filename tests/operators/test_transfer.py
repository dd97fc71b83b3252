"""Slices are multiplied by the transfer function of the imaging module, whatever was done to the images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest

from dcryo.imaging.ctf import evaluate
from dcryo.imaging.particles import Optics
from dcryo.operators.projector import modulate_views
from dcryo.operators.transfer import ADJOINT, FORWARD, LUT_SIZE, line_phase, lookup, sine
from dcryo.operators.views import make_views

N = 12
H = (N - 1) // 2


def test_sine_of_many_turns() -> None:
    x = np.linspace(-3000, 3000, 7001)
    found = np.array([sine(value) for value in x])
    np.testing.assert_allclose(found, np.sin(x), atol=2e-6)  # the error that its docstring states


def test_lookup_is_linear_interpolation() -> None:
    table = np.random.default_rng(0).standard_normal(LUT_SIZE + 2).astype(np.float32)
    s = np.random.default_rng(1).uniform(0, math.pi**2, 300)
    expected = np.interp(s * LUT_SIZE / math.pi**2, np.arange(LUT_SIZE + 2), table)
    # the position, up to 4096, is a float32: 2.4e-4 of a step whose height is at most 7 or so
    np.testing.assert_allclose([lookup(table, value) for value in s], expected, atol=4e-3)


def test_phase_along_a_line_is_the_polynomial() -> None:
    rng = np.random.default_rng(2)
    c = rng.standard_normal(19)
    p1, p2, d1, d2 = rng.standard_normal(4)
    q = line_phase(c, p1, p2, d1, d2)
    for tau in (-2.0, -0.3, 0.0, 1.7):
        x, y = p1 + tau * d1, p2 + tau * d2
        expected = c[1] + c[2] * x * x + 2 * c[3] * x * y + c[4] * y * y
        expected += c[5] * x**4 + c[6] * x**3 * y + c[7] * x * x * y * y + c[8] * x * y**3 + c[9] * y**4
        assert sum(q[k] * tau**k for k in range(5)) == pytest.approx(expected, abs=1e-11)


def lattice() -> np.ndarray:
    """Frequencies (2h+1, h+1, 2) of a half-plane lattice in rad per image pixel."""
    a, b = np.meshgrid(np.arange(H + 1), np.arange(-H, H + 1))
    return np.stack([a, b], axis=-1) * (2 * math.pi / N)


def optics(**changes: object) -> Optics:
    return replace(
        Optics(
            pixel_size=1.5,
            beam_tilt=(2e-3, -1e-3),
            odd_zernike=(0.3, -0.2, 0.5, 0.1, -0.4, 0.2),
            even_zernike=(0.1, 0.2, -0.3, 0.2, 0.1, 0.3, -0.2, 0.1, 0.2),
            magnification=((1.02, 0.03), (-0.02, 0.98)),
        ),
        **changes,
    )


@pytest.mark.parametrize("direction", [FORWARD, ADJOINT])
@pytest.mark.parametrize("treatment", ["raw", "flipped", "premultiplied"])
def test_modulation_is_the_transfer_function(direction: int, treatment: str) -> None:
    chosen = optics(phase_flipped=treatment == "flipped", premultiplied=treatment == "premultiplied")
    particles = oracle.example(40, 4, chosen)  # more than one block
    views = make_views(particles, 1.5)
    one = np.ones((1, LUT_SIZE + 2), np.float32)
    rng = np.random.default_rng(3)
    values = rng.standard_normal((40, 2 * H + 1, H + 1, 2)).astype(np.float32)
    given = values.astype(float).view(complex)[..., 0]
    modulate_views(values, views, one, one, N, 5.5, direction, 2)
    found = values.view(np.complex64)[..., 0]

    w = lattice()
    v = w @ np.array(chosen.magnification).T
    transfer = evaluate(views.coefficients, v)
    # the real part with its sign: the transfer function without any phase, aberrations of even order included
    even = replace(
        particles, optics=(replace(chosen, beam_tilt=(0.0, 0.0), odd_zernike=()),), shift=np.zeros((40, 2))
    )
    value = evaluate(make_views(even, 1.5).coefficients, v).real
    phase = transfer / value
    if treatment == "flipped":
        value = np.abs(value)
    elif treatment == "premultiplied":
        value = value**2 if direction == FORWARD else np.ones_like(value)
    # a centre off the first pixel: the image's origin is 5.5 pixels away from it
    expected = value * phase * np.exp(-1j * w.sum(-1) * 5.5)
    if direction == ADJOINT:
        expected = np.conj(expected)
    expected = expected * given
    used = (np.hypot(v[..., 0], v[..., 1]) < math.sqrt(views.limit2[0])) & (
        (w[..., 0] > 0) | (w[..., 1] >= 0)
    )
    # sine and float32 phases err by some 1e-6; values are of order 1
    assert np.abs(found - np.where(used, expected, 0)).max() < 1e-5


def test_a_sample_on_the_band_limit_is_out_however_it_is_rounded() -> None:
    """Pixels of 0.8 voxels: the voxels' Nyquist frequency is at 0.4 n, a point of the lattice for n = 5 k."""
    chosen = Optics(pixel_size=0.8, ctf=False)
    views = make_views(oracle.example(1, 5, chosen), 1.0)
    one = np.ones((1, LUT_SIZE + 2), np.float32)
    for n in range(10, 200, 10):
        h, edge = n // 2 - 1, 2 * n // 5
        values = np.ones((1, 2 * h + 1, h + 1, 2), np.float32)
        modulate_views(values, views, one, one, n, 0.0, FORWARD)
        used = np.abs(values[0]).max(axis=-1) > 0
        assert not used[h, edge]
        assert not used[h + edge, 0]
        assert used[h, edge - 1]
        assert used[h + edge - 1, 0]
