"""The poses of a refinement as a STAR file, read by starfile, and by RELION where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.mrc import Stack
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, create_run
from dcryo.methods.export import ExportConfig, export
from dcryo.methods.ingest import IngestConfig, ingest

COUNT, BOX = 12, 8
FILES = ("Extract/a.mrcs", "Extract/b.mrcs")


def particles(path: Path, provenance: dict[str, Any] | None = None, **given: Any) -> ParticleStore:
    """Particles of two stacks, the rows of the user's table shuffled, all looking along z."""
    row = np.random.default_rng(0).permutation(COUNT)
    columns: dict[str, Any] = {
        "rotation": np.tile([0.0, 0.0, 0.0, 1.0], (COUNT, 1)),
        "defocus": np.tile([15000.0, 14000.0, 0.3], (COUNT, 1)) + 10.0 * row[:, None] * [1, 1, 0],
        "half": np.repeat([1, 2], COUNT // 2).astype(np.int8),
        "row": row,
        "source": np.stack([row % 2, row // 2], axis=1),
        "sources": FILES,
        "optics": (Optics(pixel_size=2.0),),
    }
    table = Particles.empty_columns(COUNT, **(columns | given))
    with create_particles(path, table, BOX, 2.0, provenance=provenance or {}) as writer:
        writer.append(np.arange(COUNT * BOX**2, dtype=np.float32).reshape(COUNT, BOX, BOX))
    return open_particles(path)


def poses(seed: int, count: int = COUNT) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(count, random_state=seed).as_quat()
    return {"rotation": rotation, "shift": rng.normal(size=(count, 2)), "cost": rng.random(count)}


def refined(
    path: Path, store: ParticleStore, *iterations: dict[str, NDArray[Any]], halves: str = "auto"
) -> RunStore:
    """A refinement of ``store`` by hand."""
    config = {"particles": store.url, "particles_digest": store.digest, "halves": halves}
    run = create_run(path, "refine", config)
    for iteration, columns in enumerate(iterations):
        run.write_poses(iteration, columns)
    return run


def rows_of(path: Path) -> pd.DataFrame:
    tables = starfile.read(path, always_dict=True)
    assert list(tables) == ["optics", "particles"]
    assert tables["optics"]["rlnImagePixelSize"].tolist() == [2.0]
    return tables["particles"]


def assert_poses(table: pd.DataFrame, wanted: dict[str, NDArray[Any]], rows: NDArray[Any]) -> None:
    """Angles by scipy: RELION's matrix is that of the intrinsic ZYZ rotation, transposed."""
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    matrices = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(matrices, quaternion_to_matrix(wanted["rotation"])[rows], atol=1e-8)
    origins = table[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy()
    np.testing.assert_allclose(origins, -wanted["shift"][rows], rtol=1e-8)


@pytest.mark.parametrize("iteration", [None, 0, 1, 2])
def test_poses_of_an_iteration_in_the_users_order(tmp_path: Path, iteration: int | None) -> None:
    store = particles(tmp_path / "p.zarr")
    known = [poses(seed) for seed in range(3)]
    run = refined(tmp_path / "r.zarr", store, *known)
    out = export(run.url, tmp_path / "out.star", ExportConfig(iteration=iteration))
    table = rows_of(out)
    order = np.argsort(store.particles().row)
    assert_poses(table, known[2 if iteration is None else iteration], order)
    assert table["rlnRandomSubset"].tolist() == store.particles().half[order].tolist()
    np.testing.assert_allclose(table["rlnDefocusU"], 15000.0 + 10.0 * np.arange(COUNT))
    # the files that the images came from, and no copy of them
    assert table["rlnImageName"].tolist() == [f"{i // 2 + 1:06d}@{FILES[i % 2]}" for i in range(COUNT)]
    assert not (tmp_path / "out.mrcs").exists()
    assert not [name for name in table if not name.startswith("rln")]


def test_half_sets_are_those_of_the_refinement(tmp_path: Path) -> None:
    store = particles(tmp_path / "p.zarr")
    run = refined(tmp_path / "r.zarr", store, poses(0), halves="even-odd")
    table = rows_of(export(run.url, tmp_path / "out.star"))
    assert table["rlnRandomSubset"].tolist() == [1, 2] * (COUNT // 2)
    whole = refined(tmp_path / "w.zarr", store, poses(0), halves="none")
    assert "rlnRandomSubset" not in rows_of(export(whole.url, tmp_path / "whole.star"))


@pytest.mark.parametrize("why", ["asked for", "inverted", "resampled", "no file"])
def test_images_come_along_where_their_files_will_not_do(tmp_path: Path, why: str) -> None:
    given = {"source": np.full((COUNT, 2), -1)} if why == "no file" else {}
    store = particles(tmp_path / "p.zarr", {why: True}, **given)
    run = refined(tmp_path / "r.zarr", store, poses(0))
    config = ExportConfig(images=True if why == "asked for" else None, beside=True)
    table = rows_of(export(run.url, tmp_path / "out.star", config))
    order = np.argsort(store.particles().row)
    assert table["rlnImageName"].tolist() == [f"{row + 1:06d}@out.mrcs" for row in order]
    np.testing.assert_array_equal(Stack(tmp_path / "out.mrcs").read(order), store.images(0, COUNT)[order])
    if why != "asked for":
        with pytest.raises(InputError, match=f"original images, .*({why}|no file of their own)"):
            export(run.url, tmp_path / "b.star", ExportConfig(images=False))


def test_particles_without_a_pose_are_left_out(tmp_path: Path) -> None:
    store = particles(tmp_path / "p.zarr", rotation=np.full((COUNT, 4), np.nan))
    nothing, some = poses(0), poses(1)
    nothing["rotation"] = np.full((COUNT, 4), np.nan)
    some["rotation"][[2, 7]] = np.nan
    run = refined(tmp_path / "r.zarr", store, nothing, some)
    said: list[str] = []

    class Heard:
        def start(self, stage: str, total: int | None) -> None: ...
        def advance(self, count: int = 1) -> None: ...
        def message(self, text: str) -> None:
            said.append(text)

    for images in (None, True):
        config = ExportConfig(images=images)
        table = rows_of(export(run.url, tmp_path / "out.star", config, progress=Heard(), overwrite=True))
        order = np.argsort(store.particles().row)
        kept = order[~np.isin(order, [2, 7])]
        assert_poses(table, some, kept)
        assert said.pop() == "2 of 12 particles have no pose and are left out"
    assert [int(name[:6]) - 1 for name in table["rlnImageName"]] == kept.tolist()
    with pytest.raises(InputError, match=r"r\.zarr@0: no particle has a pose; choose a later --iteration"):
        export(run.url, tmp_path / "b.star", ExportConfig(iteration=0))


def test_runs_that_cannot_be_exported(tmp_path: Path) -> None:
    store = particles(tmp_path / "p.zarr")
    run = refined(tmp_path / "r.zarr", store, poses(0))
    with pytest.raises(InputError, match="has no poses of iteration 4; it has: 0"):
        export(run.url, tmp_path / "out.star", ExportConfig(iteration=4))
    with pytest.raises(InputError, match=r"r\.zarr: is a run, and \.mrcs files hold particles"):
        export(run.url, tmp_path / "out.mrcs")
    shutil.rmtree(tmp_path / "p.zarr")
    with pytest.raises(InputError, match=r"p\.zarr does not exist"):
        export(run.url, tmp_path / "out.star")
    again = particles(tmp_path / "p.zarr", {"again": 1})
    with pytest.raises(InputError, match=r"poses of the particles in .*p\.zarr, which are not those in"):
        export(run.url, tmp_path / "out.star")
    assert again.url == store.url
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.zarr", "r.zarr"]


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_relion_reads_it(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELION makes the same map of its own file as of the poses in a run, beside the same images."""
    monkeypatch.chdir(tmp_path)
    own = shared_data / "particles" / "relion_projected" / "rln_proj_64_shifted"
    shutil.copy(own.with_suffix(".mrcs"), tmp_path)
    # RELION 3.1 passes over pixel origins in a file of its own version; at 1 Å per pixel they are in Å.
    text = own.with_suffix(".star").read_text()
    for axis in "XY":
        text = text.replace(f"_rlnOrigin{axis} ", f"_rlnOrigin{axis}Angst ")
    Path("own.star").write_text(text)
    known = ingest(own.with_suffix(".star"), "known.zarr", IngestConfig(no_ctf=True)).particles()
    # the same set without what the refinement finds
    bare = own.with_suffix(".star").read_text()
    for name in ("Rot", "Tilt", "Psi"):
        bare = bare.replace(f"_rlnAngle{name} ", f"_rlnUnused{name} ")
    for axis in "XY":
        bare = bare.replace(f"_rlnOrigin{axis} ", f"_rlnUnused{axis} ")
    Path("bare.star").write_text(bare)
    shutil.copy(own.with_suffix(".mrcs"), "rln_proj_64_shifted.mrcs")
    store = ingest("bare.star", "p.zarr", IngestConfig(no_ctf=True))
    assert store.attributes["poses"] == 0
    np.testing.assert_array_equal(store.particles().row, known.row)
    run = refined(
        Path("r.zarr"), store, {"rotation": known.rotation, "shift": known.shift, "lost": known.half}
    )
    export(run.url, "refined.star")
    assert not Path("refined.mrcs").exists()
    maps = []
    for star in ("own.star", "refined.star"):
        command = [
            "relion_reconstruct",
            "--i",
            star,
            "--o",
            f"{star}.mrc",
            "--angpix",
            "1",
            "--skip_gridding",
        ]
        done = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True)
        if star == "refined.star":
            assert "unknown label" not in done.stdout + done.stderr
        with mrcfile.open(f"{star}.mrc") as mrc:
            maps.append(np.array(mrc.data))
    # Ten digits of angles and shifts in place of RELION's six.
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4 * np.abs(maps[0]).max())
    assert maps[0].std() > 0


def test_lost_particles_are_left_out_when_asked_for(tmp_path: Path) -> None:
    store = particles(tmp_path / "particles.zarr")
    lost = np.zeros(COUNT, np.uint8)
    lost[[2, 7]] = 1
    run = refined(tmp_path / "run", store, poses(1) | {"lost": lost})
    with_them = starfile.read(export(run.url, tmp_path / "all.star"))["particles"]
    without = starfile.read(export(run.url, tmp_path / "kept.star", ExportConfig(lost=False)))["particles"]
    gone = set(with_them["rlnImageName"]) - set(without["rlnImageName"])
    source = store.particles().source
    assert gone == {f"{source[p, 1] + 1:06d}@{FILES[source[p, 0]]}" for p in (2, 7)}
    assert len(without) == COUNT - 2


def test_a_refinement_that_lost_every_particle_exports_none(tmp_path: Path) -> None:
    store = particles(tmp_path / "particles.zarr")
    run = refined(tmp_path / "run", store, poses(1) | {"lost": np.ones(COUNT, np.uint8)})
    with pytest.raises(InputError, match="every particle is lost"):
        export(run.url, tmp_path / "none.star", ExportConfig(lost=False))
    assert not (tmp_path / "none.star").exists()
