"""Exported files, read by other programs: mrcfile, gemmi, ElementTree, and RELION where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import mrcfile
import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.mrc import Stack
from dcryo.io.particle_writer import create_particles
from dcryo.io.run_store import create_run
from dcryo.io.star import read_particles_star
from dcryo.methods.export import ExportConfig, export
from dcryo.methods.ingest import IngestConfig, ingest
from dcryo.methods.simulate import SimulateConfig, simulate

N = 16


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    store = create_run(tmp_path / "run.zarr", "reconstruct", {"weight": 1})
    for name in ("full", "half1", "half2"):
        store.write_volume(name, rng.standard_normal((N, N, N), dtype=np.float32), 2.5)
    shells = np.arange(N // 2 + 1)
    columns = {
        "shell": shells,
        "frequency": shells / (N * 2.5),
        "corrected": 1 - shells / 9,
        "masked": shells / 9,
    }
    store.write_table("fsc", columns)
    store.finish({})
    return tmp_path / "run.zarr"


@pytest.fixture
def particles(tmp_path: Path) -> Path:
    """A store of ten particles whose rows 9, 8 ... 0 stand in reverse, with a truth; no source files."""
    rng = np.random.default_rng(1)
    table = Particles.empty_columns(
        10,
        rotation=Rotation.random(10, random_state=2).as_quat(),
        shift=rng.normal(size=(10, 2)),
        defocus=np.tile([15000.0, 14000.0, 0.3], (10, 1)),
        half=np.repeat([1, 2], 5).astype(np.int8),
        row=np.arange(9, -1, -1),
        optics=(Optics(pixel_size=2.0),),
    )
    images = rng.standard_normal((10, N, N), dtype=np.float32)
    truth = rng.standard_normal((N, N, N), dtype=np.float32)
    with create_particles(tmp_path / "p.zarr", table, N, 2.0, provenance={}, truth=truth) as writer:
        writer.append(images)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "truth.npy", truth)
    return tmp_path / "p.zarr"


@pytest.mark.parametrize(
    ("suffix", "what", "name"),
    [("", None, "full"), ("", "map", "full"), ("", "half1", "half1"), (":half2", None, "half2")],
)
def test_maps(run: Path, tmp_path: Path, suffix: str, what: str | None, name: str) -> None:
    from dcryo.io.run_store import open_run

    out = export(f"{run}{suffix}", tmp_path / "a.mrc", ExportConfig(what=what))
    with mrcfile.open(out) as mrc:
        np.testing.assert_array_equal(mrc.data, open_run(run).volume(name)[0])
        assert float(mrc.voxel_size.x) == pytest.approx(2.5)
        assert mrc.is_volume()


def test_truth(particles: Path, tmp_path: Path) -> None:
    for number, config in enumerate((ExportConfig(), ExportConfig(what="truth"))):
        with mrcfile.open(export(particles, tmp_path / f"{number}.mrc", config)) as mrc:
            np.testing.assert_array_equal(mrc.data, np.load(tmp_path / "truth.npy"))


def test_curve(run: Path, tmp_path: Path) -> None:
    for column, value in ((None, 1 - 4 / 9), ("masked", 4 / 9)):
        out = export(run, tmp_path / f"{column}.xml", ExportConfig(what=column))
        points = ElementTree.parse(out).getroot().findall("coordinate")
        assert len(points) == N // 2 + 1
        assert float(points[4].find("x").text) == pytest.approx(0.1)
        assert float(points[4].find("y").text) == pytest.approx(value, abs=1e-6)
    with pytest.raises(InputError, match="no curve best; give one of corrected, masked"):
        export(run, tmp_path / "b.xml", ExportConfig(what="best"))


def test_images(particles: Path, tmp_path: Path) -> None:
    out = export(particles, tmp_path / "a.mrcs")
    with mrcfile.open(out) as mrc:
        np.testing.assert_array_equal(mrc.data, np.load(tmp_path / "images.npy"))
        assert mrc.is_image_stack()
        assert float(mrc.voxel_size.x) == pytest.approx(2.0)


def test_table_has_the_users_order_and_finds_its_images(particles: Path, tmp_path: Path) -> None:
    from dcryo.io.particle_store import open_particles

    table = read_particles_star(export(particles, tmp_path / "a.star"))
    stored = open_particles(particles).particles()
    back = table.particles
    np.testing.assert_array_equal(back.half, stored.half[::-1])
    np.testing.assert_allclose(back.shift, stored.shift[::-1], rtol=1e-9)
    images = table.stacks[0].read(back.source[:, 1])
    np.testing.assert_array_equal(images, np.load(tmp_path / "images.npy")[::-1])


def test_a_round_trip_through_ingest(particles: Path, tmp_path: Path) -> None:
    again = ingest(export(particles, tmp_path / "a.star"), tmp_path / "q.zarr", IngestConfig(contrast="keep"))
    np.testing.assert_array_equal(again.particles().row, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4])
    images = again.images(0, 10)[np.argsort(again.particles().row)]
    np.testing.assert_array_equal(images, np.load(tmp_path / "images.npy")[::-1])


def test_references_to_the_original_images(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "particles" / "small_real" / "sample_particles_relion31.star"
    ingest(source, tmp_path / "s.zarr")
    out = export(tmp_path / "s.zarr", tmp_path / "a.star", ExportConfig(images=False))
    old = read_particles_star(source)
    new = read_particles_star(out, datadir=source.parent)
    assert new.stack_paths == old.stack_paths
    np.testing.assert_array_equal(new.particles.source, old.particles.source)
    np.testing.assert_allclose(new.particles.rotation, old.particles.rotation, atol=1e-9)
    np.testing.assert_array_equal(new.particles.half, old.particles.half)
    ingest(source, tmp_path / "t.zarr", IngestConfig(box=64))
    with pytest.raises(InputError, match=r"original images, ingest changed them \(resampled\)"):
        export(tmp_path / "t.zarr", tmp_path / "b.star", ExportConfig(images=False))


def test_what_cannot_be_exported(run: Path, particles: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    cases = [
        (run, "a.tif", ExportConfig(), r"give one of \.mrc"),
        (run, "a.star", ExportConfig(), r"is a run, .*; give the particle store, or for a \.star a run of"),
        (particles, "a.star", ExportConfig(iteration=1), "--iteration is for the poses of a run"),
        (run, "a.mrcs", ExportConfig(), "is a run"),
        (run, "a.mrc", ExportConfig(what="best"), "best"),
        (particles, "a.xml", ExportConfig(), "p.zarr"),
        (particles, "a.mrc", ExportConfig(what="half1"), "p.zarr"),
        (particles, "a.star", ExportConfig(images=False), "no file of their own"),
        (tmp_path / "gone.zarr", "a.mrc", ExportConfig(), "gone.zarr"),
        (particles, "no/a.mrc", ExportConfig(), "does not exist; create it first"),
    ]
    for source, name, config, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            export(source, tmp_path / name, config)
    with pytest.raises(InputError, match="local folder"):
        export(run, "s3://bucket/a.mrc")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_files_in_the_way(particles: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mrcs").write_text("mine")
    for name in ("a.mrcs", "a.star"):  # the table would bring a.mrcs with it
        with pytest.raises(InputError, match=r"a\.mrcs: exists already; .*--overwrite"):
            export(particles, tmp_path / name)
    export(particles, tmp_path / "a.star", overwrite=True)
    assert len(Stack(tmp_path / "a.mrcs")) == 10


@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
@pytest.mark.parametrize("box", [64, 65])
def test_relion_reads_it(
    shared_data: Path, tmp_path: Path, box: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELION makes the same map of its own files and of ours: names, angles, shifts and signs all arrive."""
    monkeypatch.chdir(tmp_path)
    folder = shared_data / "particles" / "relion_projected"
    own = folder / f"rln_proj_{box}_shifted"
    shutil.copy(own.with_suffix(".mrcs"), tmp_path)
    # RELION 3.1 passes over pixel origins in a file of its own version; at 1 Å per pixel they are in Å.
    text = own.with_suffix(".star").read_text()
    for axis in "XY":
        text = text.replace(f"_rlnOrigin{axis} ", f"_rlnOrigin{axis}Angst ")
    Path(f"{own.name}.star").write_text(text)
    ingest(own.with_suffix(".star"), "s.zarr", IngestConfig(no_ctf=True))
    export("s.zarr", "ours.star")
    maps = []
    for star in (f"{own.name}.star", "ours.star"):
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
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        with mrcfile.open(f"{star}.mrc") as mrc:
            maps.append(np.array(mrc.data))
    # Ten digits of angles and shifts in place of RELION's six.
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-4 * np.abs(maps[0]).max())
    assert maps[0].std() > 0


def test_images_are_named_from_here_or_from_the_star_file(tmp_path: Path) -> None:
    store = simulate(str(tmp_path / "p.zarr"), SimulateConfig(box=16, particles=4, seed=3))
    for beside, name in ((False, (tmp_path / "p.mrcs").as_posix()), (True, "p.mrcs")):
        export(store.url, tmp_path / "p.star", ExportConfig(beside=beside), overwrite=True)
        names = starfile.read(tmp_path / "p.star", always_dict=True)["particles"]["rlnImageName"]
        assert {text.partition("@")[2] for text in names} == {name}
