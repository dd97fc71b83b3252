"""The two transforms between a padded half grid and a half-transformed volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from array_api_strict import asarray

from dcryo.operators import grid_transform
from dcryo.operators.grid_transform import fill_margins, fold_margins, from_half, positions, to_half

# G/2 is one group of columns, has one that overlaps, or is several groups
SIZES = [(9, 32), (24, 36), (30, 60), (40, 64)]
PAD = 4


def noise(shape: tuple[int, ...], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def cells(size: int) -> tuple[Any, Any, Any]:
    """Frequencies (z, y, x) of the cells of a padded grid."""
    side = np.arange(size + 2 * PAD) - size // 2 - PAD
    return side[:, None, None], side[:, None], np.arange(size // 2 + 1 + 2 * PAD) - PAD


def filled(size: int) -> Any:
    """A grid with noise where samples of the band can fall, and their margins."""
    z, y, x = cells(size)
    touched = (x * x + y * y + z * z <= (size / 2 + PAD - 1) ** 2) & (abs(x - size // 4) < size // 4 + PAD)
    return np.ascontiguousarray(noise(touched.shape, 1) * touched)


def spectrum(grid: Any, size: int) -> Any:
    """All G^3 frequencies that a half grid stands for: each cell adds itself and its mirror image."""
    full = np.zeros((size, size, size), complex)
    z, y, x = (np.broadcast_to(c, grid.shape) for c in cells(size))
    np.add.at(full, (z % size, y % size, x % size), grid)
    np.add.at(full, (-z % size, -y % size, -x % size), grid.conj())
    return full


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("n", "size"), SIZES)
def test_backward_transform(n: int, size: int, dtype: Any) -> None:
    grid = filled(size)
    at = positions(n, size)
    full = spectrum(grid, size)[:, :, : size // 2 + 1]
    wanted = np.fft.ifft2(full, axes=(0, 1), norm="forward")[at][:, at]
    given = np.ascontiguousarray(grid.view(np.float64), dtype)
    found = to_half(given, n, size, PAD, threads=2)
    # the planes x = 0 and G/2 are those of real functions
    assert not found[:, :, [0, -1]].imag.any()
    # float32: 2^-24 for each of log2 G^2 stages
    assert np.linalg.norm(found - wanted) < 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_forward_transform(n: int, size: int) -> None:
    half = np.fft.rfft(noise((n, n, size), 2).real, axis=2)
    at = positions(n, size)
    padded = np.zeros((size, size, size // 2 + 1), complex)
    padded[np.ix_(at, at)] = half
    full = np.fft.fft2(padded, axes=(0, 1))
    z, y, x = np.broadcast_arrays(*cells(size))
    inside = (x >= 0) & (x <= size // 2)
    wanted = np.where(inside, full[z % size, y % size, np.clip(x, 0, size // 2)], 0)
    # what is not stored is the mirror image of what is
    left, right = x < 0, x > size // 2
    wanted[left] = full[-z[left] % size, -y[left] % size, -x[left]].conj()
    wanted[right] = full[-z[right] % size, -y[right] % size, size - x[right]].conj()
    found = from_half(half.astype(np.complex64), size, PAD, threads=2).view(np.complex64)
    reach = x * x + y * y + z * z <= (size / 2 + PAD - 1) ** 2
    assert np.linalg.norm((found - wanted)[reach]) < 1e-6 * np.linalg.norm(wanted[reach])


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_a_gpu_gets_the_same_from_its_library(n: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device computes by array operations is what the kernels compute."""
    grid = filled(size).view(np.float64)
    half = np.fft.rfft(noise((n, n, size), 2).real, axis=2).astype(np.complex64)
    there, back = to_half(grid.copy(), n, size, PAD), from_half(half.copy(), size, PAD)
    monkeypatch.setattr(grid_transform, "on_device", lambda array: True)
    np.testing.assert_allclose(to_half(grid.copy(), n, size, PAD), there, atol=2e-6 * abs(there).max())
    z, y, x = cells(size)
    # the kernels leave out planes that no sample reaches
    reach = (x * x + y * y + z * z <= (size / 2 + PAD - 1) ** 2).repeat(2, axis=2)
    device = from_half(half.copy(), size, PAD)
    np.testing.assert_allclose(device[reach], back[reach], atol=2e-6 * abs(back).max())


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    grid = filled(64).view(np.float64)
    half = noise((40, 40, 33), 2).astype(np.complex64)
    one, many = to_half(grid.copy(), 40, 64, PAD, 1), to_half(grid.copy(), 40, 64, PAD, threads)
    np.testing.assert_array_equal(many, one)
    one, many = from_half(half.copy(), 64, PAD, 1), from_half(half.copy(), 64, PAD, threads)
    np.testing.assert_array_equal(many, one)


@pytest.mark.parametrize(("size", "pad"), [(8, 3), (12, 4)])
def test_margins_use_nothing_but_the_array_api_standard(size: int, pad: int) -> None:
    """So they run on whatever follows the standard; and folding is the transpose of filling."""
    side, last = size + 2 * pad, size // 2 + 1
    grid = noise((side, side, last + 2 * pad), 1)
    grid[:, :, -1] = 0  # no window reaches so far
    for work in (fold_margins, fill_margins):
        here, there = grid.copy(), asarray(grid.copy())
        work(here, size, pad)
        work(there, size, pad)
        np.testing.assert_array_equal(np.asarray(there), here)
    folded, full = grid.copy(), np.zeros_like(grid)
    fold_margins(folded, size, pad)
    inside = np.s_[pad : size + pad, pad : size + pad, pad : pad + last]
    values = np.fft.fftshift(np.fft.rfftn(np.random.default_rng(9).standard_normal((size,) * 3)), axes=(0, 1))
    full[inside] = values
    fill_margins(full, size, pad)
    # folding adds the conjugate mirror image; columns 0 and G/2 hold theirs, the others stand for two
    twice = np.full(last, 2.0)
    twice[[0, -1]] = 1
    left = np.sum(twice * (folded[inside].conj() * values).real)
    right = 2 * np.sum((grid.conj() * full).real)
    assert abs(left - right) < 1e-12 * np.linalg.norm(grid) * np.linalg.norm(full)
