"""Normal equations: a commutative monoid, the same bits always, and one product for all particles."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracle
import pytest
from equations import SMALL, SPREADING, accumulate, lags, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics, Particles
from dcryo.operators.normal import Accumulator, Convolution, NormalEquations
from dcryo.operators.views import Radial, make_radial, make_views

N = 8
COUNT = 7
EPS = float(np.finfo(np.float32).eps)


def radial(n: int = N) -> Radial:
    return make_radial(oracle.flat, [np.ones(n // 2 + 1)], n, [1.0])


def data(n: int = N, count: int = COUNT) -> tuple[Particles, np.ndarray]:
    return oracle.example(count, 11), oracle.noise((count, n, n), 12)


def random_equations(seed: int) -> NormalEquations:
    zero = NormalEquations.zeros(N)
    return NormalEquations(
        oracle.noise(zero.rhs.shape, seed), oracle.noise(zero.spectrum.shape, seed + 1), 2.5 * seed, seed + 3
    )


def assert_close(one: NormalEquations, two: NormalEquations, rounding: float) -> None:
    assert one.count == two.count
    assert one.energy == pytest.approx(two.energy, rel=1e-6)
    for a, b in ((one.rhs, two.rhs), (one.spectrum, two.spectrum)):
        assert a.dtype == b.dtype
        assert relative(a, b) <= rounding


def assert_equal(one: NormalEquations, two: NormalEquations) -> None:
    np.testing.assert_array_equal(one.rhs, two.rhs)
    np.testing.assert_array_equal(one.spectrum, two.spectrum)
    assert (one.energy, one.count) == (two.energy, two.count)


def test_sums_form_a_commutative_monoid() -> None:
    a, b, c = (random_equations(seed) for seed in (1, 5, 9))
    assert_equal(a + b, b + a)
    assert_equal(a + NormalEquations.zeros(N), a)
    assert_close((a + b) + c, a + (b + c), 2 * EPS)  # two roundings of numbers of the same size
    assert (a + b).rhs.dtype == np.float32
    assert a.n == N


@settings(max_examples=6)
@given(order=st.permutations(range(COUNT)), cuts=st.sets(st.integers(1, COUNT - 1)))
def test_any_partition_in_any_order_gives_the_same_sums(order: list[int], cuts: set[int]) -> None:
    particles, images = data()
    whole = accumulate(particles, images, N, accuracy="default")
    total = NormalEquations.zeros(N)
    edges = [0, *sorted(cuts), COUNT]
    for first, last in pairwise(edges):
        part = np.array(order[first:last])
        total = total + accumulate(particles.take(part), images[part], N, accuracy="default")
    # float32 sums of at most a few hundred terms, in another order: their roundings add like a random walk,
    # and the deblurring amplifies those in the corners of the box
    assert_close(total, whole, 20 * EPS)


@pytest.mark.parametrize("accuracy", ["fast", "default", "accurate"])
def test_batches_of_one_accumulator_add_up(accuracy: str) -> None:
    particles, images = data()
    whole = accumulate(particles, images, N, accuracy=accuracy)
    sums = Accumulator(N, radial(), accuracy=accuracy, threads=1)
    for rows in (slice(0, 1), slice(1, 5), slice(5, COUNT)):
        sums.add(images[rows], make_views(particles.take(rows), oracle.PIXEL))
    assert_close(sums.finish(), whole, 20 * EPS)


@pytest.mark.parametrize("symmetric", [False, True])
def test_same_bits_for_any_number_of_threads_and_again(symmetric: bool) -> None:
    n = 40  # several tiles and slabs
    particles, images = data(n, 70)
    group = Rotation.from_rotvec([[0, 0, 0], [0, 0, np.pi]]).as_matrix() if symmetric else None
    runs = [
        accumulate(particles, images, n, accuracy="default", symmetry=group, threads=threads)
        for threads in (1, 1, 2, 4)
    ]
    for run in runs[1:]:
        assert_equal(run, runs[0])
    volume = oracle.noise((n, n, n), 3)
    products = [Convolution(runs[0].spectrum, n, threads)(volume) for threads in (1, 1, 2, 4)]
    for product in products[1:]:
        np.testing.assert_array_equal(product, products[0])


@pytest.mark.parametrize("accuracy", ["default", "reference"])
@pytest.mark.parametrize("turn", [[0, 0, 2 * np.pi / 3], [0.3, -0.4, 1.1]])
def test_symmetry_is_the_mean_over_turned_particles(accuracy: str, turn: list[float]) -> None:
    """The group need not be closed for this: the sum is over the given rotations, A -> A g."""
    particles, images = data()
    group = np.stack([np.eye(3), Rotation.from_rotvec(turn).as_matrix()])
    a = Rotation.from_quat(particles.rotation).as_matrix()
    folded = accumulate(particles, images, N, accuracy=accuracy, symmetry=group)
    copies = [
        accumulate(
            replace(particles, rotation=Rotation.from_matrix(a @ g).as_quat()), images, N, accuracy=accuracy
        )
        for g in group
    ]
    assert folded.count == COUNT
    assert folded.energy == pytest.approx(copies[0].energy, rel=1e-6)
    bound = 20 * EPS if accuracy == "default" else 1e-12
    assert relative(folded.rhs, (copies[0].rhs + copies[1].rhs) / 2) < bound
    assert relative(folded.spectrum, (copies[0].spectrum + copies[1].spectrum) / 2) < bound


@pytest.mark.parametrize("n", [6, 7, 8, 9, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolution_is_the_toeplitz_product(n: int, dtype: type) -> None:
    """Any even kernel, not one of ours; n = 20 has several blocks of columns."""
    zero = NormalEquations.zeros(n)
    length = zero.spectrum.shape[0]
    spectrum = np.random.default_rng(n).standard_normal(zero.spectrum.shape)
    kernel = np.fft.irfftn(spectrum, s=(length,) * 3, axes=(0, 1, 2))
    spectrum = np.fft.rfftn(kernel).real  # even: the real part of the spectrum is the even part of the kernel
    even = np.fft.irfftn(spectrum, s=(length,) * 3, axes=(0, 1, 2))
    volume = oracle.noise((n, n, n), n).astype(dtype)
    kept = volume.copy()
    found = Convolution(spectrum.astype(dtype), n, 1)(volume)
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(volume, kept)
    if n < 20:
        expected = oracle.toeplitz(even, n) @ volume.ravel().astype(np.float64)
    else:
        padded = np.zeros((length,) * 3)
        padded[:n, :n, :n] = volume
        expected = np.fft.irfftn(np.fft.rfftn(padded) * spectrum, s=(length,) * 3, axes=(0, 1, 2))[:n, :n, :n]
    # transforms of some 1e5 numbers: a few roundings each
    assert relative(found, expected) < 10 * np.finfo(dtype).eps


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("accuracy", ["default", "reference"])
def test_zero_lag_is_the_diagonal(n: int, accuracy: str) -> None:
    particles, images = data(n)
    equations = accumulate(particles, images, n, accuracy=accuracy)
    assert equations.zero_lag() == pytest.approx(lags(equations)[0, 0, 0], rel=1e-6)


def test_noise_in_rhs_has_the_variance_of_the_zero_lag() -> None:
    """White noise in the images, many particles: the variance of rhs in the middle of the box is r[0]."""
    particles = oracle.plain(600, 4)
    images = oracle.noise((600, 12, 12), 5)
    equations = accumulate(particles, images, 12, accuracy="fast")
    middle = equations.rhs[3:-3, 3:-3, 3:-3].astype(np.float64)
    # 216 voxels, correlated over about 2: some 100 independent ones, so 15 % is one standard deviation
    assert np.mean(middle**2) == pytest.approx(equations.zero_lag(), rel=0.4)


@pytest.mark.parametrize("treatment", ["phase_flipped", "premultiplied"])
@pytest.mark.parametrize(("scale", "ratio"), [(1, 1.0), (2, 1.0), (1, 1.25)])
@pytest.mark.parametrize("accuracy", ["fast", "default"])
def test_treated_images_give_the_sums_of_the_raw_ones(
    accuracy: str, scale: int, ratio: float, treatment: str
) -> None:
    """The CTF's sign, or the CTF, multiplied into the images on a lattice on which nothing is lost."""
    optics = Optics(pixel_size=oracle.PIXEL * ratio, beam_tilt=(2e-3, 0.0))
    particles = oracle.example(3, 1, optics)
    m = scale * N
    j = np.fft.fftfreq(m) * 2 * np.pi
    w = np.stack(np.meshgrid(j, j), axis=-1)
    values = np.stack([oracle.contrast(particles, p, w)[0] for p in range(3)])
    factor = np.sign(values) if treatment == "phase_flipped" else values
    images = oracle.noise((3, m, m), 5)
    expected = accumulate(particles, images, N, scale=scale, accuracy=accuracy)
    images = np.fft.ifft2(np.fft.fft2(images.astype(np.float64)) * factor).real.astype(np.float32)
    treated = replace(particles, optics=(replace(optics, **{treatment: True}),))
    found = accumulate(treated, images, N, scale=scale, accuracy=accuracy)
    assert relative(found.rhs, expected.rhs) < 1e-5  # sines err by 2e-6, twice
    np.testing.assert_array_equal(found.spectrum, expected.spectrum)


@pytest.mark.parametrize("accuracy", ["fast", "default", "accurate"])
@pytest.mark.parametrize("scale", [1, 2])
def test_right_hand_side_and_misfit_at_every_accuracy(accuracy: str, scale: int) -> None:
    """The fast right-hand side uses the images' own lattice: a detector as wide as they are."""
    particles, images = data(N * scale)
    dense = oracle.projected(particles, N, scale=scale, detector=1)
    equations = accumulate(particles, images, N, scale=scale, accuracy=accuracy)
    assert relative(equations.rhs, dense.rhs(images)) < SMALL * SPREADING[accuracy]
    spectrum = np.abs(np.fft.fft2(images.astype(np.float64))) ** 2 / images[0].size
    w = np.fft.fftfreq(N * scale) * scale
    inside = np.hypot(w[:, None], w) < 0.5 - 1e-12
    assert equations.energy == pytest.approx(float((spectrum * inside).sum()), rel=1e-6)
