"""Search over rotations and shifts: scores against projections one by one, and which candidates it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.geometry.rotations import geodesic_distance
from dcryo.geometry.so3 import so3_grid
from dcryo.imaging.particles import Optics
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators import pose_search as module
from dcryo.operators.pose_search import (
    APART,
    ROWS,
    Candidates,
    PoseSearch,
    lattice_samples,
    packed,
    product,
    shift_grid,
)
from dcryo.operators.poses import PoseModel
from dcryo.operators.projector import project, to_lattice
from dcryo.operators.vector import LANES
from dcryo.operators.views import Radial, Views, make_radial, make_views

P = oracle.PIXEL
N = 14
COUNT = 5
GROUPS = (
    Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3), magnification=((1.02, 0.03), (-0.01, 0.97))),
    Optics(pixel_size=1.1 * P, amplitude_contrast=0.2),
)
SPECTRA = (np.linspace(1, 3, N // 2 + 1), np.linspace(2, 0.5, N // 2 + 1))
RATIOS = tuple(P / o.pixel_size for o in GROUPS)
VOLUME = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.2), N)


@dataclass(frozen=True)
class Setting:
    """Images of a phantom in noise, which know nothing of their poses but a first shift."""

    views: Views
    radial: Radial
    images: np.ndarray
    truth: np.ndarray

    @property
    def box(self) -> int:
        return int(self.images.shape[-1])

    def find(
        self, rotations: np.ndarray, radius: float, shifts: np.ndarray, threads: int = 1, **more: Any
    ) -> Candidates:
        search = PoseSearch(PoseModel(VOLUME, "accurate", 1), rotations, radius, 1e-6, threads)
        data = to_lattice(self.images, N)
        return search.find(data, self.views, self.radial, shifts, box=self.box, **more)


def setting(scale: int = 1, count: int = COUNT) -> Setting:
    """Two optics groups: one with aberrations and magnification, one with larger pixels; noise of each."""
    some = oracle.example(count, 5, GROUPS)
    radial = make_radial(oracle.flat, SPECTRA, N, RATIOS)
    clean = project(VOLUME, make_views(some, P, scale), radial, box=N * scale, accuracy="accurate", threads=1)
    images = clean + clean.std() * oracle.noise(clean.shape, 7)
    still = replace(some, rotation=np.tile([0.0, 0, 0, 1], (count, 1)), shift=0.3 * some.shift)
    truth = Rotation.from_quat(some.rotation).as_matrix()
    return Setting(make_views(still, P, scale), radial, images.astype(np.float32), truth)


def root_weights(views: Views, radius: float) -> Any:
    """Roots of what the samples of a lattice count in the cost, the zero frequency nothing."""
    h = (N - 1) // 2
    b, a = np.mgrid[-h : h + 1, : h + 1]
    v = np.stack([a, b], -1) @ views.distortion.transpose(0, 2, 1)[:, None] * 2 * np.pi / N
    s = np.sqrt((v**2).sum(-1))
    noise = [
        np.interp(s[p] / RATIOS[g] * N / (2 * np.pi), np.arange(N // 2 + 1), SPECTRA[g])
        for p, g in enumerate(views.group)
    ]
    counts = (s**2 < views.limit2[:, None, None]) & (a * a + b * b < radius**2) & ((a > 0) | (b > 0))
    return np.sqrt(2 * counts / np.array(noise))


def brute(
    given: Setting, rotations: np.ndarray, radius: float, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """corr (P, R, S) and norm (P, R), from projections one by one."""
    scale = given.box // N
    root = root_weights(given.views, radius)[..., None] / given.box

    def whitened(images: Any) -> Any:
        return (to_lattice(images, N).astype(float) * root).reshape(len(images), -1)

    data = whitened(given.images)
    count = len(data)
    corr = np.empty((count, len(rotations), len(shifts)))
    norm = np.empty(corr.shape)
    for r, rotation in enumerate(rotations):
        for s, shift in enumerate(shifts):
            views = given.views.posed(np.tile(rotation, (count, 1, 1)), np.tile(shift / scale, (count, 1)))
            clean = project(VOLUME, views, given.radial, box=given.box, accuracy="accurate", threads=1)
            corr[:, r, s] = (whitened(clean) * data).sum(1)
            norm[:, r, s] = (whitened(clean) ** 2).sum(1)
    # a shift turns phases alone
    np.testing.assert_allclose(norm, np.broadcast_to(norm[..., :1], norm.shape), rtol=1e-4)
    return corr, norm[..., 0]


# samples err by 1e-5 of the largest one, with the accurate window; sums of some hundred by less of the sum of
# their moduli, which is what norms and correlations are up to
CLOSE = 2e-4


@pytest.mark.parametrize("free", [False, True], ids=["", "free_scale"])
@pytest.mark.parametrize("radius", [4.5, math.inf])
@pytest.mark.parametrize("scale", [1, 2])
def test_scores_are_falls_of_the_data_term(scale: int, radius: float, free: bool) -> None:
    given = setting(scale)
    rotations = Rotation.random(11, rng=3).as_matrix()
    shifts = shift_grid(1.0 * scale, 0.9 * scale)
    radius = min(radius, N)
    corr, norm = brute(given, rotations, radius, shifts)
    # J(0) - J(a c) = a corr - a^2 norm / 2, at a = 1 or at the best a > 0
    falls = np.maximum(corr, 0) ** 2 / (2 * norm[..., None]) if free else corr - norm[..., None] / 2
    scales = np.maximum(corr.max(-1), 0) / norm
    # all rotations are apart by more than this spacing, so that all are returned
    found = given.find(rotations, radius, shifts, count=len(rotations), free_scale=free)
    size = norm.max()
    for p in range(COUNT):
        order = [int(np.argmin(geodesic_distance(rotations, a))) for a in found.rotation[p]]
        assert sorted(order) == list(range(len(rotations)))
        np.testing.assert_array_equal(found.rotation[p], rotations[order])
        assert (np.diff(found.score[p]) <= 0).all()
        best = falls[p].max(-1)[order]
        np.testing.assert_allclose(found.score[p], best, atol=CLOSE * size)
        np.testing.assert_allclose(found.scale[p], scales[p, order], atol=CLOSE * size / norm[p].min())
        # the shift is one of the grid, and none is better
        taken = [np.flatnonzero((shifts == t).all(1)).item() for t in found.shift[p]]
        assert (falls[p][order, taken] >= best - CLOSE * size).all()
    assert falls.std() > 100 * CLOSE * size  # else nothing would have been seen


def test_the_fall_is_that_of_the_term_that_is_fitted() -> None:
    """The other way round: costs of PoseModel, with the zero frequency, which a volume of mean 0 has not."""
    given = setting()
    volume = VOLUME - VOLUME.mean(dtype=np.float64).astype(np.float32)
    model, empty = (PoseModel(v, "accurate", 1) for v in (volume, 0 * volume))
    data = to_lattice(given.images, N)
    search = PoseSearch(model, given.truth, 5.0, 1e-6, 1)
    found = search.find(data, given.views, given.radial, shift_grid(1, 0.5), box=N)
    views = given.views.posed(found.rotation[:, 0], found.shift[:, 0])
    first, after = (m.terms(data, views, given.radial, box=N, radius=5.0).cost for m in (empty, model))
    np.testing.assert_allclose(found.score[:, 0], first - after, rtol=1e-4)


def test_a_pose_of_the_grid_is_found_in_its_image() -> None:
    grid = so3_grid(spacing=0.5)
    moves = shift_grid(2.0, 1.0)
    rng = np.random.default_rng(0)
    some = oracle.example(COUNT, 5, GROUPS)
    size = np.array([GROUPS[g].pixel_size for g in some.optics_group])
    rotations, shifts = rng.integers(len(grid), size=COUNT), rng.integers(len(moves), size=COUNT)
    # a shift of the search is in pixels of the image, whatever their size
    true = replace(
        some, rotation=Rotation.from_matrix(grid[rotations]).as_quat(), shift=moves[shifts] * size[:, None]
    )
    radial = make_radial(oracle.flat, SPECTRA, N, RATIOS)
    images = project(VOLUME, make_views(true, P), radial, box=N, accuracy="accurate", threads=1)
    still = replace(some, rotation=np.tile([0.0, 0, 0, 1], (COUNT, 1)), shift=0 * some.shift)
    search = PoseSearch(PoseModel(VOLUME, "default", 1), grid, 7.0, 0.5, 1)
    for factor in (1.0, 3.0):
        found = search.find(
            to_lattice(factor * images, N),
            make_views(still, P),
            radial,
            moves,
            box=N,
            count=3,
            free_scale=True,
        )
        np.testing.assert_array_equal(found.rotation[:, 0], grid[rotations])
        np.testing.assert_array_equal(found.shift[:, 0], moves[shifts])
        np.testing.assert_allclose(found.scale[:, 0], factor, rtol=1e-3)


def test_candidates_are_the_best_that_are_apart() -> None:
    given = setting()
    grid = so3_grid(spacing=0.6)
    shifts = shift_grid(1, 1)
    every = given.find(grid, 5.0, shifts, count=len(grid))  # best first
    search = PoseSearch(PoseModel(VOLUME, "accurate", 1), grid, 5.0, 0.6, 1)
    found = search.find(to_lattice(given.images, N), given.views, given.radial, shifts, box=N, count=4)
    skipped = 0
    for p in range(COUNT):
        taken: list[int] = []
        for i, rotation in enumerate(every.rotation[p]):
            if len(taken) < 4 and all(
                geodesic_distance(rotation, every.rotation[p, j]) > APART * 0.6 for j in taken
            ):
                taken.append(i)
        skipped += taken[-1] - 3
        for name in ("rotation", "shift", "score", "scale"):
            np.testing.assert_array_equal(getattr(found, name)[p], getattr(every, name)[p, taken])
    assert skipped > 0


def test_the_last_candidate_stands_for_those_that_are_not_there() -> None:
    given = setting()
    near = Rotation.from_rotvec([[0, 0, 0], [0.01, 0, 0], [1.0, 0, 0]]).as_matrix()
    search = PoseSearch(PoseModel(VOLUME, "accurate", 1), near, 5.0, 0.1, 1)
    found = search.find(
        to_lattice(given.images, N), given.views, given.radial, np.zeros((1, 2)), box=N, count=4
    )
    assert (found.score[:, 0] > found.score[:, 1]).all()
    for name in ("rotation", "shift", "score", "scale"):
        values = getattr(found, name)
        np.testing.assert_array_equal(values[:, 2:], values[:, [1, 1]])


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_depend_on_neither_threads_nor_blocks(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = setting(count=70)
    grid, shifts = so3_grid(spacing=0.8), shift_grid(1.5, 0.7)
    one = given.find(grid, 5.0, shifts, count=2)
    many = given.find(grid, 5.0, shifts, threads, count=2)
    monkeypatch.setattr(module, "SCORES", 3 * len(shifts) * len(grid) + 1000)
    small = given.find(grid, 5.0, shifts, threads, count=2)
    alone = replace(given, views=given.views.take(slice(33, 34)), images=given.images[33:34]).find(
        grid, 5.0, shifts, count=2
    )
    for name in ("rotation", "shift", "score", "scale"):
        np.testing.assert_array_equal(getattr(many, name), getattr(one, name))
        np.testing.assert_array_equal(getattr(small, name), getattr(one, name))
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(one, name)[33])


def test_no_particles_have_no_poses() -> None:
    given = setting()
    none = replace(given, views=given.views.take(slice(0, 0)), images=given.images[:0])
    assert none.find(so3_grid(spacing=1.0), 4.0, np.zeros((1, 2)), count=2).rotation.shape == (0, 2, 3, 3)


# --- parts


@pytest.mark.parametrize("rows", [1, ROWS - 1, ROWS, 2 * ROWS + 5])
@pytest.mark.parametrize("length", [1, 2, 37])
@pytest.mark.parametrize("columns", [1, 2 * LANES, 6 * LANES - 3])
def test_product_is_that_of_numpy(rows: int, length: int, columns: int) -> None:
    left = oracle.noise((rows, length), 1)
    right = oracle.noise((length, columns), 2)
    found = product(left, packed(right))
    wanted = left.astype(float) @ right.astype(float)
    assert found.shape == (rows, -(-columns // (2 * LANES)) * 2 * LANES)
    np.testing.assert_array_equal(found[:, columns:], 0)
    # a sum of float32 products, one after the other
    bound = length * np.finfo(np.float32).eps * (abs(left).astype(float) @ abs(right).astype(float))
    assert (abs(found[:, :columns] - wanted) <= bound).all()
    # the same bits in any block, from arrays that lie in memory as they like
    last = product(np.asfortranarray(left)[-1:], packed(np.asfortranarray(right[:, columns // 2 :])))
    np.testing.assert_array_equal(last[0, : columns - columns // 2], found[-1, columns // 2 : columns])


def test_shifts_are_a_grid_in_a_disc() -> None:
    found = {tuple(t) for t in shift_grid(2.0, 1.0).tolist()}
    assert found == {(x, y) for x in range(-2, 3) for y in range(-2, 3) if x * x + y * y <= 4}
    assert len(shift_grid(2.0, 1.0)) == 13
    # three steps of a third reach the end, in spite of rounding
    assert shift_grid(0.3, 0.1).max() == pytest.approx(0.3)
    np.testing.assert_array_equal(shift_grid(0.9, 1.0), [[0, 0]])
    np.testing.assert_array_equal(shift_grid(0.0, 1.0), [[0, 0]])


@pytest.mark.parametrize(("n", "radius"), [(8, 3.0), (9, 3.5), (8, 100.0)])
def test_samples_are_one_of_each_pair(n: int, radius: float) -> None:
    a, b = lattice_samples(n, radius)
    found = set(zip(a.tolist(), b.tolist(), strict=True))
    h = (n - 1) // 2
    disc = {(x, y) for x in range(-h, h + 1) for y in range(-h, h + 1) if 0 < x * x + y * y < radius**2}
    mirrored = {(-x, -y) for x, y in found}
    assert found | mirrored == disc
    assert not found & mirrored
    assert len(a) == len(found)
