"""A reconstruction with the poses of a refinement in place of those of the particle store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, create_run
from dcryo.methods.clean import clean
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
from dcryo.methods.refine import RefineConfig, refine
from dcryo.methods.simulate import SimulateConfig, simulate

QUICK = ReconstructConfig(weight=0.7, nonnegative=True, slice_size=16)
COUNT = 60


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    """Particles with their true poses."""
    folder = tmp_path_factory.mktemp("true")
    return simulate(str(folder / "p.zarr"), SimulateConfig(box=16, pixel_size=4.0, particles=COUNT, snr=1.0))


@pytest.fixture(scope="module")
def wrong(true: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    """The same particles with poses at random."""
    table = true.particles()
    turned = replace(table, rotation=Rotation.random(COUNT, random_state=9).as_quat(), shift=-table.shift)
    path = tmp_path_factory.mktemp("wrong") / "p.zarr"
    with create_particles(path, turned, true.box, true.pixel_size, provenance={}) as writer:
        writer.append(true.images(0, COUNT))
    return open_particles(path)


def refined(path: Path, store: ParticleStore, *poses: dict[str, NDArray[Any]], **config: Any) -> RunStore:
    """A refinement of ``store`` by hand; ``poses`` of its iterations, from 0 on."""
    known = {"particles": store.url, "particles_digest": store.digest, "halves": "auto"}
    run = create_run(path, "refine", known | config)
    for iteration, columns in enumerate(poses):
        run.write_poses(iteration, columns)
    run.finish({})
    return run


def poses_of(store: ParticleStore) -> dict[str, NDArray[Any]]:
    table = store.particles()
    return {"rotation": np.asarray(table.rotation), "shift": np.asarray(table.shift)}


def assert_same_maps(a: RunStore, b: RunStore) -> None:
    assert a.volumes() == b.volumes() != []
    for name in a.volumes():
        np.testing.assert_array_equal(a.volume(name)[0], b.volume(name)[0], err_msg=name)
    np.testing.assert_array_equal(a.table("poses")["counts"], b.table("poses")["counts"])


def test_the_map_is_that_of_a_store_with_those_poses(
    true: ParticleStore, wrong: ParticleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcryo.io.run_poses.ROWS", 7)  # slices begin and end within chunks
    run = refined(tmp_path / "refined.zarr", wrong, poses_of(wrong), poses_of(true))
    with_true = reconstruct(true.url, str(tmp_path / "true.zarr"), QUICK)
    with_wrong = reconstruct(wrong.url, str(tmp_path / "wrong.zarr"), QUICK)
    last = reconstruct(wrong.url, str(tmp_path / "last.zarr"), replace(QUICK, poses=run.url))
    first = reconstruct(wrong.url, str(tmp_path / "first.zarr"), replace(QUICK, poses=f"{run.url}@0"))
    assert_same_maps(last, with_true)
    assert_same_maps(first, with_wrong)
    assert not np.array_equal(first.volume("full")[0], last.volume("full")[0])
    config = last.attributes["config"]
    assert config["poses"] == f"{run.url}@1"
    assert (
        config["poses_digest"] == run.pose_record(1)["digest"] != first.attributes["config"]["poses_digest"]
    )
    # a run of the store's own poses is known by what it was always known by
    assert not {"poses", "poses_digest"} & with_true.attributes["config"].keys()


def test_a_run_is_that_of_its_poses(wrong: ParticleStore, true: ParticleStore, tmp_path: Path) -> None:
    run = refined(tmp_path / "refined.zarr", wrong, poses_of(wrong), poses_of(true))
    out, config = str(tmp_path / "out.zarr"), replace(QUICK, poses=f"{run.url}@0")
    done = reconstruct(wrong.url, out, config).volume("full")[0]
    np.testing.assert_array_equal(reconstruct(wrong.url, out, config).volume("full")[0], done)
    for poses in (run.url, f"{run.url}@1", None):
        with pytest.raises(InputError, match=r"out\.zarr is a run with poses = "):
            reconstruct(wrong.url, out, replace(QUICK, poses=poses))
    run.keep_poses(1)
    other = create_run(run.url, "refine", run.attributes["config"], overwrite=True)
    other.write_poses(0, poses_of(true))
    with pytest.raises(InputError, match="is a run with poses_digest = "):
        reconstruct(wrong.url, out, config)


def test_poses_that_are_refused(true: ParticleStore, wrong: ParticleStore, tmp_path: Path) -> None:
    poses = poses_of(wrong)
    missing = {name: values.copy() for name, values in poses.items()}
    missing["rotation"][11] = np.nan
    short = {name: values[:-1] for name, values in poses.items()}
    runs = {
        "no": refined(tmp_path / "no.zarr", wrong),
        "other": refined(tmp_path / "other.zarr", true, poses),
        "short": refined(tmp_path / "short.zarr", wrong, short),
        "nan": refined(tmp_path / "nan.zarr", wrong, poses, missing),
        "mixed": refined(tmp_path / "mixed.zarr", wrong, poses, halves="even-odd"),
        "unsplit": refined(tmp_path / "unsplit.zarr", wrong, poses, halves="none"),
    }
    row = int(wrong.particles().row[11]) + 1
    cases = {
        runs["no"].url: "holds no poses; give a run that dcryo refine made",
        runs["other"].url: f"poses of the particles in {true.url}, which are not those in {wrong.url}",
        runs[
            "short"
        ].url: r"short\.zarr@0 holds poses of 59 particles, and .* has 60; give the particle store",
        runs["nan"].url: rf"nan\.zarr@1: particle {row} \(of the table it came from\) has no pose",
        f"{runs['nan'].url}@2": "has no poses of iteration 2; it has: 0, 1",
        runs["mixed"].url: "was refined with --halves even-odd, .*; give --halves even-odd",
        runs["unsplit"].url: "was refined with --halves none, .*; give --halves none",
        str(tmp_path / "gone.zarr"): "does not exist",
        wrong.url: "is a particle store, not a run",
    }
    for spec, sentence in cases.items():
        with pytest.raises(InputError, match=sentence):
            reconstruct(wrong.url, str(tmp_path / "out.zarr"), replace(QUICK, poses=spec))
        assert not (tmp_path / "out.zarr").exists()
    # half maps are not looked at: any half sets will do
    whole = replace(QUICK, halves="none", poses=runs["mixed"].url)
    assert reconstruct(wrong.url, str(tmp_path / "out.zarr"), whole).complete


def test_a_store_without_poses_is_enough(true: ParticleStore, tmp_path: Path) -> None:
    table = replace(true.particles(), rotation=np.full((COUNT, 4), np.nan))
    with create_particles(tmp_path / "bare.zarr", table, true.box, 4.0, provenance={}) as writer:
        writer.append(true.images(0, COUNT))
    bare = open_particles(tmp_path / "bare.zarr")
    with pytest.raises(InputError, match="holds no poses"):
        reconstruct(bare.url, str(tmp_path / "out.zarr"), QUICK)
    run = refined(tmp_path / "refined.zarr", bare, poses_of(true))
    out = reconstruct(bare.url, str(tmp_path / "out.zarr"), replace(QUICK, poses=run.url))
    wanted = reconstruct(true.url, str(tmp_path / "true.zarr"), QUICK)
    np.testing.assert_array_equal(out.volume("full")[0], wanted.volume("full")[0])


def test_the_last_poses_of_a_refinement_give_its_maps(true: ParticleStore, tmp_path: Path) -> None:
    refinement = refine(
        true.url, str(tmp_path / "r.zarr"), RefineConfig(weight=0.7, nonnegative=True, rounds=2)
    )
    config = ReconstructConfig(weight=0.7, nonnegative=True, poses=refinement.url)
    assert_same_maps(reconstruct(true.url, str(tmp_path / "q.zarr"), config), refinement)
    clean(refinement.url)
    again = reconstruct(true.url, str(tmp_path / "again.zarr"), config)
    assert_same_maps(again, refinement)
    with pytest.raises(InputError, match="has no poses of iteration 0; it has: 2"):
        reconstruct(true.url, str(tmp_path / "0.zarr"), replace(config, poses=f"{refinement.url}@0"))
