"""Run stores, maps by name, and stores as xarray objects."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray

from dcryo.errors import DamagedStoreError, InputError
from dcryo.imaging.particles import Particles
from dcryo.io.datasets import open as open_store
from dcryo.io.particle_store import create_particles
from dcryo.io.run_store import RunStore, create_run, open_run, read_map

CONFIG = {"prior": "tv", "scale": 1.0, "mask": None, "weights": (1, 2)}


def cube(n: int = 9, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, n, n)).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return create_run(tmp_path / "run", "reconstruct", CONFIG)


# ---- volumes -------------------------------------------------------------------------------------


def test_volumes(run: RunStore) -> None:
    run.write_volume("full", cube(), 1.5)
    run.write_volume("half1", cube(7, 1).astype(np.float64), 3.0)
    assert run.volumes() == ["full", "half1"]
    volume, pixel_size = run.volume("full")
    np.testing.assert_array_equal(volume, cube())
    assert (volume.dtype, pixel_size) == (np.float32, 1.5)
    assert run.volume("half1")[0].dtype == np.float64
    assert run.check() == [f"{run.url} was not finished; run the same command again"]


def test_a_volume_is_an_ome_zarr_image(run: RunStore) -> None:
    run.write_volume("full", cube(), 1.5)
    group = zarr.open_group(Path(run.url, "full"), mode="r")
    # https://ngff.openmicroscopy.org/0.5: axes as in dimension_names, scale in the unit of the axes.
    (image,) = group.attrs["ome"]["multiscales"]  # type: ignore[index, call-overload]
    assert group.attrs["ome"]["version"] == "0.5"  # type: ignore[index, call-overload]
    assert image["axes"] == [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    (dataset,) = image["datasets"]
    assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [1.5, 1.5, 1.5]}]
    array = group[dataset["path"]]
    assert isinstance(array, zarr.Array)
    assert array.metadata.dimension_names == ("z", "y", "x")  # type: ignore[union-attr]
    np.testing.assert_array_equal(array[:], cube())


def test_a_volume_is_replaced_whole(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_volume("full", cube(9), 1.0)
    run.write_volume("full", cube(5, 1), 2.0)
    np.testing.assert_array_equal(run.volume("full")[0], cube(5, 1))

    def dies(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dcryo.io.run_store.write_array", dies)
        with pytest.raises(KeyboardInterrupt):
            run.write_volume("full", cube(5), 2.0)
    assert run.volumes() == []
    with pytest.raises(InputError, match="has no volume full; it has: none"):
        run.volume("full")
    run.write_volume("full", cube(5), 2.0)
    assert run.volumes() == ["full"]


def test_a_large_volume_is_cut_along_z(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcryo.io.chunks.WHOLE_BYTES", 4 * 9 * 9 * 4)
    run.write_volume("full", cube(9), 1.0)
    assert sorted(p.name for p in Path(run.url, "full", "0", "c").iterdir()) == ["0", "1", "2"]
    np.testing.assert_array_equal(run.volume("full")[0], cube(9))


@pytest.mark.parametrize("damage", ["flip", "delete", "truncate", "metadata"])
def test_a_damaged_volume(run: RunStore, damage: str) -> None:
    run.write_volume("half1", cube(), 1.5)
    path = Path(run.url, "half1", "0", "c", "0", "0", "0")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[50] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:100])
    elif damage == "delete":
        path.unlink()
    else:
        Path(run.url, "half1", "0", "zarr.json").unlink()
    with pytest.raises(DamagedStoreError, match="half1"):
        run.volume("half1")
    run.finish({})
    assert len(run.check()) == 1


@pytest.mark.parametrize("name", ["tables", "scratch", "", "a/b", "../x", ".hidden", "a:b"])
def test_names_that_cannot_be(run: RunStore, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a part of a run"):
        run.write_volume(name, cube(), 1.0)


def test_bad_volumes(run: RunStore) -> None:
    with pytest.raises(InputError, match=r"shape \(3, 3\); it must have three axes"):
        run.write_volume("full", np.zeros((3, 3)), 1.0)
    with pytest.raises(InputError, match="pixel size of 0 Å"):
        run.write_volume("full", cube(), 0)


# ---- tables and attributes -----------------------------------------------------------------------


def test_tables(run: RunStore) -> None:
    fsc = {"shell": np.arange(5), "masked": np.linspace(1, 0, 5), "corrected": np.full(5, np.nan)}
    run.write_table("fsc", fsc, {"threshold": np.float32(0.5)})
    run.write_table("poses", {"tilt": np.arange(4.0), "rot": np.arange(3.0), "counts": np.ones((4, 3), int)})
    run.write_table("nothing", {"iteration": np.zeros(0)})
    assert run.tables() == ["fsc", "nothing", "poses"]
    for name, values in run.table("fsc").items():
        np.testing.assert_array_equal(values, fsc[name])
        assert values.dtype == fsc[name].dtype
    assert list(run.table("fsc")) == list(fsc)
    assert run.table_attributes("fsc") == {"threshold": 0.5}
    assert run.table("poses")["counts"].shape == (4, 3)
    assert run.table("nothing")["iteration"].shape == (0,)
    run.write_table("fsc", {"shell": np.arange(2)})
    assert list(run.table("fsc")) == ["shell"]
    with pytest.raises(InputError, match="has no table history; it has: fsc, nothing, poses"):
        run.table("history")
    with pytest.raises(
        InputError, match="the column 'name' of the table fsc is not a plain name with numbers"
    ):
        run.write_table("fsc", {"name": np.array(["a"])})


def test_a_damaged_table(run: RunStore) -> None:
    run.write_table("fsc", {"shell": np.arange(5.0)})
    path = Path(run.url, "tables", "fsc", "shell", "c", "0")
    path.write_bytes(path.read_bytes()[:-5] + b"12345")
    with pytest.raises(DamagedStoreError, match=r"tables/fsc: the array shell is damaged"):
        run.table("fsc")
    path.unlink()
    with pytest.raises(DamagedStoreError, match=r"tables/fsc: the chunk shell/c/0 is missing"):
        run.table("fsc")


def test_attributes(run: RunStore) -> None:
    run.update(plan={"slices": np.int64(3)}, versions=["1"], x=float("nan"), path=Path("/a"))
    run.update(versions=["2"])
    assert not run.complete
    run.finish({"resolution_0143_A": np.float32(4.5), "mean_fsc": np.nan})
    again = open_run(run.url)
    assert again.complete
    assert again.method == "reconstruct"
    known = again.attributes
    assert known["config"] == {"prior": "tv", "scale": 1.0, "mask": None, "weights": [1, 2]}
    assert (known["plan"], known["versions"], known["x"], known["path"]) == ({"slices": 3}, ["2"], None, "/a")
    assert known["result"] == {"resolution_0143_A": 4.5, "mean_fsc": None}
    # Strict JSON, so that other programs read it: Python's own NaN is not in the standard.
    json.loads(Path(run.url, "zarr.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    with pytest.raises(InputError, match="attributes cannot hold a object"):
        run.update(x=object())


# ---- begin, resume, replace ----------------------------------------------------------------------


def test_the_same_configuration_resumes(run: RunStore) -> None:
    run.write_volume("full", cube(), 1.0)
    again = create_run(run.url, "reconstruct", {**CONFIG, "weights": [1, 2]})
    assert again.volumes() == ["full"]
    run.finish({})
    assert create_run(run.url, "reconstruct", CONFIG).complete


@pytest.mark.parametrize("finished", [False, True])
def test_another_configuration_is_refused(run: RunStore, finished: bool) -> None:
    run.write_volume("full", cube(), 1.0)
    if finished:
        run.finish({})
    with pytest.raises(
        InputError, match=r'is a run with prior = "tv" instead of "none"; choose another name'
    ):
        create_run(run.url, "reconstruct", CONFIG | {"prior": "none"})
    with pytest.raises(InputError, match="the method reconstruct instead of refine"):
        create_run(run.url, "refine", CONFIG)
    assert run.volumes() == ["full"]


def test_overwrite_takes_what_is_ours_and_leaves_the_rest(run: RunStore) -> None:
    run.write_volume("full", cube(), 1.0)
    run.write_table("fsc", {"shell": np.arange(3)})
    Path(run.scratch).mkdir()
    Path(run.scratch, "partial").write_text("1")
    Path(run.url, "figures").mkdir()
    Path(run.url, "figures", "mine.png").write_text("1")
    run.finish({})
    again = create_run(run.url, "reconstruct", {"prior": "none"}, overwrite=True)
    assert (again.volumes(), again.tables(), again.complete) == ([], [], False)
    assert not Path(run.scratch).exists()
    assert Path(run.url, "figures", "mine.png").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_run_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    zarr.create_group(tmp_path / "theirs")
    particles(tmp_path / "p.zarr")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for name, sentence in (
        ("home", "not a dcryo run"),
        ("theirs", "not a dcryo run"),
        ("p.zarr", "particle store"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_run(tmp_path / name, "reconstruct", {}, overwrite=overwrite)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_open_run_says_what_is_there_instead(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent does not exist; give the run"):
        open_run(tmp_path / "absent")
    particles(tmp_path / "p.zarr")
    with pytest.raises(InputError, match="is a particle store, not a run"):
        open_run(tmp_path / "p.zarr")


def test_clean(run: RunStore) -> None:
    run.clean()
    Path(run.scratch, "data").mkdir(parents=True)
    run.clean()
    assert not Path(run.scratch).exists()


# ---- maps and datasets ---------------------------------------------------------------------------


def particles(url: Path, truth: bool = True) -> None:
    table = Particles.empty_columns(20, micrographs=("a", "ü"), sources=("s.mrcs",))
    with create_particles(url, table, 9, 2.5, provenance={}, truth=cube() if truth else None) as writer:
        writer.append(np.arange(20 * 81).reshape(20, 9, 9))


def test_read_map(run: RunStore, tmp_path: Path) -> None:
    run.write_volume("full", cube(), 1.5)
    run.write_volume("half1", cube(9, 1), 1.5)
    particles(tmp_path / "p.zarr")
    particles(tmp_path / "real.zarr", truth=False)
    with mrcfile.new(tmp_path / "a.mrc", data=cube(9, 2)) as file:
        file.voxel_size = 4.0
    wanted = {
        run.url: (0, 1.5),
        f"{run.url}/": (0, 1.5),
        f"{run.url}:half1": (1, 1.5),
        f"{tmp_path}/p.zarr:truth": (0, 2.5),
        f"{tmp_path}/a.mrc": (2, 4.0),
    }
    for spec, (seed, pixel_size) in wanted.items():
        volume, found = read_map(spec)
        np.testing.assert_array_equal(volume, cube(9, seed), err_msg=spec)
        assert found == pytest.approx(pixel_size)
    for spec, sentence in {
        f"{run.url}:half3": "has no volume half3; it has: full, half1",
        f"{tmp_path}/p.zarr": r"the only map in it is .*p\.zarr:truth",
        f"{tmp_path}/real.zarr:truth": "has no true volume",
        f"{tmp_path}/absent:full": "absent does not exist; give a .mrc file, RUN, RUN:half1",
        f"{tmp_path}": "is not a map, a run or a particle store",
        "s3://bucket/a.mrc": "MRC files are read from disk",
    }.items():
        with pytest.raises(InputError, match=sentence):
            read_map(spec)


def test_particles_as_a_dataset(tmp_path: Path) -> None:
    particles(tmp_path / "p.zarr")
    data = open_store(tmp_path / "p.zarr")
    assert isinstance(data, xr.Dataset)
    assert data["image"].dims == ("particle", "y", "x")
    assert data["image"].chunksizes["particle"] == (3, 3, 3, 3, 3, 3, 2)  # a chunk per shard
    np.testing.assert_array_equal(data["image"][7].values, np.arange(7 * 81, 8 * 81).reshape(9, 9))
    np.testing.assert_array_equal(data["truth_volume"].values, cube())
    assert np.isnan(data["rotation"].values).all()
    assert data["half"].dtype == np.int8
    assert data["micrographs"].values.tolist() == ["a", "ü"]
    assert data.attrs["pixel_size"] == 2.5
    Path(tmp_path, "p.zarr", "image", "c", "2", "0", "0").unlink()
    with pytest.raises(DamagedStoreError, match="the chunk image/c/2/0/0 is missing"):
        data["image"][7].values  # noqa: B018


def test_a_run_as_a_tree(run: RunStore) -> None:
    run.write_volume("full", cube(), 1.5)
    run.write_volume("linear", cube(5), 3.0)
    run.write_table("fsc", {"shell": np.arange(5), "masked": np.ones(5)})
    run.write_table("poses", {"tilt": np.arange(4.0), "rot": np.arange(3.0), "counts": np.ones((4, 3), int)})
    tree = open_store(run.url)
    assert isinstance(tree, xr.DataTree)
    np.testing.assert_array_equal(tree["full/0"].values, cube())
    assert tree["tables/fsc/masked"].dims == ("row",)
    assert tree.attrs["config"]["prior"] == "tv"


def test_open_without_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.base  # noqa: F401  (xarray may remember that dask is there, and then imports this much of it)

    particles(tmp_path / "p.zarr")
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setattr("dcryo.io.datasets.find_spec", lambda name: None)
    data = open_store(tmp_path / "p.zarr")
    assert data["image"].chunks is None
    np.testing.assert_array_equal(data["image"][7].values, np.arange(7 * 81, 8 * 81).reshape(9, 9))


def test_open_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent does not exist"):
        open_store(tmp_path / "absent")
