"""The operators on a GPU, against the CPU's and against what they mean: kernel by kernel, then together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from equations import SMALL, SPREADING, relative
from gpu.backend import SIMULATED, need_a_device
from scipy.spatial.transform import Rotation
from spreading import slices, spread

from dcryo.arrays import on_device, to_device, to_host
from dcryo.errors import InputError
from dcryo.imaging.particles import Optics, Particles
from dcryo.operators.gradient import dual_sweep, primal_sweep, total_variation
from dcryo.operators.kernel import PlaneKernel, padded_length
from dcryo.operators.normal import Accumulator, Convolution, NormalEquations
from dcryo.operators.projector import backproject, modulate_views, project
from dcryo.operators.slices import HalfGrid
from dcryo.operators.transfer import ADJOINT, FORWARD
from dcryo.operators.views import Radial, Views, make_radial, make_views
from dcryo.operators.window import window

need_a_device()

pytestmark = pytest.mark.gpu

P = oracle.PIXEL

AGREE = 1e-5
"""Relative difference of CPU and GPU: float32 sums of a few hundred terms, added in another order."""

ABERRATED = Optics(
    pixel_size=P,
    beam_tilt=(2e-3, -1e-3),
    odd_zernike=(0.3, -0.2, 0.5, 0.1, -0.4, 0.2),
    even_zernike=(0.1, 0.2, -0.3, 0.2, 0.1, 0.3, -0.2, 0.1, 0.2),
    magnification=((1.02, 0.03), (-0.02, 0.98)),
)

OPTICS = {
    "no CTF": (Optics(pixel_size=P, ctf=False),),
    "aberrated": (ABERRATED,),
    "flipped": (replace(ABERRATED, phase_flipped=True),),
    "premultiplied": (replace(ABERRATED, premultiplied=True),),
    "two groups": (Optics(pixel_size=P), replace(ABERRATED, pixel_size=1.25 * P, premultiplied=True)),
}
"""Everything a transfer function may have; particles differ in defocus, shift, B factor and scale."""


def cuda(array: Any) -> Any:
    """A copy on the device."""
    return to_device(array.copy(), "cuda")


def setting(n: int, optics: tuple[Optics, ...], count: int = 4) -> tuple[Particles, Views, Radial]:
    """Particles, their views, and tables with a basis function and coloured noise."""
    particles = oracle.example(count, n, optics)
    spectra = [np.linspace(1, 3, n // 2 + 1)] * len(optics)
    ratios = [P / o.pixel_size for o in optics]
    radial = make_radial(oracle.Window(2.0, 10.8).fourier, spectra, n, ratios)
    return particles, make_views(particles, P), radial


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("n", [7, 8])
def test_insertion(n: int, accuracy: str) -> None:
    geometry = HalfGrid(n, window(accuracy))
    values, rows, radius2 = slices(geometry, 3, n)
    grid = to_device(np.ones(geometry.shape), "cuda")  # it is added to
    geometry.insert(grid, to_device(values, "cuda"), rows, radius2)
    expected = np.ones(geometry.shape)
    geometry.insert(expected, values, rows, radius2, 1)
    assert relative(to_host(grid), expected) < AGREE
    formula = spread(geometry, values, rows, radius2)
    # as tests/operators/test_slices.py has it
    assert np.abs((to_host(grid) - 1).view(complex) - formula).max() < 3e-5 * np.abs(formula).max()


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("n", [7, 8])
def test_extraction(n: int, accuracy: str) -> None:
    """As on the CPU, and the transpose of the insertion."""
    geometry = HalfGrid(n, window(accuracy))
    values, rows, radius2 = slices(geometry, 3, n + 1)
    grid = oracle.noise(geometry.shape, 5)
    found, expected = to_device(np.zeros_like(values), "cuda"), np.zeros_like(values)
    geometry.extract(to_device(grid, "cuda"), found, rows, radius2)
    geometry.extract(grid, expected, rows, radius2, 1)
    assert relative(to_host(found), expected) < AGREE
    inserted = to_device(np.zeros(geometry.shape), "cuda")
    geometry.insert(inserted, to_device(values, "cuda"), rows, radius2)
    difference = np.sum(to_host(inserted) * grid) - np.sum(to_host(found).astype(float) * values)
    assert abs(difference) < 1e-6 * np.linalg.norm(expected) * np.linalg.norm(values)


def test_samples_beyond_the_grid_are_left_out() -> None:
    """A magnified lattice may end beyond the band limit, where nothing counts: no other memory is touched."""
    geometry = HalfGrid(7, window("default"))
    values, rows, radius2 = slices(geometry, 3, 7)
    grid = to_device(np.zeros(geometry.shape), "cuda")
    geometry.insert(grid, to_device(values, "cuda"), rows * 50, radius2)
    at_zero = values.copy()
    at_zero[:, :, 1:] = 0
    at_zero[:, :3], at_zero[:, 4:] = 0, 0
    expected = np.zeros(geometry.shape)
    geometry.insert(expected, at_zero, rows, radius2, 1)
    assert relative(to_host(grid), expected) < AGREE


@pytest.mark.parametrize("direction", [FORWARD, ADJOINT])
@pytest.mark.parametrize("name", OPTICS)
def test_modulation(name: str, direction: int) -> None:
    n = 8
    _, views, radial = setting(n, OPTICS[name])
    h = (n - 1) // 2
    expected = oracle.noise((4, 2 * h + 1, h + 1, 2), 3)
    found = cuda(expected)
    arguments = (views, radial.rhs, radial.energy, n, 3.75, direction)
    energy = modulate_views(found, *arguments)
    reference = modulate_views(expected, *arguments)
    assert relative(to_host(found), expected) < AGREE
    if direction == ADJOINT:
        assert energy == pytest.approx(reference, rel=AGREE)
        assert energy > 0


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("name", OPTICS)
def test_plane_kernel(name: str, accuracy: str) -> None:
    n = 6
    _, views, radial = setting(n, OPTICS[name])
    group = Rotation.from_rotvec([[0, 0, 0], [0.3, -0.4, 1.1]]).as_matrix()
    found, expected = PlaneKernel(n, window(accuracy), "cuda"), PlaneKernel(n, window(accuracy))
    for planes in (found, expected):
        planes.add(views, radial, group)
    assert relative(to_host(found.spectrum()), expected.spectrum()) < AGREE


@pytest.mark.parametrize("beam", [(0, 0, 1), (1, 1, 1), (1, -1, 0)])
def test_plane_kernel_is_the_sum_over_the_sheared_lattice(beam: tuple[int, ...]) -> None:
    """Beams along an axis, a body diagonal and a face diagonal, with samples right on the band limit."""
    n = 5
    e3 = np.array(beam) / np.linalg.norm(beam)
    e1 = np.cross(e3, [0.6, 0.8, 0.0] if beam[2] else [0.0, 0.0, 1.0])
    e1 /= np.linalg.norm(e1)
    rotation = Rotation.from_matrix([[e1, np.cross(e3, e1), e3]]).as_quat()
    particles = replace(oracle.plain(1, 4), rotation=rotation)
    radial = make_radial(oracle.flat, [np.ones(n // 2 + 1)], n, [1.0])
    planes = PlaneKernel(n, window("accurate"), "cuda")
    planes.add(make_views(particles, P), radial)
    spectrum = to_host(planes.spectrum()).astype(np.float64)
    lags = np.fft.irfftn(spectrum, s=(len(spectrum),) * 3, axes=(0, 1, 2))
    expected = oracle.sheared_kernel(particles, n, padded_length(n))
    bound = SMALL * SPREADING["accurate"] / 3  # spread along one axis of three
    assert relative(oracle.toeplitz(lags, n), oracle.toeplitz(expected, n)) < bound


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize(("n", "scale"), [(7, 1), (8, 1), (4, 2)])
def test_pair_is_the_dense_matrix(n: int, scale: int, accuracy: str) -> None:
    optics = Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3))
    particles = oracle.example(3, n, optics)
    views = make_views(particles, P, scale)
    radial = make_radial(oracle.flat, [np.ones(n // 2 + 1)], n, [1.0])
    box = n * scale
    volume, images = oracle.noise((n, n, n), 1), oracle.noise((3, box, box), 2)
    dense = oracle.projected(particles, n, scale=scale, detector=1)
    forward = project(to_device(volume, "cuda"), views, radial, box=box, accuracy=accuracy)
    backward = backproject(to_device(images, "cuda"), views, radial, n, accuracy=accuracy)
    assert on_device(forward, backward)
    forward, backward = to_host(forward), to_host(backward)
    bound = SMALL * SPREADING[accuracy]
    assert relative(forward, dense.apply(volume)) < bound
    assert relative(backward, dense.rhs(images)) < bound
    assert relative(forward, project(volume, views, radial, box=box, accuracy=accuracy, threads=1)) < AGREE
    assert relative(backward, backproject(images, views, radial, n, accuracy=accuracy, threads=1)) < AGREE
    difference = np.sum(forward.astype(float) * images) - np.sum(backward.astype(float) * volume)
    assert abs(difference) < 1e-6 * np.linalg.norm(forward) * np.linalg.norm(images)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["two groups", "premultiplied"])
def test_accumulated_batches(name: str, symmetric: bool) -> None:
    n = 6
    particles, _, radial = setting(n, OPTICS[name])
    group = Rotation.from_rotvec([[0, 0, 0], [0, 0, np.pi]]).as_matrix() if symmetric else None
    images = oracle.noise((4, n + 1, n + 1), 6)
    views = make_views(particles, P, (n + 1) / n)
    sums = {}
    for device in ("cpu", "cuda"):
        accumulator = Accumulator(n, radial, symmetry=group, threads=1, device=device)
        for rows in (slice(0, 3), slice(3, 4)):
            accumulator.add(to_device(images[rows], device), views.take(rows))
        sums[device] = accumulator.finish()
    found, expected = sums["cuda"], sums["cpu"]
    assert on_device(found.rhs)
    assert on_device(found.spectrum)
    assert found.zero_lag() == pytest.approx(expected.zero_lag(), rel=AGREE)
    double = (found + found).to("cpu")
    assert not on_device(double.rhs, double.spectrum)
    assert relative(double.rhs, 2 * expected.rhs) < AGREE
    assert relative(double.spectrum, 2 * expected.spectrum) < AGREE
    assert double.energy == pytest.approx(2 * expected.energy, rel=AGREE)
    assert double.count == 8


def test_reference_sums_are_not_for_the_device() -> None:
    _, _, radial = setting(5, OPTICS["no CTF"])
    with pytest.raises(InputError, match="reference is not for the device cuda"):
        Accumulator(5, radial, accuracy="reference", device="cuda")


@pytest.mark.parametrize("n", [5, 8])
def test_convolution(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spectrum = oracle.noise(NormalEquations.zeros(n).spectrum.shape, 1)
    monkeypatch.setattr(Convolution, "DEVICE_NUMBERS", 3 * len(spectrum) ** 2)  # several blocks
    volume = oracle.noise((n, n, n), 2)
    found = Convolution(to_device(spectrum, "cuda"), n)(to_device(volume, "cuda"))
    assert on_device(found)
    # transforms of a few thousand numbers in float32
    assert relative(to_host(found), Convolution(spectrum, n, 1)(volume)) < 1e-6


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("shape", [(5, 5, 5), (6, 4, 3)])
def test_total_variation_sweeps(shape: tuple[int, ...], isotropic: bool) -> None:
    x, z = oracle.noise(shape, 1), oracle.noise(shape, 2)
    ahead, dual = oracle.noise((3, *shape), 3), oracle.noise((3, *shape), 4)
    results = []
    for device in ("cpu", "cuda"):
        arrays = [to_device(a.copy(), device) for a in (x, z, ahead, dual, np.empty_like(z))]
        there = arrays[0], *arrays[2:4]
        value = total_variation(arrays[0], 1, isotropic)
        dual_sweep(*there, 0.3, 0.6, 1, isotropic)
        primal_sweep(arrays[1], arrays[3], arrays[4], 0.7, True, 1)
        results.append((value, *(to_host(a) for a in arrays[2:])))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for expected, found in zip(results[0][1:], results[1][1:], strict=True):
        assert relative(found, expected) < 1e-6  # a dozen operations in float32, no sums


@pytest.mark.skipif(SIMULATED, reason="too large for the simulator")
@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize("name", OPTICS)
def test_larger_boxes(name: str, accuracy: str) -> None:
    """Many blocks of threads, slabs and columns."""
    n, count = 41, 70
    _, views, radial = setting(n, OPTICS[name], count)
    images, volume = oracle.noise((count, n, n), 1), oracle.noise((n, n, n), 2)
    results = []
    for device in ("cpu", "cuda"):
        accumulator = Accumulator(n, radial, accuracy=accuracy, device=device)
        accumulator.add(to_device(images, device), views)
        sums = accumulator.finish()
        there = to_device(volume, device)
        projections = project(there, views, radial, box=n, accuracy=accuracy)
        product = Convolution(sums.spectrum, n)(there)
        results.append([to_host(a) for a in (sums.rhs, sums.spectrum, projections, product)])
    for expected, found in zip(*results, strict=True):
        assert relative(found, expected) < AGREE
