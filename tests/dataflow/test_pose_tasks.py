"""A pass over the images: every half against its own reference, all rows in place, sums of the new poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.dataflow import pose_tasks as module
from dcryo.dataflow.accumulate import (
    Fold,
    Handle,
    SliceTask,
    accumulate_slice,
    assign_halves,
    get_equations,
    run_plan,
)
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import SerialExecutor, Task
from dcryo.dataflow.plan import Plan, make_merges, make_slices
from dcryo.dataflow.pose_tasks import (
    PosePass,
    PoseTask,
    gather_poses,
    in_asymmetric_unit,
    poses_key,
    refine_slice,
)
from dcryo.dataflow.pose_update import PoseRule, SearchRule
from dcryo.errors import InputError
from dcryo.geometry.rotations import geodesic_distance
from dcryo.geometry.so3 import so3_grid
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import Cloud, gaussian_cloud, project_gaussians, rasterise
from dcryo.io import particle_writer
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, create_run
from dcryo.methods.progress import Silent
from dcryo.metrics.pose import geodesic_distance_modulo, to_asymmetric_unit
from dcryo.metrics.rigid import Registration
from dcryo.operators.pose_search import PoseSearch

BOX, PIXEL, COUNT = 16, 2.0, 45
QUIET = Silent()
CLOUD = gaussian_cloud(seed=2, count=20, radius=0.28 * BOX, width=1.3)
FIT = PoseRule(7.5, 8)


def silent(key: str) -> Silent:
    return QUIET


def carried(cloud: Cloud, frame: Registration) -> Cloud:
    """The cloud m whose registration to ``cloud`` is ``frame``: f(r) = m(G (r - x))."""
    return replace(cloud, centers=(cloud.centers - frame.translation) @ frame.rotation.T)


def table(**more: Any) -> Particles:
    """Random views in two half sets of 24 and 21, the rows of the user's table shuffled."""
    rng = np.random.default_rng(3)
    given: dict[str, Any] = {
        "rotation": Rotation.random(COUNT, rng=rng).as_quat(),
        "shift": rng.uniform(-1, 1, (COUNT, 2)) * PIXEL,
        "defocus": np.array([6000.0, 5500.0, 0.3]) + rng.uniform(0, 900, (COUNT, 1)) * [1, 1, 0],
        "half": np.repeat(np.array([1, 2], np.int8), [24, 21]),
        "row": rng.permutation(COUNT),
        "optics": (Optics(pixel_size=PIXEL),),
    }
    return Particles.empty_columns(COUNT, **(given | more))


def pictures(particles: Particles, cloud: Cloud) -> np.ndarray:
    """Clean images by another projector than that which is fitted, of deviation 100."""
    rotation = Rotation.from_quat(particles.rotation).as_matrix()
    images = project_gaussians(cloud, rotation, particles.shift / PIXEL, BOX)
    centred = replace(particles, shift=0 * particles.shift)
    seen = np.fft.rfft2(images) * ctf_image(centred, PIXEL, BOX)
    return (100 * np.fft.irfft2(seen, s=(BOX, BOX))).astype(np.float32)


def write(path: Path, particles: Particles, cloud: Cloud = CLOUD) -> ParticleStore:
    """A store in small chunks, seven rows each; its own poses are the true ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(particle_writer, "layout", lambda count, box, itemsize: (7, 14))
        with create_particles(path, particles, BOX, PIXEL, provenance={}) as writer:
            writer.append(pictures(particles, cloud))
    return open_particles(path)


def nudged(particles: Particles, turn: float = 0.06) -> dict[str, np.ndarray]:
    """Poses a little beside those of ``particles``."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((len(particles), 3))
    vectors *= turn / np.linalg.norm(vectors, axis=1)[:, None]
    rotation = Rotation.from_quat(particles.rotation) * Rotation.from_rotvec(vectors)
    return {
        "rotation": rotation.as_quat(),
        "shift": particles.shift + rng.uniform(-0.2, 0.2, (len(particles), 2)) * PIXEL,
    }


class Setting:
    """A store, a run with poses to begin with, references of both halves, and a plan."""

    def __init__(
        self, folder: Path, particles: Particles | None = None, *, cloud: Cloud = CLOUD,
        halves: str = "auto", size: int = 14, references: tuple[Cloud, Cloud] | None = None,
        begin: dict[str, np.ndarray] | None = None, symmetry: str = "C1",
    ) -> None:  # fmt: skip
        self.particles = table() if particles is None else particles
        self.store = write(folder / "p.zarr", self.particles, cloud)
        self.run: RunStore = create_run(folder / "run.zarr", "refine", {"halves": halves})
        self.begin = nudged(self.particles) if begin is None else begin
        self.run.write_poses(0, self.begin)
        self.states = str(folder / "states")
        first, second = references or (cloud, cloud)
        maps = {f"half{h}": 100 * rasterise(c, BOX) for h, c in ((1, first), (2, second))}
        Commits(self.states).put("start", maps)
        self.fold = Fold(
            particles=self.store.url, commits=str(folder / "sums"), n=BOX, scale=1.0, batch=8, halves=halves,
            symmetry=symmetry, noise="auto", basis="voxel", accuracy="accurate", threads=1,
            poses=f"{self.run.url}@0",
        )  # fmt: skip
        slices = make_slices(assign_halves(self.store, halves), size, self.store.chunk, self.store.shard)
        merges, roots = make_merges(slices)
        self.plan = Plan(
            box=BOX, n=BOX, batch=8, slices=slices, merges=merges, roots=roots,
            task_memory=0, solve_memory=0, disk=0, read_bytes=0,
        )  # fmt: skip

    def of(self, rule: PoseRule | None = FIT, **more: Any) -> PosePass:
        return PosePass(self.fold, rule, self.states, "start", **more)

    def passed(self, of: PosePass, iteration: int = 1) -> dict[str, np.ndarray]:
        """All slices, and the poses that the run has then."""
        run_plan(
            self.plan, of.fold, SerialExecutor(), silent, None,
            lambda part: Task(part.key, refine_slice, PoseTask(of, part)),
        )  # fmt: skip
        gather_poses(self.run, iteration, self.plan, of, {"cutoff": 7.5})
        return self.run.poses(iteration)

    @property
    def truth(self) -> np.ndarray:
        return np.asarray(Rotation.from_quat(self.particles.rotation).as_matrix())


def matrices(poses: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(Rotation.from_quat(poses["rotation"]).as_matrix())


# fits of clean images of another projector, of Gaussians that the box cuts off at 1e-3
NEAR_TURN, NEAR_MOVE = 5e-3, 0.02


@pytest.mark.parametrize("window", [7, 10_000])
@pytest.mark.parametrize("halves", ["auto", "even-odd"])
def test_every_row_gets_its_own_pose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, halves: str, window: int
) -> None:
    """Slices of both halves interleaved, and windows that begin and end inside of them."""
    monkeypatch.setattr(module, "ROWS", window)
    setting = Setting(tmp_path, halves=halves)
    assert len(setting.plan.slices) >= 4
    if halves == "even-odd":
        assert (
            setting.plan.slices[0].stop > setting.plan.slices[-1].start
            or len({s.half for s in setting.plan.slices if s.start < 14}) == 2
        )
    found = setting.passed(setting.of())
    assert geodesic_distance(matrices(found), setting.truth).max() < NEAR_TURN
    assert abs(found["shift"] - setting.particles.shift).max() < NEAR_MOVE * PIXEL
    turned = geodesic_distance(matrices(found), matrices(setting.begin))
    np.testing.assert_allclose(found["turn"], turned, atol=1e-6)
    assert not found["lost"].any()
    assert (found["sigma_rotation"] > 0).all()
    assert (found["sigma_shift"] > 0).all()
    record = setting.run.pose_record(1)
    assert record["count"] == COUNT
    assert record["attributes"] == {"cutoff": 7.5}
    # poses that are there are kept, whatever comes then
    gather_poses(setting.run, 1, setting.plan, setting.of(), {})
    assert setting.run.pose_record(1) == record


def test_sums_are_those_of_the_new_poses(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.passed(setting.of())
    again = replace(setting.fold, commits=str(tmp_path / "again"), poses=f"{setting.run.url}@1")
    run_plan(
        setting.plan, again, SerialExecutor(), silent, None,
        lambda part: Task(part.key, accumulate_slice, SliceTask(again, part)),
    )  # fmt: skip
    for root in setting.plan.roots.values():
        one, other = (get_equations(Commits(f.commits), root) for f in (setting.fold, again))
        np.testing.assert_array_equal(one.rhs, other.rhs)
        np.testing.assert_array_equal(one.spectrum, other.spectrum)
        assert (one.energy, one.count) == (other.energy, other.count)


@pytest.mark.parametrize("scale", [1.0, 16 / 14])
def test_every_half_has_its_reference_and_its_frame(tmp_path: Path, scale: float) -> None:
    """Half 2's reference is turned and moved: so are its poses, until the frame takes them back."""
    frame = Registration(
        Rotation.from_rotvec([0.05, -0.08, 0.02]).as_matrix(), np.array([0.4, -0.2, 0.3]), 1.0
    )
    setting = Setting(tmp_path, references=(CLOUD, carried(CLOUD, frame)))
    setting.fold = replace(setting.fold, n=round(BOX / scale), scale=scale)
    true, second = setting.truth, setting.particles.half == 2
    bare = setting.passed(setting.of(replace(FIT, cutoff=6.0)))
    near = {True: NEAR_TURN, False: 2 * NEAR_TURN}[scale == 1]
    assert geodesic_distance(matrices(bare), true)[~second].max() < near
    # A' = A G and t' = t - A'[:2] x, read backwards
    own = true @ frame.rotation.T
    assert geodesic_distance(matrices(bare), own)[second].max() < near
    moved = setting.particles.shift + true[:, :2] @ frame.translation * PIXEL
    assert abs(bare["shift"] - moved)[second].max() < 3 * NEAR_MOVE * PIXEL
    # the frame is in voxels of this iteration's maps
    coarse = replace(frame, translation=frame.translation / scale)
    setting.fold = replace(setting.fold, commits=str(tmp_path / "framed"))
    found = setting.passed(setting.of(replace(FIT, cutoff=6.0), frames=((2, coarse),)), 2)
    assert geodesic_distance(matrices(found), true).max() < near
    assert abs(found["shift"] - setting.particles.shift).max() < 3 * NEAR_MOVE * PIXEL
    for name in ("rotation", "shift", "cost", "turn"):
        np.testing.assert_array_equal(found[name][~second], bare[name][~second])


def test_poses_are_found_from_nothing(tmp_path: Path) -> None:
    nothing = {"rotation": np.full((COUNT, 4), np.nan), "shift": np.full((COUNT, 2), np.nan)}
    setting = Setting(tmp_path, begin=nothing)
    rule = replace(FIT, search=SearchRule(0.35, 6.0, 2.0, 0.8, 4))
    found = setting.passed(setting.of(rule))
    turns = geodesic_distance(matrices(found), setting.truth)
    # all but few, whose four candidates lie about a view from behind: a mirror image, but for the details
    assert np.mean(turns < NEAR_TURN) > 0.9
    assert np.isnan(found["turn"]).all()


def test_shifts_are_in_angstrom_whatever_the_pixels(tmp_path: Path) -> None:
    """A group whose pixels are said to be larger sees its specimen as larger, and shifts as longer."""
    optics = (Optics(pixel_size=PIXEL, ctf=False), Optics(pixel_size=1.1 * PIXEL, ctf=False))
    group = np.arange(COUNT) % 2
    large = group == 1
    particles = table(optics=optics, optics_group=group)
    # images of the second group: the specimen of 1 / 1.1 the size, in pixels
    small = replace(CLOUD, centers=CLOUD.centers / 1.1, width=CLOUD.width / 1.1)
    shown = replace(particles, optics=(optics[0],), optics_group=np.zeros_like(group))
    shift = shown.shift.copy()
    shift[large] /= 1.1
    images = np.where(
        large[:, None, None],
        pictures(replace(shown, shift=shift), small) / 1.1**2,
        pictures(shown, CLOUD),
    )
    setting = Setting(tmp_path, particles)
    with create_particles(
        tmp_path / "p.zarr", particles, BOX, PIXEL, provenance={}, overwrite=True
    ) as writer:
        writer.append(images.astype(np.float32))
    found = setting.passed(setting.of())
    assert geodesic_distance(matrices(found), setting.truth).max() < 2 * NEAR_TURN
    assert abs(found["shift"] - particles.shift).max() < 2 * NEAR_MOVE * PIXEL
    # nor does a fit without steps move anything
    setting.fold = replace(setting.fold, commits=str(tmp_path / "still"))
    still = setting.passed(setting.of(replace(FIT, steps=0)), 2)
    np.testing.assert_allclose(still["shift"], setting.begin["shift"], rtol=1e-12)


def test_later_searches_leave_settled_particles_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(tmp_path, halves="even-odd")
    turn = np.linspace(0, 0.5, COUNT).astype(np.float32)
    setting.run.write_poses(1, setting.begin | {"turn": turn, "lost": (turn > 0.4).astype(np.uint8)})
    setting.fold = replace(setting.fold, poses=f"{setting.run.url}@1")
    asked: list[int] = []
    find = PoseSearch.find

    def counted(self: PoseSearch, data: np.ndarray, views: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(len(views))
        return find(self, data, views, *arguments, **more)

    monkeypatch.setattr(PoseSearch, "find", counted)
    rule = replace(FIT, search=SearchRule(0.5, 5.0, 1.0, 1.0, 1, settled=0.25))
    found = setting.passed(setting.of(rule), 2)
    assert sum(asked) == (turn >= 0.25).sum()
    # those that were left out are the ones that turn by their nudge, and no more
    assert found["turn"][turn < 0.25].max() < 0.08


@pytest.mark.parametrize("strength", ["strong", "weak"])
def test_images_may_be_folded_over_their_posterior(tmp_path: Path, strength: str) -> None:
    """As at the best pose where that is certain; else another sum, of the same images."""
    setting = Setting(tmp_path)
    if strength == "weak":
        with create_particles(
            tmp_path / "p.zarr", setting.particles, BOX, PIXEL, provenance={}, overwrite=True
        ) as writer:
            writer.append(pictures(setting.particles, CLOUD))
            writer.set_noise(np.full((1, BOX // 2 + 1), 1e5))
    hard = setting.fold
    poses = setting.passed(setting.of())
    setting.fold = replace(hard, commits=str(tmp_path / "soft"))
    soft = setting.passed(setting.of(replace(FIT, soft=True)), 2)
    for name, values in poses.items():
        np.testing.assert_array_equal(soft[name], values)
    assert (poses["sigma_rotation"].max() < 0.01) == (strength == "strong")
    for root in setting.plan.roots.values():
        one, other = (get_equations(Commits(f.commits), root) for f in (hard, setting.fold))
        assert one.count == other.count
        assert other.energy == pytest.approx(one.energy, rel=1e-5)
        # a turn by sigma moves a sum by its square, where the two ends of the posterior cancel; the spectrum
        # is made of planes, and it is in voxels that they turn: 0.01 rad at a distance of 8
        for name, bound in (("rhs", 1e-4), ("spectrum", 0.02)):
            first, second = getattr(one, name), getattr(other, name)
            change = np.linalg.norm(first - second) / np.linalg.norm(first)
            assert change < bound if strength == "strong" else change > 0.05


# --- symmetry


def test_poses_are_modulo_the_symmetry(tmp_path: Path) -> None:
    group = point_group("D2")
    centers = np.concatenate([CLOUD.centers @ g.T for g in group])
    mass, width = np.tile(CLOUD.mass, 4) / 4, np.tile(CLOUD.width, 4)
    cloud = replace(CLOUD, centers=centers, mass=mass, width=width, kind=np.tile(CLOUD.kind, 4))
    particles = table()
    begin = nudged(particles)
    # every pose begins beside one of its equivalents
    others = group[np.arange(COUNT) % 4]
    begin["rotation"] = Rotation.from_matrix(matrices(begin) @ others).as_quat()
    setting = Setting(tmp_path, particles, cloud=cloud, begin=begin, symmetry="D2")
    found = setting.passed(setting.of())
    assert geodesic_distance_modulo(matrices(found), setting.truth, group).max() < 2 * NEAR_TURN
    np.testing.assert_allclose(matrices(found), to_asymmetric_unit(matrices(found), group), atol=1e-9)
    # to the unit and no farther: a jump to an equivalent is no turn
    assert found["turn"].max() < 0.08


@pytest.mark.parametrize("name", ["C1", "C3", "D2", "O"])
def test_the_unit_holds_one_of_each_set_of_equivalents(name: str) -> None:
    group = point_group(name)
    grid = so3_grid(spacing=0.4)
    unit = in_asymmetric_unit(grid, group)
    # a share of the volume; the surface has the cells of a grid on it
    assert len(unit) == pytest.approx(len(grid) / len(group), rel=0.1)
    for rotation in unit[:: max(1, len(unit) // 50)]:
        angles = geodesic_distance(rotation @ group, np.eye(3))
        assert angles[0] <= angles.min() + 1e-9
    # no view is farther from one of them than from the grid
    for rotation in Rotation.random(20, rng=np.random.default_rng(1)).as_matrix():
        assert min(geodesic_distance(rotation @ g, unit).min() for g in group) < 0.4


# --- poses as they are


def test_without_a_rule_poses_are_copied_and_folded(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    found = setting.passed(setting.of(None))
    np.testing.assert_array_equal(found["rotation"], setting.begin["rotation"])
    np.testing.assert_array_equal(found["shift"], setting.begin["shift"])
    np.testing.assert_array_equal(found["turn"], 0)
    np.testing.assert_array_equal(found["lost"], 0)
    for name in ("cost", "sigma_rotation", "sigma_shift"):
        assert np.isnan(found[name]).all()


def test_without_a_rule_every_particle_needs_a_pose(tmp_path: Path) -> None:
    particles = table()
    begin = nudged(particles)
    begin["rotation"][30] = np.nan
    setting = Setting(tmp_path, particles, begin=begin)
    with pytest.raises(InputError, match=f"particle {particles.row[30] + 1} .* has no pose"):
        setting.passed(setting.of(None))


# --- again


def test_a_slice_that_is_committed_is_not_read_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    task = PoseTask(setting.of(), setting.plan.slices[1])
    first = refine_slice(task, QUIET)
    assert first.bytes_read > 0
    assert first.count == task.slice.count
    again = refine_slice(task, QUIET)
    assert again == Handle(task.slice.key, task.slice.count, 0.0, 0, True, again.peak_rss)


def test_poses_are_there_before_their_sum_and_stay_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(tmp_path)
    task = PoseTask(setting.of(), setting.plan.slices[0])
    commits = Commits(setting.fold.commits)

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "put_equations", die)
        with pytest.raises(KeyboardInterrupt):
            refine_slice(task, QUIET)
    assert commits.keys() == [poses_key(task.slice.key)]
    before = commits.get(poses_key(task.slice.key))[0]
    assert not refine_slice(task, QUIET).resumed
    after = commits.get(poses_key(task.slice.key))[0]
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
    fresh = replace(setting.fold, commits=str(tmp_path / "fresh"))
    refine_slice(PoseTask(replace(setting.of(), fold=fresh), task.slice), QUIET)
    one, other = (get_equations(c, task.slice.key) for c in (commits, Commits(fresh.commits)))
    np.testing.assert_array_equal(one.rhs, other.rhs)
    np.testing.assert_array_equal(one.spectrum, other.spectrum)


@pytest.mark.parametrize("change", [{"threads": 3}, {"size": 7}], ids=["threads", "slices"])
def test_poses_depend_on_neither_threads_nor_slices(tmp_path: Path, change: dict[str, int]) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    one, other = Setting(folders[0]), Setting(folders[1], size=change.get("size", 14))
    other.fold = replace(other.fold, threads=change.get("threads", 1))
    found, again = one.passed(one.of()), other.passed(other.of())
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
