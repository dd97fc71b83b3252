"""Cleaning a run: scratch and old poses go, results stay, and a run that would go on is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dcryo.cli.main import main
from dcryo.errors import InputError
from dcryo.io.run_store import RunStore, create_run
from dcryo.methods.clean import CleanConfig, clean


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    """A refinement of three iterations, with a map, a table and scratch; not finished."""
    run = create_run(tmp_path / "r.zarr", "refine", {})
    for iteration in range(4):
        rotation = np.tile([0.0, 0.0, 0.0, 1.0], (9, 1))
        run.write_poses(iteration, {"rotation": rotation, "shift": np.full((9, 2), float(iteration))})
    run.write_volume("full", np.ones((4, 4, 4)), 1.0)
    run.write_table("fsc", {"shell": np.arange(3)})
    Path(run.scratch, "sums").mkdir(parents=True)
    Path(run.scratch, "sums", "partial").write_bytes(bytes(1000))
    return run


def weight(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def test_what_goes_and_what_stays(run: RunStore) -> None:
    run.finish({"resolution_0143_A": 5.0})
    before = weight(run.url)
    done = clean(run.url, CleanConfig(keep_iterations=2))
    assert (done.removed_iterations, done.kept_iterations) == ([0, 1], [2, 3])
    assert done.freed_bytes == before - weight(run.url) > 1000
    assert not Path(run.scratch).exists()
    assert clean(run.url).kept_iterations == [3]
    assert (run.poses()["shift"] == 3).all()
    assert (run.volumes(), run.tables(), run.check()) == (["full"], ["fsc"], [])
    assert run.attributes["result"] == {"resolution_0143_A": 5.0}
    again = clean(run.url)
    assert (again.freed_bytes, again.removed_iterations, again.kept_iterations) == (0, [], [3])


def test_a_run_that_was_not_finished_is_left_alone(run: RunStore) -> None:
    before = weight(run.url)
    with pytest.raises(
        InputError, match=r"r\.zarr was not finished, .*; run its command again, or give --force"
    ):
        clean(run.url)
    assert weight(run.url) == before
    assert clean(run.url, CleanConfig(force=True)).kept_iterations == [3]
    assert not Path(run.scratch).exists()


def test_the_last_iteration_always_stays() -> None:
    for count in (0, -1):
        with pytest.raises(InputError, match=f"--keep-iterations {count} would leave no poses"):
            CleanConfig(keep_iterations=count)


def test_the_command(run: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    run.finish({})
    assert main(["clean", run.url, "--keep-iterations", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("freed_bytes") > 1000
    assert said == {"run": run.url, "removed_iterations": [0], "kept_iterations": [1, 2, 3]}
    assert main(["clean", run.url]) == 0
    assert capsys.readouterr().out.startswith(f"{run.url}: ")
    assert run.pose_iterations() == [3]
    assert main(["info", run.url]) == 0
    assert "poses of iterations  3" in capsys.readouterr().out
    assert main(["info", run.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pose_iterations"] == [3]
