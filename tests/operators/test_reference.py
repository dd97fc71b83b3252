"""Direct sums against the dense matrix: the acceptance of the mathematics, to rounding.

Boxes even and odd, scales 1 and 2, all optics: rhs, kernel and HᵀHc agree to 1e-10.  Kaiser-Bessel
functions sampled in real space agree with their band-limited version to what theory says is lost.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
from equations import accumulate, lags, relative
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics
from dcryo.operators.normal import Convolution, NormalEquations
from dcryo.operators.reference import DETECTOR

P = oracle.PIXEL
ROUNDING = 1e-10
"""What float64 sums of some 1e5 terms must reach."""


def assert_agrees(equations: NormalEquations, dense: oracle.Dense, images: np.ndarray, seed: int) -> None:
    n = dense.n
    normal = dense.normal()
    volume = oracle.noise((n, n, n), seed).astype(np.float64)
    assert relative(equations.rhs, dense.rhs(images)) < ROUNDING
    assert relative(oracle.toeplitz(lags(equations), n), normal) < ROUNDING
    convolution = Convolution(equations.spectrum, n, 1)
    assert relative(convolution(volume), normal @ volume.ravel()) < ROUNDING


@pytest.mark.parametrize(("n", "scale"), [(6, 1), (7, 1), (11, 1), (12, 1), (6, 2), (7, 2), (8, 2)])
def test_dense_matrix_with_ctf_and_shifts(n: int, scale: int) -> None:
    count = 3 if n < 11 else 1
    particles = oracle.example(count, n)
    images = oracle.noise((count, scale * n, scale * n), n + 1)
    dense = oracle.projected(particles, n, scale=scale, detector=DETECTOR)
    equations = accumulate(particles, images, n, scale=scale)
    assert_agrees(equations, dense, images, n + 2)
    assert equations.count == count


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.2])
def test_dense_matrix_with_two_optics_groups(n: int, ratio: float) -> None:
    """Groups with their own pixel size, magnification matrix, Cs and beam tilt are views of one volume."""
    groups = (
        Optics(pixel_size=P, beam_tilt=(2e-3, 1e-3)),
        Optics(
            pixel_size=ratio * P, name="second", cs=1.2e7, voltage=200, beam_tilt=(-1e-3, 2e-3),
            magnification=((1.02, 0.03), (-0.01, 0.97)),
        ),
    )  # fmt: skip
    particles = oracle.example(4, 7, groups)
    images = oracle.noise((4, n, n), 8)
    assert_agrees(accumulate(particles, images, n), oracle.projected(particles, n), images, 9)


@pytest.mark.parametrize("name", ["C3", "D2"])
def test_symmetry_averages_over_the_group(name: str) -> None:
    """Group elements by hand: turns about z, and for D2 half turns about x too."""
    turns = Rotation.from_rotvec(
        [[0, 0, 2 * math.pi * k / int(name[1])] for k in range(int(name[1]))]
    ).as_matrix()
    group = turns if name[0] == "C" else np.concatenate([turns, turns @ np.diag([1.0, -1.0, -1.0])])
    particles = oracle.example(2, 3)
    images = oracle.noise((2, 7, 7), 4)
    equations = accumulate(particles, images, 7, symmetry=group)
    a = Rotation.from_quat(particles.rotation).as_matrix()
    copies = [
        oracle.projected(replace(particles, rotation=Rotation.from_matrix(a @ g).as_quat()), 7) for g in group
    ]
    assert relative(equations.rhs, np.mean([d.rhs(images) for d in copies], axis=0)) < ROUNDING
    normal = np.mean([d.normal() for d in copies], axis=0)
    assert relative(oracle.toeplitz(lags(equations), 7), normal) < ROUNDING


def test_symmetric_sums_are_symmetric() -> None:
    """A quarter turn takes the voxels of an odd box to each other; C4 makes it change nothing."""
    turns = Rotation.from_rotvec([[0, 0, math.pi / 2 * k] for k in range(4)]).as_matrix()
    equations = accumulate(oracle.example(2, 3), oracle.noise((2, 7, 7), 4), 7, symmetry=turns)
    assert relative(np.rot90(equations.rhs, axes=(1, 2)), equations.rhs) < ROUNDING


def test_noise_weights_whiten_both_sides() -> None:
    n = 8
    spectra = [np.full(n // 2 + 1, 2.0), 1 + 0.4 * np.arange(n // 2 + 1)]
    groups = (Optics(pixel_size=P), Optics(pixel_size=1.2 * P, name="second"))
    particles = oracle.example(4, 5, groups)
    images = oracle.noise((4, n, n), 6)

    def whiten(group: int, v: np.ndarray) -> np.ndarray:
        shell = v * (1.2 if group else 1.0) * n / (2 * math.pi)
        return 1 / np.sqrt(np.interp(shell, np.arange(n // 2 + 1), spectra[group]))

    weighted = oracle.projected(particles, n, filters=lambda g, v: whiten(g, v) ** 2)
    half = oracle.projected(particles, n, filters=whiten)
    equations = accumulate(particles, images, n, spectra=spectra)
    # tables of 4096 float32 numbers with linear interpolation: kinks at the shells, some 1e-6
    assert relative(equations.rhs, weighted.rhs(images)) < 5e-6
    assert relative(oracle.toeplitz(lags(equations), n), half.normal()) < 5e-6


@pytest.mark.parametrize("scale", [1, 2])
def test_basis_function_multiplies_both_sides(scale: int) -> None:
    """Once in the right-hand side, twice in the kernel."""
    basis = oracle.Window(2.0, 10.8).fourier
    particles = oracle.example(3, 5)
    images = oracle.noise((3, 7 * scale, 7 * scale), 6)
    dense = oracle.projected(particles, 7, scale=scale, basis=basis)
    assert_agrees(accumulate(particles, images, 7, scale=scale, basis=basis), dense, images, 7)


def test_energy_is_that_of_the_images_inside_the_band() -> None:
    """Images made by H on the whole detector have no energy outside of it; one small enough fits an image."""
    n = 8
    particles = oracle.plain(2, 5)
    images = oracle.noise((2, n, n), 6)
    equations = accumulate(particles, images, n)
    spectrum = np.abs(np.fft.fft2(images.astype(np.float64), s=(2 * n, 2 * n))) ** 2 / (2 * n) ** 2
    w = np.fft.fftfreq(2 * n)
    inside = np.hypot(w[:, None], w) < 0.5 - 1e-12
    assert equations.energy == pytest.approx(float((spectrum * inside).sum()), rel=1e-12)


@pytest.mark.parametrize("scale", [1, 2])
def test_phase_flipped_images(scale: int) -> None:
    particles = oracle.example(3, 1, Optics(pixel_size=P, phase_flipped=True, beam_tilt=(2e-3, 0.0)))
    images = oracle.noise((3, 6 * scale, 6 * scale), 2)
    dense = oracle.projected(particles, 6, scale=scale, treated="flipped")
    assert_agrees(accumulate(particles, images, 6, scale=scale), dense, images, 3)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("ratio", [1.0, 1.25])
def test_premultiplied_images(scale: int, ratio: float) -> None:
    """The CTF is in the images already: backprojection leaves it out, the kernel does not."""
    particles = oracle.example(3, 1, Optics(pixel_size=P * ratio, premultiplied=True, beam_tilt=(2e-3, 0.0)))
    images = oracle.noise((3, 6 * scale, 6 * scale), 2)
    equations = accumulate(particles, images, 6, scale=scale)
    backward = oracle.projected(particles, 6, scale=scale, treated="backward")
    assert relative(equations.rhs, backward.rhs(images)) < ROUNDING
    normal = oracle.projected(particles, 6, scale=scale).normal()
    assert relative(oracle.toeplitz(lags(equations), 6), normal) < ROUNDING


# Relative error of the convolution against HᵀH of functions sampled in real space, for white c (the
# worst case) and, without PSF, for a smooth one.  The PSF is a Gaussian of half a pixel.
TABLE = [
    # radius, alpha, scale, blurred, white, smooth
    (2.0, 10.8, 1, False, 0.115, 8e-3),
    (2.0, 10.8, 1, True, 6.5e-3, None),
    (2.0, 10.8, 2, False, 1e-5, None),
    (2.0, 10.8, 2, True, 5e-7, None),
    (4.0, 19.0, 1, False, 7e-4, 2.4e-5),
    (4.0, 19.0, 1, True, 8e-5, None),
    (4.0, 19.0, 2, False, 1e-9, None),
    (4.0, 19.0, 2, True, 3e-11, None),
]


@pytest.mark.parametrize(("radius", "alpha", "scale", "blurred", "white", "smooth"), TABLE)
def test_sampled_kaiser_bessel_functions(
    radius: float, alpha: float, scale: int, blurred: bool, white: float, smooth: float | None
) -> None:
    """At scale 2 the functions are wide ones on fine voxels; every other lag is the coarse kernel."""
    n = 10 if scale == 1 else 6
    particles = oracle.plain(3, 5)
    wide = oracle.Window(radius * scale, alpha)
    sigma = 0.5
    profile = (lambda r: wide.blurred(r, sigma)) if blurred else wide.projection
    matrix = oracle.sampled(particles, n, scale, 3, profile)
    if blurred:  # a CTF that is 1 with an envelope exp(-B f^2 / 4), the transform of the Gaussian
        particles = replace(
            particles,
            optics=(Optics(pixel_size=P, cs=0, amplitude_contrast=1.0),),
            defocus=np.zeros((3, 3)),
            phase_shift=np.zeros(3),
            bfactor=np.full(3, 8 * (math.pi * sigma * P) ** 2),
        )
    # at scale 2 a box with room for the wide functions: on a detector of twice 20 pixels no lag meets another
    fine = n if scale == 1 else 20
    equations = accumulate(particles, np.zeros((3, fine, fine), np.float32), fine, basis=wide.fourier)
    kernel = lags(equations)[::scale, ::scale, ::scale]
    convolution, normal = oracle.toeplitz(kernel, n), matrix.T @ matrix
    c = oracle.noise((n**3,), 3).astype(np.float64)
    error = relative(convolution @ c, normal @ c)
    # where next to nothing is lost, the oracle's own quadrature and interpolation count: 2e-10
    assert white / 2 < error + 2e-10
    assert error < 2 * white + 2e-10
    if smooth is not None:
        c = oracle.blob(n).ravel().astype(np.float64)
        assert relative(convolution @ c, normal @ c) < 2 * smooth
