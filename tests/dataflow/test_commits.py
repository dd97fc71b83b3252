"""Commits exist whole or not at all, and exactly once."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dcryo.dataflow.commits import Commits
from dcryo.errors import DamagedStoreError, InputError


def arrays(seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "rhs": rng.normal(size=(5, 6, 7)).astype(np.float32),
        "kernel": rng.normal(size=(3, 4)) + 1j,
        "energy": np.array(rng.normal()),
        "empty": np.zeros((0, 3)),
        "columns": np.asfortranarray(rng.normal(size=(4, 5))),
    }


def assert_same(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


@pytest.fixture
def commits(tmp_path: Path) -> Commits:
    return Commits(tmp_path / "scratch")


def data_file(commits: Commits, name: str) -> Path:
    (path,) = Path(commits.url, "data").rglob(f"{name}.npy")
    return path


def test_what_is_put_comes_back(commits: Commits) -> None:
    assert commits.keys() == []
    assert not commits.has("half1/slice-3")
    assert commits.put("half1/slice-3", arrays(), {"count": np.int64(7), "config": "abc"})
    assert commits.has("half1/slice-3")
    assert commits.keys() == ["half1/slice-3"]
    found, meta = commits.get("half1/slice-3")
    assert_same(found, arrays())
    assert meta == commits.meta("half1/slice-3") == {"count": 7, "config": "abc"}
    with pytest.raises(KeyError):
        commits.get("half1/slice-4")


@given(
    array=hnp.arrays(
        dtype=st.sampled_from([np.float32, np.float64, np.int32, np.complex64, np.uint8, np.bool_]),
        shape=hnp.array_shapes(min_dims=0, min_side=0, max_side=6),
    )
)
def test_every_bit_comes_back(tmp_path_factory: pytest.TempPathFactory, array: NDArray[Any]) -> None:
    commits = Commits(tmp_path_factory.mktemp("c"))
    commits.put("k", {"a": array})
    found = commits.get("k")[0]["a"]
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_others_can_read_the_files(commits: Commits) -> None:
    commits.put("k", arrays())
    path = data_file(commits, "rhs")
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), arrays()["rhs"])
    marker = json.loads(Path(commits.url, "commits", "k.json").read_text())
    assert marker["arrays"]["rhs"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert marker["arrays"]["rhs"]["bytes"] == path.stat().st_size


def test_the_earlier_commit_is_kept(commits: Commits) -> None:
    assert commits.put("k", arrays(0), {"try": 1})
    assert not commits.put("k", arrays(1), {"try": 2})
    assert commits.get("k")[1] == {"try": 1}
    assert_same(commits.get("k")[0], arrays(0))
    assert len(list(Path(commits.url, "data").iterdir())) == 1


def test_of_many_attempts_one_counts(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody sees the marker of another beforehand: all write their data, the exclusive put decides.
    monkeypatch.setattr(Commits, "has", lambda self, key: False)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: commits.put("k", arrays(i), {"seed": i}), range(8)))
    assert sum(won) == 1
    found, meta = commits.get("k")
    assert meta == {"seed": won.index(True)}
    assert_same(found, arrays(won.index(True)))
    assert len(list(Path(commits.url, "data").iterdir())) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "longer", "delete", "folder"])
def test_damage_is_found_and_named(commits: Commits, damage: str) -> None:
    commits.put("a/k", arrays())
    path = data_file(commits, "rhs")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-3])
    elif damage == "longer":
        path.write_bytes(data + b"1")
    elif damage == "delete":
        path.unlink()
    else:
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
    with pytest.raises(
        DamagedStoreError, match=r"the array rhs of commit a/k .*; delete .*a/k\.json and run again"
    ):
        commits.get("a/k")


@pytest.mark.parametrize("offset", [0, 7, 8, 30])
def test_a_damaged_header(commits: Commits, offset: int) -> None:
    commits.put("k", {"rhs": arrays()["rhs"]})
    path = data_file(commits, "rhs")
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedStoreError, match="the array rhs of commit k"):
        commits.get("k")


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\x00"])
def test_a_damaged_marker(commits: Commits, text: str) -> None:
    commits.put("k", arrays())
    Path(commits.url, "commits", "k.json").write_text(text)
    with pytest.raises(DamagedStoreError, match="the marker of commit k is damaged"):
        commits.get("k")


def test_delete_and_sweep(commits: Commits) -> None:
    assert commits.sweep() == 0
    for key in ("a", "b/c"):
        commits.put(key, arrays())
    stray = Path(commits.url, "data", "d-0123")
    stray.mkdir()
    # What a killed writer leaves: whole files without a marker, and the temporary name of an unfinished one.
    (stray / "rhs.npy").write_bytes(b"1")
    (stray / "kernel.npy#1").write_bytes(b"1")
    assert commits.sweep() == 1
    assert not stray.exists()
    assert_same(commits.get("b/c")[0], arrays())
    commits.delete("a")
    commits.delete("a")
    assert commits.keys() == ["b/c"]
    assert len(list(Path(commits.url, "data").iterdir())) == 1


def test_a_failure_before_the_marker_leaves_nothing(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(url: str, data: bytes) -> bool:
        raise InputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("dcryo.dataflow.commits.put_exclusive", dies)
        with pytest.raises(InputError, match="the disk is full"):
            commits.put("k", arrays())
    assert not commits.has("k")
    assert list(Path(commits.url, "data").iterdir()) == []
    assert commits.put("k", arrays())


@pytest.mark.parametrize("key", ["", "a//b", "../a", "a b", "/a", ".a"])
def test_keys_that_cannot_be(commits: Commits, key: str) -> None:
    with pytest.raises(InputError, match="is not made of letters"):
        commits.put(key, arrays())


def test_objects_are_refused(commits: Commits) -> None:
    with pytest.raises(InputError, match="an array of Python objects"):
        commits.put("k", {"a": np.array([None])})
    assert not commits.has("k")


def test_it_travels_to_workers(commits: Commits) -> None:
    commits.put("k", arrays())
    assert_same(pickle.loads(pickle.dumps(commits)).get("k")[0], arrays())


def test_memory_is_bounded(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcryo.dataflow.commits.PART_BYTES", 1 << 20)
    big = np.random.default_rng(0).normal(size=(4, 1 << 20))  # 32 MiB in 32 parts
    tracemalloc.start()
    commits.put("k", {"a": big})
    put_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    found = commits.get("k")[0]["a"]
    get_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, big)
    assert put_peak < 4 << 20
    assert get_peak < found.nbytes + (4 << 20)


WRITER = """
import sys
import numpy as np
from dcryo.dataflow.commits import Commits
commits = Commits(sys.argv[1])
for k in range(1000):
    commits.put(f"slice-{k:04d}", {"a": np.random.default_rng(k).normal(size=20000)}, {"k": k})
"""


def test_a_writer_killed_at_any_moment(commits: Commits) -> None:
    markers = Path(commits.url, "commits")
    for wanted in (1, 8, 23):
        child = subprocess.Popen([sys.executable, "-c", WRITER, commits.url])
        try:
            while not markers.is_dir() or len(os.listdir(markers)) < wanted:
                assert child.poll() is None, "the writer ended by itself"
                time.sleep(0.001)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        done = commits.keys()
        assert done == [f"slice-{k:04d}" for k in range(len(done))]
        for k, key in enumerate(done):
            found, meta = commits.get(key)
            assert meta == {"k": k}
            np.testing.assert_array_equal(found["a"], np.random.default_rng(k).normal(size=20000))
        assert commits.sweep() <= 1
        assert len(list(Path(commits.url, "data").iterdir())) == len(done)
