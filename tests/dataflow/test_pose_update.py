"""New poses of a batch: found from nothing in clean images, kept where they are better, or lost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.dataflow.pose_update import (
    Batch,
    NewPoses,
    PoseRule,
    SearchRule,
    is_settled,
    update_poses,
    update_unsettled,
)
from dcryo.geometry.rotations import geodesic_distance
from dcryo.geometry.so3 import so3_grid
from dcryo.imaging.particles import Optics
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.pose_search import PoseSearch
from dcryo.operators.poses import PoseModel
from dcryo.operators.projection_matching import MatchingGrid
from dcryo.operators.projector import project, to_lattice
from dcryo.operators.views import make_radial, make_views
from dcryo.solvers.pose_fit import uncertainty

P = oracle.PIXEL
N = 16
COUNT = 8
OPTICS = (
    Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3)),
    Optics(pixel_size=1.05 * P, magnification=((1.01, 0.02), (0.0, 0.98))),
)
VOLUME = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.2), N)
SEARCH = SearchRule(spacing=0.35, radius=6.0, distance=2.0, step=0.8, count=4)


@dataclass(frozen=True)
class Given:
    """A batch without poses, and the true ones: rotations, and shifts in image pixels."""

    batch: Batch
    rotation: np.ndarray
    shift: np.ndarray

    def with_poses(self, rotation: np.ndarray, shift: np.ndarray) -> Batch:
        return replace(self.batch, rotation=rotation, shift=shift)

    def off(self, new: NewPoses) -> tuple[np.ndarray, np.ndarray]:
        return geodesic_distance(new.rotation, self.rotation), np.abs(new.shift - self.shift).max(1)


def images(noise: float, scale: int = 1, signal: float = 100.0) -> Given:
    """Projections whose noise has the deviation ``noise``; signal of that of ``signal`` where there is any.

    ``scale`` times as many pixels as the volume has.
    """
    some = oracle.example(COUNT, 5, OPTICS)
    size = np.array([OPTICS[g].pixel_size for g in some.optics_group])
    radial = make_radial(oracle.flat, [np.ones(N // 2 + 1)] * 2, N, [P / o.pixel_size for o in OPTICS])
    box = N * scale
    clean = project(VOLUME, make_views(some, P, scale), radial, box=box, accuracy="accurate", threads=1)
    strength = signal / clean.std()
    pictures = (strength * clean + noise * oracle.noise(clean.shape, 7)).astype(np.float32)
    still = replace(
        some, rotation=np.tile([0.0, 0, 0, 1], (COUNT, 1)), shift=0 * some.shift, scale=some.scale * strength
    )
    batch = Batch(
        to_lattice(pictures, N), make_views(still, P, scale), radial, box,
        np.full((COUNT, 3, 3), np.nan), np.full((COUNT, 2), np.nan),
    )  # fmt: skip
    return Given(batch, Rotation.from_quat(some.rotation).as_matrix(), some.shift / size[:, None])


def updated(batch: Batch, rule: PoseRule, volume: np.ndarray = VOLUME) -> NewPoses:
    model = PoseModel(volume, "accurate", 1)
    search = None
    if rule.search is not None:
        grid = so3_grid(spacing=rule.search.spacing)
        search = PoseSearch(model, grid, rule.search.radius, rule.search.spacing, 1)
    return update_poses(model, search, batch, rule)


def nudged(given: Given, turn: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((COUNT, 3))
    vectors *= turn / np.linalg.norm(vectors, axis=1)[:, None]
    moves = rng.standard_normal((COUNT, 2))
    moves *= distance / np.linalg.norm(moves, axis=1)[:, None]
    return given.rotation @ Rotation.from_rotvec(vectors).as_matrix(), given.shift + moves


@pytest.mark.parametrize("scale", [1, 2])
def test_clean_images_are_given_their_poses_from_nothing(scale: int) -> None:
    given = images(0.0, scale)
    rule = replace(SEARCH, distance=2.0 * scale, step=0.8 * scale)
    new = updated(given.batch, PoseRule(7.5, 10, search=rule))
    turns, moves = given.off(new)
    # the slopes of the window err by 4e-5; a cycle over a radian is what the finest detail turns by
    assert turns.max() < 1e-3
    assert moves.max() < 2e-3 * scale
    assert not new.lost.any()


@pytest.mark.parametrize("searched", [True, False], ids=["search", "known"])
@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_scale_of_a_volume_does_not_matter_where_it_is_free(factor: float, searched: bool) -> None:
    """Poses, uncertainties and costs are those of the volume that fits."""
    given = images(100.0)
    batch = given.batch if searched else given.with_poses(*nudged(given, 0.1, 0.3))
    rule = PoseRule(6.0, 4, search=SEARCH if searched else None, free_scale=True)
    one, other = (updated(batch, rule, f * VOLUME) for f in (np.float32(1), np.float32(factor)))
    # float32 numbers of other sizes are rounded elsewhere; fits magnify that by the inverse of a damping
    np.testing.assert_allclose(other.rotation, one.rotation, atol=1e-3)
    np.testing.assert_allclose(other.shift, one.shift, atol=1e-3)
    np.testing.assert_allclose(other.cost, one.cost, rtol=1e-4)
    np.testing.assert_allclose(other.sigma_rotation, one.sigma_rotation, rtol=1e-2)
    # which a volume that is known is held against
    bound = updated(batch, replace(rule, free_scale=False), np.float32(factor) * VOLUME)
    assert (abs(bound.cost / one.cost - 1) > 0.05).any()


def test_known_poses_are_candidates_and_the_best_one_wins() -> None:
    given = images(1.0)
    rotation, shift = nudged(given, 0.1, 0.3)
    # two are right but for a little, two are wrong, the others are not known
    rotation[[2, 5]] = rotation[[5, 2]]
    rotation[4:] = np.where(np.arange(4, COUNT)[:, None, None] == 5, rotation[4:], np.nan)
    shift[4:] = np.where(np.arange(4, COUNT)[:, None] == 5, shift[4:], np.nan)
    # a grid that is too coarse, and a single candidate from it
    coarse = PoseRule(7.5, 8, search=replace(SEARCH, spacing=1.0, count=1))
    new = updated(given.with_poses(rotation, shift), coarse)
    bare = updated(given.batch, coarse)
    turns, moves = given.off(new)
    assert turns[[0, 1, 3]].max() < 0.02
    assert moves[[0, 1, 3]].max() < 0.1
    without = given.off(bare)[0]
    assert without[[0, 1, 3]].max() > 0.2  # where the grid alone fails
    # wrong poses do no harm: where the grid finds the right one, that is taken (fits end within 1e-4)
    assert (new.cost <= bare.cost + 1e-3).all()
    assert without[5] < 0.02
    assert turns[5] < 0.02
    # who has no pose gets what it would get alone
    for p in (4, 6, 7):
        np.testing.assert_array_equal(new.rotation[p], bare.rotation[p])
        np.testing.assert_array_equal(new.shift[p], bare.shift[p])
        assert new.cost[p] == bare.cost[p]


def test_settled_particles_are_fitted_and_not_searched() -> None:
    given = images(1.0)
    batch = given.with_poses(*nudged(given, 0.1, 0.3))
    before = {
        "turn": np.array([0.01, 0.5, 0.01, np.nan, 0.2, 0.0, 0.3, 0.1]),
        "lost": np.array([0, 0, 1, 0, 0, 0, 0, 0]),
    }
    rule = PoseRule(7.5, 2, search=replace(SEARCH, settled=0.2))
    assert rule.search is not None
    settled = is_settled(before, rule.search)
    assert settled.tolist() == [True, False, False, False, False, True, False, True]
    model = PoseModel(VOLUME, "accurate", 1)
    search = PoseSearch(model, so3_grid(spacing=0.35), 6.0, 0.35, 1)
    found = update_unsettled(model, search, batch, rule, settled)
    fitted, searched = (update_poses(model, s, batch, rule) for s in (None, search))
    for name in NewPoses.__dataclass_fields__:
        values = getattr(found, name)
        np.testing.assert_array_equal(values[settled], getattr(fitted, name)[settled])
        np.testing.assert_array_equal(values[~settled], getattr(searched, name)[~settled])
    assert not np.array_equal(fitted.rotation, searched.rotation)


def test_shifts_are_searched_around_the_known_ones() -> None:
    """Images that are off by far more than the search reaches, of particles that know where, and no more."""
    given = images(0.0)
    far = np.tile([5.0, -4.0], (COUNT, 1))
    batch = replace(given.batch, views=given.batch.views.posed(given.batch.views.rotation, -far))
    batch = replace(batch, shift=np.rint(given.shift) + far)
    rule = PoseRule(7.5, 10, search=replace(SEARCH, distance=0.9, step=0.8))
    new = updated(batch, rule)
    turns, moves = given.off(replace(new, shift=new.shift - far))
    assert turns.max() < 1e-3
    assert moves.max() < 2e-3


@pytest.mark.parametrize("update", ["lm", "gradient", "matching"])
def test_every_update_goes_on_from_the_poses(update: str) -> None:
    given = images(0.0)
    batch = given.with_poses(*nudged(given, 0.1, 0.3))
    grid = MatchingGrid(0.06, 0.2) if update == "matching" else None
    new = updated(batch, PoseRule(7.5, 6, update, matching=grid))
    before = updated(batch, PoseRule(7.5, 0))
    turns, moves = given.off(new)
    assert (new.cost < before.cost).all()
    # Levenberg-Marquardt is there, gradient descent is on its way, matching is as near as its grid
    assert np.median(turns) < {"lm": 1e-4, "gradient": 0.05, "matching": 0.06}[update]
    assert np.median(moves) < {"lm": 1e-3, "gradient": 0.15, "matching": 0.2}[update]
    assert np.median(given.off(before)[0]) == pytest.approx(0.1)


def test_cost_and_uncertainty_are_those_at_the_pose() -> None:
    given = images(10.0)
    new = updated(given.batch, PoseRule(6.0, 4, search=SEARCH))
    model = PoseModel(VOLUME, "accurate", 1)
    views = given.batch.views.posed(new.rotation, new.shift)
    terms = model.terms(given.batch.data, views, given.batch.radial, box=N, radius=6.0)
    np.testing.assert_allclose(new.cost, terms.cost, rtol=1e-6)
    turns, moves = uncertainty(terms.normal)
    np.testing.assert_allclose(new.sigma_rotation, turns, rtol=1e-6)
    np.testing.assert_allclose(new.sigma_shift, moves, rtol=1e-6)


def test_particles_of_noise_are_lost() -> None:
    given = images(1.0, signal=0.05)
    new = updated(given.batch, PoseRule(7.5, 5, search=SEARCH))
    assert new.lost.all()
    assert np.isfinite(new.rotation).all()
    seen = images(1.0, signal=3.0)
    assert not updated(seen.batch, PoseRule(7.5, 5, search=SEARCH)).lost.any()


def test_what_no_image_can_tell_is_bounded() -> None:
    given = images(1.0)
    new = updated(given.with_poses(given.rotation, given.shift), PoseRule(7.5, 3), 0 * VOLUME)
    assert new.lost.all()
    np.testing.assert_array_equal(new.sigma_rotation, np.pi)
    np.testing.assert_array_equal(new.sigma_shift, N)
    np.testing.assert_array_equal(new.rotation, given.rotation)


def test_what_the_images_leave_open_stays_where_it_was() -> None:
    given = images(1.0)
    rotation, shift = nudged(given, 0.1, 0.3)
    new = updated(given.with_poses(rotation, shift), PoseRule(6.0, 4), np.zeros_like(VOLUME))
    assert new.lost.all()
    np.testing.assert_array_equal(new.rotation, rotation)
    np.testing.assert_array_equal(new.shift, shift)
