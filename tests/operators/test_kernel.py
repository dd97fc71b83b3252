"""The fast kernel against direct sums: over its own lattice, and over the circular detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from array_api_strict import asarray
from equations import SMALL, SPREADING, accumulate, lags, relative
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics, Particles
from dcryo.operators.kernel import PlaneKernel, _add_oriented, padded_length
from dcryo.operators.normal import Convolution
from dcryo.operators.views import make_radial, make_views
from dcryo.operators.window import window

P = oracle.PIXEL

ONE_AXIS = 1 / 3
"""The kernel is spread along one axis of three, so it errs by a third of what an insertion does."""


def blank(particles: Particles, n: int) -> np.ndarray:
    return np.zeros((len(particles), n, n), np.float32)


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("n", [6, 7, 11, 12])
def test_kernel_is_the_sum_over_the_sheared_lattice(n: int, accuracy: str) -> None:
    particles = oracle.example(4, n + 1)
    equations = accumulate(particles, blank(particles, n), n, accuracy=accuracy)
    length = padded_length(n)
    assert equations.spectrum.shape == (length, length, length // 2 + 1)
    expected = oracle.sheared_kernel(particles, n, length)
    within = np.abs(np.fft.fftfreq(length, 1 / length)) < n
    lagged = lags(equations) * within[:, None, None] * within[:, None] * within
    bound = SMALL * ONE_AXIS * SPREADING[accuracy]
    assert relative(lagged, expected) < bound
    if n < 11:
        volume = oracle.noise((n, n, n), 3)
        product = oracle.toeplitz(expected, n) @ volume.ravel().astype(np.float64)
        assert relative(Convolution(equations.spectrum, n, 1)(volume), product) < bound


@pytest.mark.parametrize("ratio", [0.8, 1.25])
def test_two_optics_groups(ratio: float) -> None:
    second = Optics(pixel_size=ratio * P, name="second", magnification=((1.02, 0.03), (-0.01, 0.97)))
    particles = oracle.example(6, 2, (Optics(pixel_size=P), second))
    equations = accumulate(particles, blank(particles, 9), 9, accuracy="accurate")
    expected = oracle.toeplitz(oracle.sheared_kernel(particles, 9, padded_length(9)), 9)
    bound = SMALL * ONE_AXIS * SPREADING["accurate"]
    assert relative(oracle.toeplitz(lags(equations), 9), expected) < bound


@pytest.mark.parametrize("accuracy", SPREADING)
def test_beam_along_a_body_diagonal(accuracy: str) -> None:
    """The steepest slices there are: in a small box their taps reach over the end of the dominant axis."""
    e3 = np.ones(3) / np.sqrt(3)
    e1 = np.array([1, 1, -2]) / np.sqrt(6)
    matrix = np.stack([e1, np.cross(e3, e1), e3])
    particles = replace(oracle.plain(1, 4), rotation=Rotation.from_matrix([matrix]).as_quat())
    equations = accumulate(particles, blank(particles, 5), 5, accuracy=accuracy)
    expected = oracle.toeplitz(oracle.sheared_kernel(particles, 5, padded_length(5)), 5)
    assert relative(oracle.toeplitz(lags(equations), 5), expected) < SMALL * ONE_AXIS * SPREADING[accuracy]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_dominant_axis_and_exact_ties(axis: int) -> None:
    """Beams along an axis, and along face diagonals, where two axes are equally good."""
    beam, other = np.eye(3)[axis], np.eye(3)[(axis + 1) % 3]
    matrices = []
    for e3 in (beam, (beam + other) / np.sqrt(2), (beam - other) / np.sqrt(2)):
        e1 = np.cross(other, e3) if abs(e3 @ other) < 0.9 else np.cross(beam, e3)
        e1 = e1 / np.linalg.norm(e1)
        matrices.append([e1, np.cross(e3, e1), e3])
    particles = replace(oracle.example(3, 4), rotation=Rotation.from_matrix(matrices).as_quat())
    equations = accumulate(particles, blank(particles, 7), 7, accuracy="accurate")
    expected = oracle.toeplitz(oracle.sheared_kernel(particles, 7, padded_length(7)), 7)
    assert relative(oracle.toeplitz(lags(equations), 7), expected) < SMALL * ONE_AXIS * SPREADING["accurate"]


def undelocalised(count: int, bfactor: float) -> Particles:
    """A CTF without strong oscillations: its square is no wider than the box."""
    particles = oracle.example(count, 3, Optics(pixel_size=P, cs=0.0))
    return replace(
        particles,
        defocus=particles.defocus * [0.02, 0.02, 1],
        bfactor=np.full(count, bfactor),
        phase_shift=np.full(count, 1.2),
    )


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("n", [11, 12])
def test_agrees_with_the_circular_detector_where_nothing_wraps(n: int, accuracy: str) -> None:
    """Without a sharp cut at the band limit the two lattices have no tails to disagree about."""
    particles = undelocalised(3, 300.0)
    fast = accumulate(particles, blank(particles, n), n, accuracy=accuracy)
    exact = accumulate(particles, blank(particles, n), n)
    lag = np.fft.fftfreq(fast.spectrum.shape[0]) * fast.spectrum.shape[0]
    ball = lag[:, None, None] ** 2 + lag[:, None] ** 2 + lag**2 < n**2
    error = np.linalg.norm((lags(fast) - lags(exact)) * ball)
    # 1e-4: the envelope is exp(-B f^2 / 2) = 2e-6 at the band limit, times the tails below
    assert error < (SMALL * ONE_AXIS * SPREADING[accuracy] + 1e-4) * np.linalg.norm(lags(exact) * ball)


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("n", [8, 11])
def test_product_with_a_smooth_object_in_the_ball(n: int, accuracy: str) -> None:
    """With the sharp cut the kernels' tails differ; a smooth object inside the ball does not see them."""
    particles = undelocalised(3, 60.0)
    fast = accumulate(particles, blank(particles, n), n, accuracy=accuracy)
    exact = accumulate(particles, blank(particles, n), n)
    volume = oracle.blob(n, 1.0)
    found = Convolution(fast.spectrum, n, 1)(volume)
    expected = Convolution(exact.spectrum, n, 1)(volume.astype(np.float64))
    # 9e-5 at n = 16, from the tails of the cut, which fall like n^-3/2: 2.5e-4 at n = 8
    assert relative(found, expected) < SMALL * 2.5e-4


def test_calls_are_summed_in_float64() -> None:
    """Two thousand faint ones beside one that is 9e8 times as strong: in float32 each would be lost."""
    views = make_views(oracle.plain(1, 4), P)
    radial = make_radial(oracle.flat, [np.ones(3)], 5, [1.0])

    def spectrum(strong: float, faint: int) -> np.ndarray:
        kernel = PlaneKernel(5, window("default"))
        coefficients = views.coefficients.copy()
        coefficients[:, 0] *= strong
        kernel.add(replace(views, coefficients=coefficients), radial)
        for _ in range(faint):
            kernel.add(views, radial)
        return kernel.spectrum().astype(float)

    added = spectrum(3e4, 2000) - spectrum(3e4, 0)
    wanted = 2000 * spectrum(1, 0)
    # what is compared are float32 numbers of 9e8
    assert np.linalg.norm(added - wanted) < 0.05 * np.linalg.norm(wanted)


def test_spectrum_is_that_of_an_even_real_kernel() -> None:
    particles = oracle.example(4, 9)
    spectrum = accumulate(particles, blank(particles, 8), 8, accuracy="default").spectrum.astype(np.float64)
    length = len(spectrum)
    negative = -np.arange(length) % length
    for plane in (0, length // 2):
        mirrored = spectrum[negative][:, negative, plane]
        np.testing.assert_allclose(spectrum[:, :, plane], mirrored, atol=1e-6 * spectrum.max())


@pytest.mark.parametrize("n", [5, 6, 7, 31, 33, 64, 101])
def test_padded_length(n: int) -> None:
    length = padded_length(n)
    assert length % 2 == 0
    assert 2 * n <= length <= 2.3 * n + 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_orienting_uses_nothing_but_the_array_api_standard(axis: int) -> None:
    """So it runs on whatever follows the standard; every sample and its mirror image land once."""
    length = 8
    half = length // 2
    along = oracle.noise((half + 1, length, length), 3)
    along[:, 0], along[half] = 0, 0  # pi radians are beyond the band
    out = np.zeros((length, length, half + 1), np.float32)
    strict = asarray(out.copy())
    _add_oriented(out, along, axis)
    _add_oriented(strict, asarray(along), axis)
    np.testing.assert_array_equal(np.asarray(strict), out)
    a, b = (x for x in range(3) if x != axis)
    expected = np.zeros((length,) * 3)  # indexed by (x, y, z)
    for ia, ib, d in np.ndindex(half + 1, length, length):
        q = np.zeros(3, int)
        q[a], q[b], q[axis] = ia, ib - half, d
        expected[tuple(q % length)] += along[ia, ib, d]
        expected[tuple(-q % length)] += along[ia, ib, d]
    np.testing.assert_allclose(out, expected.transpose(2, 1, 0)[:, :, : half + 1], atol=1e-6)
