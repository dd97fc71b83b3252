"""Poses of the iterations of a refinement, in its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dcryo.errors import DamagedStoreError, InputError
from dcryo.io.datasets import open as open_store
from dcryo.io.run_poses import POSE_LAYOUT
from dcryo.io.run_store import RunStore, create_run, open_run

COUNT, ROWS = 50, 8
"""Particles, and rows of a chunk in these tests: seven chunks, the last of two rows."""

Columns = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcryo.io.run_poses.ROWS", ROWS)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return create_run(tmp_path / "run", "refine", {})


def columns(seed: int = 0, count: int = COUNT, every: bool = True) -> Columns:
    """Random poses, the third particle without one; ``every``: with the columns that may be left out."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(count, random_state=seed).as_quat()
    rotation[2] = np.nan
    poses: Columns = {"rotation": rotation, "shift": rng.normal(size=(count, 2))}
    if every:
        for name in ("cost", "turn", "sigma_rotation", "sigma_shift"):
            poses[name] = rng.random(count, dtype=np.float32)
        poses["lost"] = (np.arange(count) == 2).astype(np.uint8)
    return poses


def assert_equal(found: Columns, wanted: Columns) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name].dtype == np.dtype(POSE_LAYOUT[name][0])


def append(
    run: RunStore, iteration: int, count: int, *windows: Columns, then: BaseException | None = None
) -> None:
    """Write windows of an iteration; ``then``: and be interrupted by it."""
    with run.create_poses(iteration, count) as writer:
        for window in windows:
            writer.append(window)
        if then is not None:
            raise then


def rows(poses: Columns, start: int, stop: int) -> Columns:
    return {name: values[start:stop] for name, values in poses.items()}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_written_is_read(run: RunStore) -> None:
    first, last = columns(0, every=False), columns(1)
    assert run.pose_iterations() == []
    run.write_poses(0, first)
    run.write_poses(12, last, {"cutoff": 7})
    run.write_poses(3, first)
    again = open_run(run.url)
    assert again.pose_iterations() == [0, 3, 12]
    assert_equal(again.poses(0), first)
    assert_equal(again.poses(), last)
    record = again.pose_record()
    assert (record["iteration"], record["count"], record["attributes"]) == (12, COUNT, {"cutoff": 7})
    some = again.poses(12, ["cost", "shift"], 6, 19)
    assert_equal(some, {name: last[name][6:19] for name in ("cost", "shift")})
    assert again.volumes() == []
    run.finish({})
    assert run.check() == []


def test_a_slice_reads_its_own_chunks_only(run: RunStore) -> None:
    run.write_poses(1, columns())
    chunks = Path(run.url, "poses", "0001", "rotation", "c")
    assert sorted(int(path.name) for path in chunks.iterdir()) == list(range(7))
    for lost in (0, 1, 4, 5, 6):
        (chunks / str(lost) / "0").unlink()
    wanted = columns()["rotation"][2 * ROWS : 4 * ROWS]
    np.testing.assert_array_equal(run.poses(1, ["rotation"], 2 * ROWS, 4 * ROWS)["rotation"], wanted)
    with pytest.raises(DamagedStoreError, match="poses/0001: the chunk rotation/c/4/0 is missing"):
        run.poses(1, ["rotation"], 2 * ROWS, 4 * ROWS + 1)


@pytest.mark.parametrize("window", [1, 7, 8, 13, 50])
def test_windows_of_any_size_make_the_same_poses(run: RunStore, window: int) -> None:
    poses = columns()
    run.write_poses(0, poses)
    with run.create_poses(1, COUNT, {"a": 1}) as writer:
        for start in range(0, COUNT, window):
            assert run.pose_iterations() == [0]
            writer.append(rows(poses, start, start + window))
    assert_equal(run.poses(1), poses)
    assert run.pose_record(1)["digest"] == run.pose_record(0)["digest"]
    whole, parts = (files(Path(run.url, "poses", name, "rotation")) for name in ("0000", "0001"))
    assert {name: content for name, (content, _) in whole.items()} == {
        name: content for name, (content, _) in parts.items()
    }


def test_an_iteration_is_never_replaced(run: RunStore) -> None:
    poses = columns()
    run.write_poses(1, poses)
    before = files(Path(run.url))
    run.write_poses(1, poses)
    for changed in ("rotation", "cost"):
        other = {name: values.copy() for name, values in poses.items()}
        other[changed][7] = other[changed][8]
        with pytest.raises(InputError, match="other poses of iteration 1 are there already"):
            run.write_poses(1, other)
    with pytest.raises(InputError, match="other poses of iteration 1"):
        run.write_poses(1, {name: poses[name] for name in ("rotation", "shift")})
    with pytest.raises(InputError, match="the poses of iteration 1 are there already"):
        run.create_poses(1, COUNT)
    assert files(Path(run.url)) == before


def test_what_was_cut_short_is_not_there_and_is_written_again(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write_poses(0, columns(0))
    with pytest.raises(KeyboardInterrupt):
        append(run, 1, COUNT, rows(columns(1), 0, 20), then=KeyboardInterrupt())
    assert not Path(run.url, "poses", "0001").exists()
    # a process that is killed does not even leave the context
    writer = run.create_poses(1, COUNT)
    writer.__enter__()
    writer.append(rows(columns(1), 0, 20))
    assert Path(run.url, "poses", "0001", "rotation", "c", "1").exists()
    assert run.pose_iterations() == [0]
    assert_equal(run.poses(), columns(0))
    with pytest.raises(InputError, match="no poses of iteration 1; it has: 0"):
        run.poses(1)
    assert isinstance(open_store(run.url), xr.DataTree)
    run.finish({})
    assert run.check() == []
    run.write_poses(1, columns(2))
    assert_equal(run.poses(), columns(2))


def test_the_number_of_rows(run: RunStore) -> None:
    poses = columns()
    some = rows(poses, 0, 20)
    with pytest.raises(InputError, match="poses of 20 particles came for 50"):
        append(run, 1, 50, some)
    with pytest.raises(InputError, match="more poses than its 30 particles"):
        append(run, 1, 30, some, some)
    with pytest.raises(InputError, match="there are no particles"):
        run.create_poses(1, 0)
    assert run.pose_iterations() == []
    assert not Path(run.url, "poses", "0001").exists()


def test_columns_that_cannot_be(run: RunStore) -> None:
    poses = columns()
    rotation, shift = poses["rotation"].copy(), poses["shift"].copy()
    rotation[30] *= 1.01
    shift[31, 0] = np.nan
    lost_shift = poses["shift"].copy()
    lost_shift[2] = np.nan
    cases: list[tuple[dict[str, Any], str]] = [
        (
            poses | {"weight": np.ones(COUNT)},
            "weight is not a column of poses; they are rotation, shift, cost",
        ),
        ({"rotation": poses["rotation"]}, "the column shift is missing"),
        (poses | {"shift": np.zeros((COUNT, 3))}, r"the column shift has the shape \(50, 3\), not \(50, 2\)"),
        (poses | {"cost": np.zeros(COUNT - 1)}, r"the column cost has the shape \(49,\), not \(50,\)"),
        (poses | {"rotation": rotation}, "row 31 is neither a unit quaternion"),
        (poses | {"shift": shift}, "row 32 is neither a unit quaternion with a shift nor NaN"),
    ]
    for given, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            run.write_poses(1, given)
    with pytest.raises(InputError, match="there is no iteration -1"):
        run.write_poses(-1, poses)
    # rows are counted over the windows, and all windows have the same columns
    with pytest.raises(InputError, match="row 31 is neither"):
        append(run, 1, COUNT, rows(poses, 0, 25), rows(poses | {"rotation": rotation}, 25, COUNT))
    few = {name: poses[name][25:] for name in ("rotation", "shift")}
    with pytest.raises(InputError, match="columns rotation, shift and the first had"):
        append(run, 1, COUNT, rows(poses, 0, 25), few)
    assert run.pose_iterations() == []
    run.write_poses(1, poses | {"shift": lost_shift})  # a particle without a pose needs no shift


def test_what_is_not_there(run: RunStore) -> None:
    with pytest.raises(InputError, match="holds no poses; give a run that dcryo refine made"):
        run.poses()
    with pytest.raises(InputError, match="holds no poses"):
        run.poses(3)
    run.write_poses(0, columns(every=False))
    run.write_poses(1, columns(every=False))
    with pytest.raises(InputError, match="has no poses of iteration 2; it has: 0, 1"):
        run.poses(2)
    with pytest.raises(InputError, match="poses/0001 has no column cost; it has: rotation, shift"):
        run.poses(None, ["cost"])
    for start, stop in ((0, COUNT + 1), (-1, 5), (6, 5)):
        with pytest.raises(InputError, match=f"rows {start} to {stop} are not within its 50 particles"):
            run.poses(1, start=start, stop=stop)
    with pytest.raises(InputError, match="'poses' cannot name a volume"):
        run.write_volume("poses", np.zeros((4, 4, 4)), 1.0)
    run.write_table("poses", {"counts": np.ones(3)})  # the histogram of directions has this name


@pytest.mark.parametrize("harm", ["flip", "delete", "metadata"])
def test_damage_is_found(run: RunStore, harm: str) -> None:
    run.write_poses(0, columns(0))
    run.write_poses(1, columns(1))
    run.finish({})
    folder = Path(run.url, "poses", "0001", "shift")
    chunk = folder / "c" / "3" / "0"
    if harm == "flip":
        data = bytearray(chunk.read_bytes())
        data[40] ^= 1
        chunk.write_bytes(data)
    else:
        (chunk if harm == "delete" else folder / "zarr.json").unlink()
    with pytest.raises(DamagedStoreError, match="poses/0001"):
        run.poses()
    (problem,) = run.check()
    assert "poses/0001" in problem
    assert_equal(run.poses(0), columns(0))


def test_zarr_and_xarray_read_them(run: RunStore) -> None:
    run.write_poses(0, columns(0, every=False))
    run.write_poses(1, columns(1))
    group = zarr.open_group(Path(run.url), mode="r")
    array = group["poses/0001/sigma_rotation"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[:], columns(1)["sigma_rotation"])
    assert array.attrs["units"] == "rad"
    assert [codec["name"] for codec in array.metadata.to_dict()["codecs"]] == ["bytes", "crc32c"]  # type: ignore[index, union-attr, call-overload]
    tree = open_store(run.url)
    assert isinstance(tree, xr.DataTree)
    assert set(tree["poses"].children) == {"0000", "0001"}
    assert tree["poses/0001/shift"].dims == ("particle", "xy")
    np.testing.assert_array_equal(tree["poses/0001/shift"].values, columns(1)["shift"])


def test_old_iterations_go(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for iteration in range(4):
        run.write_poses(iteration, columns(iteration))
    run.create_poses(4, COUNT).__enter__()  # cut short
    run.write_volume("full", np.ones((4, 4, 4)), 1.0)
    assert run.keep_poses(2) == [0, 1]
    assert run.pose_iterations() == [2, 3]
    assert sorted(path.name for path in Path(run.url, "poses").iterdir()) == ["0002", "0003", "zarr.json"]
    assert run.keep_poses(2) == []
    assert_equal(run.poses(), columns(3))
    assert run.volumes() == ["full"]

    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dcryo.io.run_poses.remove_node", dies)
        with pytest.raises(KeyboardInterrupt):
            run.keep_poses(1)
    assert run.pose_iterations() == [3]  # what was to go is not listed, though it is there
    run.keep_poses(1)
    assert not Path(run.url, "poses", "0002").exists()


def test_a_run_that_is_replaced_takes_its_poses_along(run: RunStore) -> None:
    run.write_poses(0, columns())
    again = create_run(run.url, "refine", {"other": 1}, overwrite=True)
    assert again.pose_iterations() == []
    assert not Path(run.url, "poses").exists()
