"""Particles in, map out: the same bits however it was run, and curves that claim no more than is there."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcryo
from dcryo.dataflow.executor import Listen, SerialExecutor, Task
from dcryo.errors import InputError, PlanError
from dcryo.imaging.particles import Optics
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, open_run
from dcryo.methods.reconstruct import ReconstructConfig, plan, reconstruct
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.metrics.fsc import fsc_curve, mean_fsc, soft_ball

BOX, PIXEL, COUNT = 32, 3.0, 400
NOISY = SimulateConfig(box=BOX, pixel_size=PIXEL, particles=COUNT, snr=0.3, seed=1)
QUICK = ReconstructConfig(weight=0.7, nonnegative=True, slice_size=50)
"""No search for the weight; four slices a half set."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    return simulate(str(tmp_path_factory.mktemp("reconstruct") / "particles.zarr"), NOISY)


@pytest.fixture(scope="module")
def bare(store: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """The run that the bare defaults make."""
    return reconstruct(store.url, str(tmp_path_factory.mktemp("bare") / "run.zarr"), threads=1)


@pytest.fixture(scope="module")
def quick(store: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return reconstruct(store.url, str(tmp_path_factory.mktemp("quick") / "run.zarr"), QUICK, threads=1)


def volume(run: RunStore, name: str) -> np.ndarray:
    return np.asarray(run.volume(name)[0])


def assert_same_bits(a: RunStore, b: RunStore) -> None:
    assert a.volumes() == b.volumes() != []
    for name in a.volumes():
        np.testing.assert_array_equal(volume(a, name), volume(b, name), err_msg=name)
    assert a.tables() == b.tables()
    for name in a.tables():
        one, two = a.table(name), b.table(name)
        assert one.keys() == two.keys()
        for column in one:
            np.testing.assert_array_equal(one[column], two[column], err_msg=f"{name}.{column}")


def independent_voxels(n: int) -> np.ndarray:
    """Independent Fourier voxels in each shell of a map that is confined to the ball of the solver.

    A shell has 4 pi k^2 of them; noise times a window w keeps (sum w^2)^2 / (n^3 sum w^4) of its freedom.
    """
    window = soft_ball(n, n / 2 - 5, 3) * soft_ball(n, 0.4 * n, 5)
    share = (window**2).sum() ** 2 / (n**3 * (window**4).sum())
    return np.asarray(4 * np.pi * np.maximum(np.arange(n // 2 + 1), 0.5) ** 2 * share)


# --- the map and what is said of it


def test_half_maps_predict_how_far_the_linear_map_is_from_the_truth(bare: RunStore) -> None:
    table = bare.table("fsc")
    half = table["corrected"]
    # Signal to noise of all data is twice that of a half: FSC with the truth sqrt(2 f / (1 + f))
    # (Rosenthal & Henderson 2003).
    predicted = np.sqrt(2 * half / (1 + half))
    known = half > 0.3
    assert known.sum() >= 8
    # f is known to (1 - f^2) / sqrt(voxels), and the slope of the formula is about 1 there.
    error = 3 * (1 - half**2) / np.sqrt(independent_voxels(BOX))
    assert np.all(np.abs(table["truth_linear"] - predicted)[known] <= np.maximum(error, 0.01)[known])


def test_prior_brings_the_map_nearer_to_the_truth(bare: RunStore) -> None:
    table = bare.table("fsc")
    # Nowhere further than the linear map, but for the difference of two nearly equal numbers,
    assert np.all(table["truth"] > table["truth_linear"] - 0.02)
    # and on the mean by what the prior is there for: 500 particles, .22 over no prior on 64 pixels; here .1.
    assert mean_fsc(table["truth"]) > mean_fsc(table["truth_linear"]) + 0.05


def test_result_is_read_off_the_curves(bare: RunStore) -> None:
    table, result = bare.table("fsc"), bare.attributes["result"]
    np.testing.assert_array_equal(table["shell"], np.arange(BOX // 2 + 1))
    np.testing.assert_allclose(table["frequency"], np.arange(BOX // 2 + 1) / (BOX * PIXEL))
    for key, threshold, curve in (
        ("resolution_0143_A", 0.143, "corrected"),
        ("resolution_05_A", 0.5, "corrected"),
        ("truth_resolution_05_A", 0.5, "truth"),
    ):
        below = int(np.argmax(table[curve] < threshold))
        assert BOX * PIXEL / below <= result[key] <= BOX * PIXEL / (below - 1)
    assert result["mean_fsc"] == pytest.approx(np.mean(table["corrected"][1:]))
    assert result["truth_mean_fsc"] == pytest.approx(np.mean(table["truth"][1:]))


def test_regularised_halves_are_not_the_headline(bare: RunStore) -> None:
    table = bare.table("fsc")
    mask = soft_ball(BOX, 0.4 * BOX, 5)
    np.testing.assert_allclose(
        table["regularised"], fsc_curve(volume(bare, "half1") * mask, volume(bare, "half2") * mask)
    )
    np.testing.assert_allclose(table["unmasked"], fsc_curve(volume(bare, "linear1"), volume(bare, "linear2")))
    assert bare.attributes["result"]["mean_fsc"] < mean_fsc(table["regularised"])


def test_run_holds_what_the_report_needs(bare: RunStore, store: ParticleStore) -> None:
    assert bare.complete
    assert bare.volumes() == ["full", "half1", "half2", "linear", "linear1", "linear2"]
    assert bare.tables() == ["fsc", "history", "poses", "weights"]
    for name in bare.volumes():
        array, pixel_size = bare.volume(name)
        assert array.shape == (BOX,) * 3
        assert array.dtype == np.float32
        assert pixel_size == PIXEL
    attributes = bare.attributes
    assert attributes["config"]["particles"] == store.url
    assert attributes["timings"].keys() == {"accumulate", "solve", "measure", "total"}
    assert attributes["plan"]["digest"] == plan(store.url, ReconstructConfig()).digest
    assert attributes["result"]["peak_rss"] > 2**20
    poses = bare.table("poses")
    assert poses["counts"].sum() == COUNT
    assert poses["counts"].shape == (len(poses["tilt"]) - 1, len(poses["rot"]) - 1)
    history = bare.table("history")
    assert set(history["solve"]) == {0, 1, 2}
    assert bare.table_attributes("history")["solves"] == ["full", "half1", "half2"]
    for solve in range(3):
        objective = history["objective"][history["solve"] == solve]
        assert len(objective) > 3
        if solve == 0:
            fall = objective[0] - objective[-1]
            assert fall > 0
        else:  # from the maps of the search on, whose objective two dual steps know to some tolerances
            assert objective[-1] < objective[0] + 10 * 1e-4 * fall


def test_auto_picks_the_trial_with_the_smallest_cross_validation(bare: RunStore) -> None:
    table, result = bare.table("weights"), bare.attributes["result"]
    bound = table["nonnegative"] == 1
    weights, misfits = table["weight"][bound], table["cross_validation"][bound]
    assert result["weight"] == weights[np.argmin(misfits)]
    # A valley was found: weights on both sides of it predict the other half worse.
    assert weights.min() < result["weight"] < weights.max()
    # The constraint was tried, and is given up only for what predicts better.
    (free,) = table["cross_validation"][~bound]
    assert result["nonnegative"] or free < misfits.min()


def test_weight_of_cross_validation_is_a_good_one(
    bare: RunStore, store: ParticleStore, tmp_path: Path
) -> None:
    found = bare.attributes["result"]["truth_mean_fsc"]
    best = max(
        reconstruct(
            store.url,
            str(tmp_path / f"{weight}.zarr"),
            ReconstructConfig(weight=weight, nonnegative=True, halves="none"),
            threads=1,
        ).attributes["result"]["truth_mean_fsc"]
        for weight in (0.1, 0.3, 1.0, 3.0, 10.0)
    )
    assert found >= 0.97 * best


def randomised(store: ParticleStore, out: Path, last: int, seed: int) -> ParticleStore:
    """The same particles with images whose phases are random beyond the shell ``last``, amplitudes kept."""
    images = store.images(0, store.count)
    n = store.box
    radius = np.rint(np.hypot(np.fft.fftfreq(n, 1 / n)[:, None], np.arange(n // 2 + 1)))
    spectrum = np.fft.rfft2(images)
    noise = np.fft.rfft2(np.random.default_rng(seed).standard_normal(images.shape))
    spectrum = np.where(radius > last, np.abs(spectrum) * noise / np.abs(noise), spectrum)
    with create_particles(out, store.particles(), n, store.pixel_size, provenance={}) as writer:
        writer.append(np.fft.irfft2(spectrum, s=(n, n)))
        writer.set_noise([store.optics[0].noise])
    return open_particles(out)


@pytest.mark.parametrize("last", [0, 2])
def test_phase_randomised_images_are_not_called_resolved(
    store: ParticleStore, bare: RunStore, tmp_path: Path, last: int
) -> None:
    other = randomised(store, tmp_path / "random.zarr", last, 5)
    run = reconstruct(other.url, str(tmp_path / "run.zarr"), ReconstructConfig(prior="none"), threads=1)
    # The ball that the maps are confined to carries signal two shells further, and the correction begins two
    # shells after the curve has fallen.
    reach = last + 4
    shells = np.arange(BOX // 2 + 1)
    limit = 0.143 + 3 / np.sqrt(independent_voxels(BOX))
    assert np.all((run.table("fsc")["corrected"] < limit)[shells > reach])
    assert run.attributes["result"]["resolution_0143_A"] > BOX * PIXEL / (reach + 1)
    assert bare.attributes["result"]["resolution_0143_A"] < BOX * PIXEL / 9  # with their phases, they are


# --- the same bits


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(store: ParticleStore, quick: RunStore, tmp_path: Path, threads: int) -> None:
    assert_same_bits(reconstruct(store.url, str(tmp_path / "run"), QUICK, threads=threads), quick)


class Backwards(SerialExecutor):
    """Runs the slices from the last to the first, then the merges."""

    def __init__(self) -> None:
        self.order: list[Task] = []

    def run(
        self, tasks: Sequence[Task], listen: Listen, done: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        order = [t for t in tasks if not t.urgent][::-1] + [t for t in tasks if t.urgent]
        self.order += order
        results = dict(zip([t.key for t in order], super().run(order, listen, done), strict=True))
        return [results[t.key] for t in tasks]


def test_order_of_the_slices_changes_nothing(store: ParticleStore, quick: RunStore, tmp_path: Path) -> None:
    executor = Backwards()
    run = reconstruct(store.url, str(tmp_path / "run"), QUICK, threads=1, executor=executor)
    assert len(executor.order) == 8 + 6
    assert_same_bits(run, quick)


class Watcher:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.done = 0
        self.messages: list[str] = []

    def start(self, stage: str, total: int | None) -> None:
        self.stages.append((stage, total))

    def advance(self, count: int = 1) -> None:
        self.done += count

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_a_complete_run_is_left_as_it_is(store: ParticleStore, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    first = Watcher()
    before = reconstruct(store.url, str(out), QUICK, threads=1, progress=first).attributes
    assert first.stages[0] == ("images", COUNT)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = Watcher()
    # Nothing is planned for a run that is done, however small the machine.
    run = reconstruct(store.url, str(out), QUICK, threads=1, progress=again, max_memory=1000)
    assert again.stages == []
    assert len(again.messages) == 1
    assert "complete already" in again.messages[0]
    assert run.attributes == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps


def test_another_configuration_is_refused_and_overwrite_replaces(
    store: ParticleStore, quick: RunStore, tmp_path: Path
) -> None:
    out = str(tmp_path / "run.zarr")
    reconstruct(store.url, out, replace(QUICK, prior="none"), threads=1)
    linear = volume(open_run(out), "full")
    with pytest.raises(InputError, match=r'is a run with prior = "none" instead of "tv"; .*--overwrite'):
        reconstruct(store.url, out, QUICK, threads=1)
    np.testing.assert_array_equal(volume(open_run(out), "full"), linear)
    assert_same_bits(reconstruct(store.url, out, QUICK, threads=1, overwrite=True), quick)


def test_other_images_under_the_same_name_are_another_configuration(tmp_path: Path) -> None:
    small = SimulateConfig(box=12, pixel_size=4.0, particles=60, snr=1.0)
    images, out = str(tmp_path / "p.zarr"), str(tmp_path / "run.zarr")
    simulate(images, small)
    config = ReconstructConfig(prior="none")
    reconstruct(images, out, config, threads=1)
    simulate(images, replace(small, seed=2), overwrite=True)
    with pytest.raises(InputError, match="is a run with particles_digest"):
        reconstruct(images, out, config, threads=1)
    fresh = reconstruct(images, str(tmp_path / "fresh.zarr"), config, threads=1)
    assert_same_bits(reconstruct(images, out, config, threads=1, overwrite=True), fresh)


def test_other_versions_are_said_to_matter(
    store: ParticleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "run.zarr")

    class Stop(SerialExecutor):
        def run(self, *args: Any, **more: Any) -> list[Any]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(store.url, out, replace(QUICK, prior="none"), threads=1, executor=Stop())
    monkeypatch.setattr("dcryo.methods.run_record.versions", lambda: {"numpy": "9.9"})
    watcher = Watcher()
    reconstruct(store.url, out, replace(QUICK, prior="none"), threads=1, progress=watcher)
    assert "other versions" in watcher.messages[0]


# --- settings


def test_rows_of_even_and_odd_index(store: ParticleStore, tmp_path: Path) -> None:
    config = replace(QUICK, prior="none", halves="even-odd", slice_size=0)
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), config, threads=1)
    # The same rows in a store of their own, whose half sets say so.
    table = store.particles()
    order = np.argsort(table.row % 2, kind="stable")
    other = replace(table.take(order), half=(table.row[order] % 2 + 1).astype(np.int8))
    with create_particles(tmp_path / "p.zarr", other, BOX, PIXEL, provenance={}) as writer:
        writer.append(store.images(0, COUNT)[order])
        writer.set_noise([store.optics[0].noise])
    wanted = reconstruct(
        str(tmp_path / "p.zarr"), str(tmp_path / "wanted.zarr"), replace(config, halves="auto"), threads=1
    )
    for name in ("linear1", "linear2", "linear"):
        # Two orders of a float32 sum, through a solve that stops at 1e-3.
        a, b = volume(run, name), volume(wanted, name)
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)


def test_without_half_sets_there_is_one_map_and_no_resolution(store: ParticleStore, tmp_path: Path) -> None:
    config = ReconstructConfig(halves="none", weight=0.7)
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), config, threads=1)
    assert run.volumes() == ["full", "linear"]
    result = run.attributes["result"]
    assert result["resolution_0143_A"] is result["resolution_05_A"] is result["mean_fsc"] is None
    assert result["weight"] == 0.7
    assert run.table("fsc").keys() == {"shell", "frequency", "truth", "truth_linear"}
    with pytest.raises(InputError, match=r"--weight auto needs half sets; give a --weight"):
        ReconstructConfig(halves="none")


def test_no_prior_means_the_linear_maps(store: ParticleStore, quick: RunStore, tmp_path: Path) -> None:
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), replace(QUICK, prior="none"), threads=1)
    for regularised, linear in (("full", "linear"), ("half1", "linear1"), ("half2", "linear2")):
        np.testing.assert_array_equal(volume(run, regularised), volume(run, linear))
        np.testing.assert_array_equal(volume(quick, linear), volume(run, linear))  # the prior has no part
    assert run.attributes["result"]["nonnegative"] is False


def test_coarse_maps_are_written_on_the_grid_of_the_images(tmp_path: Path) -> None:
    box = 48
    images = str(tmp_path / "p.zarr")
    simulate(images, SimulateConfig(box=box, pixel_size=2.0, particles=200, snr=0.5, seed=2))
    run = reconstruct(images, str(tmp_path / "run.zarr"), replace(QUICK, scale=2.0), threads=1)
    fine = reconstruct(images, str(tmp_path / "fine.zarr"), replace(QUICK, prior="none"), threads=1)
    assert volume(run, "full").shape == (box,) * 3
    assert run.volume("full")[1] == 2.0
    assert run.attributes["plan"]["n"] == box // 2
    # Nyquist of the coarse grid is shell 12.  Well below it the two are the same map: the ridge, which is
    # 0.05 of a kernel that sums fewer frequencies, makes the only difference.
    q = np.fft.fftfreq(box, 1 / box)
    radius = np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q**2)
    coarse, wanted = (np.fft.fftn(volume(r, "linear").astype(np.float64)) for r in (run, fine))
    low = (radius > 0.5) & (radius < 8.5)
    assert np.linalg.norm((coarse - wanted)[low]) < 0.1 * np.linalg.norm(wanted[low])
    # Beyond it there is nothing, and nothing is claimed.
    power = np.abs(coarse) ** 2
    assert power[radius > 12.5].sum() < 1e-9 * power.sum()
    table, result = run.table("fsc"), run.attributes["result"]
    assert np.all(table["corrected"][13:] == 0)
    assert result["resolution_0143_A"] >= 2 * 2.0 * 2

    native = reconstruct(
        images, str(tmp_path / "native.zarr"), replace(QUICK, scale=2.0, native_scale=True), threads=1
    )
    assert volume(native, "full").shape == (box // 2,) * 3
    assert native.volume("full")[1] == 4.0
    # The coarse map is the fine one's samples, but for the planes at Nyquist that only the coarse one has.
    sampled = volume(run, "full")[::2, ::2, ::2]
    assert np.corrcoef(sampled.ravel(), volume(native, "full").ravel())[0, 1] > 0.99


def test_kaiser_bessel_basis(store: ParticleStore, quick: RunStore, tmp_path: Path) -> None:
    config = replace(QUICK, basis="kbwf:2,10.8,2")
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), config, threads=1)
    # Another way to write the same band-limited map: the data decide where there are any.
    curve = fsc_curve(volume(run, "linear"), volume(quick, "linear"))
    assert curve[1:8].min() > 0.98
    scale = np.vdot(volume(run, "linear"), volume(quick, "linear")) / np.vdot(*[volume(quick, "linear")] * 2)
    assert scale == pytest.approx(1, abs=0.05)
    table = run.table("fsc")
    assert mean_fsc(table["truth"]) > mean_fsc(quick.table("fsc")["truth_linear"])


def test_symmetry_is_in_the_map_and_pays(tmp_path: Path) -> None:
    images = str(tmp_path / "p.zarr")
    simulate(images, replace(NOISY, particles=120, symmetry="C2"))
    runs = {
        group: reconstruct(
            images, str(tmp_path / f"{group}.zarr"), replace(QUICK, prior="none", symmetry=group), threads=1
        )
        for group in ("C1", "C2")
    }
    inner = (slice(1, None),) * 3  # an even box has no partner for its first plane
    asymmetry = {}
    for group, run in runs.items():
        map_ = volume(run, "linear")[inner]
        asymmetry[group] = np.linalg.norm(map_ - map_[:, ::-1, ::-1]) / np.linalg.norm(map_)
    assert asymmetry["C2"] < 1e-4 < 0.1 < asymmetry["C1"]  # spreading error, and noise
    truth = {group: mean_fsc(run.table("fsc")["truth_linear"]) for group, run in runs.items()}
    assert truth["C2"] > truth["C1"] + 0.02  # twice the data


def test_mask_diameter_confines_the_regularised_maps(store: ParticleStore, tmp_path: Path) -> None:
    config = replace(QUICK, mask_diameter=48.0)  # 16 voxels
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), config, threads=1)
    outside = soft_ball(BOX, 8.0, 0.0) == 0
    assert np.abs(volume(run, "full")[outside]).max() == 0
    assert np.abs(volume(run, "linear")[outside]).max() > 0


# --- refusals: one sentence, and nothing is written


def without_poses(store: ParticleStore, out: Path, rows: Any, **more: Any) -> ParticleStore:
    table = store.particles()
    table.rotation[rows] = np.nan
    with create_particles(out, replace(table, **more), BOX, PIXEL, provenance={}) as writer:
        writer.append(store.images(0, COUNT))
    return open_particles(out)


def test_particles_without_poses_are_refused_before_anything_is_made(
    store: ParticleStore, tmp_path: Path
) -> None:
    row = int(store.particles().row[300]) + 1
    for rows, sentence in (
        (slice(None), r"all\.zarr holds no poses; reconstruct needs one per particle"),
        ([300, 301], rf"some\.zarr: particle {row} \(of the table it came from\) has no pose"),
    ):
        name = "some" if isinstance(rows, list) else "all"
        other = without_poses(store, tmp_path / f"{name}.zarr", rows)
        with pytest.raises(InputError, match=sentence):
            reconstruct(other.url, str(tmp_path / "run.zarr"), QUICK, threads=1)
        assert not (tmp_path / "run.zarr").exists()


def test_empty_half_set_is_refused(store: ParticleStore, tmp_path: Path) -> None:
    other = without_poses(store, tmp_path / "p.zarr", [], half=np.ones(COUNT, np.int8))
    with pytest.raises(InputError, match=r"half sets \[1\]; both 1 and 2 must have particles"):
        reconstruct(other.url, str(tmp_path / "run.zarr"), QUICK, threads=1)
    assert not (tmp_path / "run.zarr").exists()


def test_too_little_memory_is_refused(store: ParticleStore, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"a box of 32 needs .* of memory to .*, and 1 MB is allowed"):
        reconstruct(store.url, str(tmp_path / "run.zarr"), QUICK, max_memory=1_000_000)
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize("divisor", [1.5, 3.0, 6.0])
def test_the_advised_scale_fits(store: ParticleStore, tmp_path: Path, divisor: float) -> None:
    images = str(tmp_path / "p.zarr")
    table = replace(store.particles(0, 8), optics=(Optics(),))
    with create_particles(images, table, 128, 1.0, provenance={}) as writer:
        writer.append(np.zeros((8, 128, 128), np.float32))
    config = ReconstructConfig(halves="none", weight=1.0)
    planned = plan(images, config)
    allowed = int(max(planned.task_memory, planned.solve_memory) / divisor)
    with pytest.raises(PlanError) as refused:
        reconstruct(images, str(tmp_path / "run.zarr"), config, max_memory=allowed)
    advice = re.search(r"--scale (\S+)", str(refused.value))
    if advice is None:  # no coarser map would do
        smallest = plan(images, replace(config, scale=16.0))
        assert max(smallest.task_memory, smallest.solve_memory) > allowed
        return
    coarser = plan(images, replace(config, scale=float(advice[1])))
    assert max(coarser.task_memory, coarser.solve_memory) <= allowed


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"scale": 0.5}, r"--scale 0\.5 is not between 1 and 64"),
        ({"scale": math.nan}, "--scale nan"),
        ({"prior": "tikhonov"}, "--prior 'tikhonov' is not known; choose one of tv, tv-aniso, haar, none"),
        ({"weight": "best"}, "--weight 'best' is neither auto nor a number >= 0"),
        ({"weight": -1.0}, "--weight -1.0"),
        ({"weight": math.inf}, "--weight inf"),
        ({"nonnegative": "maybe"}, "--nonnegative 'maybe' is not one of auto, on, off"),
        ({"noise": "pink"}, "--noise 'pink' is not known; choose auto or white"),
        ({"halves": "thirds"}, "--halves 'thirds' is not known"),
        ({"accuracy": "best"}, "best"),
        ({"basis": "wavelet"}, "wavelet"),
        ({"symmetry": "Q7"}, "Q7"),
        ({"iterations": 0}, "--iterations"),
        ({"tolerance": -1e-3}, "--tolerance"),
        ({"ridge": 0.0}, "--ridge"),
        ({"ridge": math.nan}, "--ridge"),
        ({"slice_size": -1}, "--slice-size"),
        ({"mask_diameter": -10.0}, "--mask-diameter"),
        ({"mask_diameter": 0.0}, "--mask-diameter"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ReconstructConfig(**settings)


# --- SIGKILL


def command(store: ParticleStore, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "dcryo", "reconstruct", store.url, str(out),
        "--slice-size", "50", "--nonnegative", "on", "--threads", "1",
    ]  # fmt: skip


KILLED = ReconstructConfig(nonnegative=True, slice_size=50)


def environment() -> dict[str, str]:
    root = Path(dcryo.__file__).resolve().parents[1]
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def committed(out: Path) -> set[str]:
    return {path.stem for path in out.glob("scratch/*/commits/*.json")}


def kill_when(reached: Callable[[set[str], str], bool], store: ParticleStore, out: Path) -> None:
    """Start the command, and SIGKILL it as soon as commits and progress say that the moment has come."""
    lines: list[str] = []
    process = subprocess.Popen(
        command(store, out), env=environment(), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))  # type: ignore[arg-type]
    reader.start()
    try:
        while process.poll() is None and not reached(committed(out), "".join(lines)):
            time.sleep(1e-3)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()
    assert process.returncode in (0, -signal.SIGKILL), "".join(lines)


def folding(keys: set[str]) -> bool:
    return 0 < len(keys) < 8 and not any("sum" in key for key in keys)


def merging(keys: set[str]) -> bool:
    return any("sum" in key for key in keys) and len(keys) > 2  # two roots are the end of it


MOMENTS: dict[str, tuple[Callable[[set[str], str], bool], Callable[[set[str]], bool]]] = {
    "folding": (lambda keys, lines: bool(keys), folding),
    "merging": (lambda keys, lines: merging(keys), merging),
    "solving": (lambda keys, lines: "weight\n" in lines, lambda keys: len(keys) == 2),
}
"""When to kill, and whether that is where it was: on a busy machine the process may have been faster."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_at_any_moment_the_same_command_goes_on_to_the_same_bits(
    store: ParticleStore, tmp_path: Path
) -> None:
    undisturbed = reconstruct(store.url, str(tmp_path / "undisturbed.zarr"), KILLED, threads=1)
    whole = undisturbed.attributes["bytes_read"]
    slices = {s.key for s in plan(store.url, KILLED).slices}
    assert len(slices) == 8
    for moment, (reached, there) in MOMENTS.items():
        for attempt in range(10):
            out = tmp_path / f"{moment}{attempt}.zarr"
            kill_when(reached, store, out)
            before = committed(out)
            if there(before) and not open_run(str(out)).complete:
                break
        else:
            pytest.fail(f"ten processes were done before they could be killed while {moment}")
        markers = {path: path.read_bytes() for path in out.glob("scratch/*/commits/*.json")}
        done = subprocess.run(
            command(store, out), env=environment(), capture_output=True, text=True, timeout=200, check=True
        )
        run = open_run(str(out))
        assert run.complete
        assert_same_bits(run, undisturbed)
        # What was committed was not folded again: the images of those slices were not read.
        again = run.attributes["bytes_read"]
        if moment == "solving":
            assert again == 0
        else:
            assert 0 <= again < whole
        if moment == "folding":
            assert f"{len(before)} of 8 slices were committed before and kept" in done.stderr
        # What is still there is the very commit that was there.
        for path in out.glob("scratch/*/commits/*.json"):
            assert markers.get(path, path.read_bytes()) == path.read_bytes()
