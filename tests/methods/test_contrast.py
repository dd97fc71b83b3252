"""The sign of matter, on images whose sign is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.particles import Optics, Particles
from dcryo.methods.contrast import SIGNIFICANT, measure_contrast

N, COUNT, PIXEL = 48, 40, 3.0


def blobs(defocus: float, optics: Optics, noise: float) -> tuple[np.ndarray, Particles]:
    """A bright blob per image, seen through its CTF, in noise of the given deviation."""
    x = np.arange(N) - N // 2
    blob = np.exp(-(x**2 + x[:, None] ** 2) / (2 * 5.0**2))
    particles = Particles.empty_columns(
        COUNT,
        defocus=np.tile([defocus, defocus, 0.0], (COUNT, 1)),
        shift=np.full((COUNT, 2), 9.0),
        optics=(optics,),
    )
    transfer = ctf_image(
        Particles.empty_columns(1, defocus=particles.defocus[:1], optics=(optics,)), PIXEL, N
    )[0]
    image = np.fft.irfft2(np.fft.rfft2(blob) * transfer, s=(N, N))
    rng = np.random.default_rng(0)
    return image + rng.normal(0, noise, (COUNT, N, N)), particles


@pytest.mark.parametrize("defocus", [60000.0, -60000.0])  # overfocus turns all but the lowest frequencies
def test_sign_of_matter(defocus: float) -> None:
    images, particles = blobs(defocus, Optics(pixel_size=PIXEL), 0.3)
    assert measure_contrast(images, particles, PIXEL).z > SIGNIFICANT
    assert measure_contrast(-images, particles, PIXEL).z < -SIGNIFICANT


def test_flipping_is_what_finds_it() -> None:
    images, particles = blobs(-60000.0, Optics(pixel_size=PIXEL), 0.3)
    raw = Particles.empty_columns(COUNT, optics=(Optics(pixel_size=PIXEL, ctf=False),))
    assert measure_contrast(images, raw, PIXEL).z < 0 < measure_contrast(images, particles, PIXEL).z


def test_flipped_images_are_not_flipped_again() -> None:
    images, particles = blobs(-60000.0, Optics(pixel_size=PIXEL), 0.3)
    sign = np.sign(
        ctf_image(
            Particles.empty_columns(1, defocus=particles.defocus[:1], optics=particles.optics), PIXEL, N
        ).real
    )
    flipped = np.fft.irfft2(np.fft.rfft2(images) * sign, s=(N, N))
    done = Particles.empty_columns(
        COUNT, defocus=particles.defocus, optics=(Optics(pixel_size=PIXEL, phase_flipped=True),)
    )
    assert measure_contrast(flipped, done, PIXEL).z == pytest.approx(
        measure_contrast(images, particles, PIXEL).z
    )


def test_noise_says_nothing() -> None:
    images = np.random.default_rng(1).standard_normal((COUNT, N, N))
    particles = Particles.empty_columns(COUNT, optics=(Optics(ctf=False),))
    assert abs(measure_contrast(images, particles, 1.0).z) < 4  # one chance in 16,000
    assert measure_contrast(images[:2], particles.take(slice(2)), 1.0).z == 0


def test_real_images(shared_data) -> None:
    from dcryo.io.star import read_particles_star

    table = read_particles_star(shared_data / "particles" / "small_real" / "sample_particles_relion31.star")
    images = table.stacks[0].read(table.particles.source[:, 1])
    assert measure_contrast(images, table.particles, table.pixel_size).z > SIGNIFICANT
