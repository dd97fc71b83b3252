"""Every prior and every solver through `reconstruct`, in a tiny box."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.io.particle_store import ParticleStore
from dcryo.io.run_store import RunStore
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
from dcryo.methods.reconstruct_config import PRIORS, SOLVERS
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.metrics.fsc import mean_fsc

LONG = ReconstructConfig(weight=0.5, nonnegative=True, iterations=200, tolerance=1e-6, halves="none")
"""One map, solved nearly to the end."""

REGULARISED = [prior for prior in PRIORS if prior != "none"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    config = SimulateConfig(box=16, pixel_size=6.0, particles=100, snr=0.5, seed=2)
    return simulate(str(tmp_path_factory.mktemp("solvers") / "particles.zarr"), config)


@pytest.fixture(scope="module")
def solved(store: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of a configuration, made once."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def run(config: ReconstructConfig) -> RunStore:
        return reconstruct(store.url, str(folder / f"{abs(hash(config))}.zarr"), config, threads=1)

    return run


def volume(run: RunStore, name: str = "full") -> np.ndarray:
    return np.asarray(run.volume(name)[0], np.float64)


def distance(one: RunStore, two: RunStore) -> float:
    return float(np.linalg.norm(volume(one) - volume(two)) / np.linalg.norm(volume(two)))


@pytest.mark.parametrize("basis", ["voxel", "kbwf:4,19,2"])
@pytest.mark.parametrize("prior", REGULARISED)
def test_solvers_end_in_the_same_map(solved: Any, prior: str, basis: str) -> None:
    count = 40 if prior == "haar" else 200  # a tiny box is all overhead there
    config = replace(LONG, prior=prior, basis=basis, iterations=count)
    runs = {s: solved(replace(config, solver=s)) for s in SOLVERS if s != "auto"}
    least = min(run.attributes["result"]["objective"] for run in runs.values())
    fall = runs["fista"].table("history")["objective"][0] - least
    for run in runs.values():
        assert run.attributes["result"]["objective"] - least < 0.4 / count * fall
        # an objective known to 1e-3 of its fall fixes the map to about the root of that
        assert distance(run, runs["fista"]) < 0.1


def test_auto_is_the_fastest_solver(solved: Any) -> None:
    np.testing.assert_array_equal(volume(solved(LONG)), volume(solved(replace(LONG, solver="fista"))))


def test_priors_are_not_the_same(solved: Any) -> None:
    runs = [solved(replace(LONG, prior=prior, tolerance=1e-4)) for prior in REGULARISED]
    linear = solved(replace(LONG, prior="none", weight="auto"))
    for i, one in enumerate(runs):
        assert distance(one, linear) > 0.1
        for two in runs[:i]:
            assert distance(one, two) > 0.02


@pytest.mark.parametrize(
    ("prior", "solver"), [("tv-aniso", "fista"), ("haar", "ilf-circulant"), ("tv", "admm-pcg")]
)
def test_weight_search_and_halves(solved: Any, prior: str, solver: str) -> None:
    run = solved(ReconstructConfig(prior=prior, solver=solver))
    result, weights = run.attributes["result"], run.table("weights")
    assert result["weight"] in weights["weight"]
    # the search is that of this prior and this solver
    plain = solved(ReconstructConfig()).table("weights")
    assert weights["cross_validation"][0] != plain["cross_validation"][0]
    assert len(np.unique(weights["weight"])) >= 3
    assert set(run.table("history")["solve"]) == {0, 1, 2}
    assert run.volumes() == ["full", "half1", "half2", "linear", "linear1", "linear2"]
    # whatever it was, cross-validation has made it better than none
    table = run.table("fsc")
    assert mean_fsc(table["truth"]) > mean_fsc(table["truth_linear"])


def test_penalty_of_the_user_is_used(solved: Any) -> None:
    config = replace(LONG, solver="ilf", iterations=10)
    one, two = solved(replace(config, rho=0.01)), solved(replace(config, rho=1.0))
    assert distance(one, two) > 1e-3
    # 0.5 of the weight is what "auto" takes
    assert distance(solved(replace(config, rho=0.25)), solved(config)) == 0


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("prior", ["tv-aniso", "haar"])
def test_threads_change_nothing(
    store: ParticleStore, solved: Any, tmp_path: Path, prior: str, threads: int
) -> None:
    config = replace(LONG, prior=prior, solver="ilf-circulant", iterations=10)
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), config, threads=threads)
    np.testing.assert_array_equal(volume(run), volume(solved(config)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"solver": "newton"}, "--solver 'newton' is not known; choose one of auto, fista, admm-cg"),
        ({"solver": "ilf", "rho": 0.0}, "--rho 0.0 is neither auto nor a number > 0"),
        ({"solver": "ilf", "rho": float("nan")}, "--rho nan"),
        ({"solver": "ilf", "rho": "small"}, "--rho 'small'"),
        ({"rho": 0.1}, "--rho 0.1 is for the ADMM solvers; choose one with --solver"),
        ({"solver": "fista", "rho": 0.1}, "--rho 0.1 is for the ADMM solvers"),
        ({"prior": "none", "solver": "ilf"}, "--solver ilf has nothing to do with --prior none"),
        ({"prior": "haar", "halves": "none"}, "--weight auto needs half sets"),
    ],
)
def test_settings_that_make_no_sense_together(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ReconstructConfig(**settings)


def test_settings_that_do() -> None:
    for prior in REGULARISED:
        for solver in SOLVERS:
            ReconstructConfig(prior=prior, solver=solver)
    assert ReconstructConfig(solver="ilf", rho=0.1).rho == 0.1
    assert ReconstructConfig(prior="none", halves="none").solver == "auto"
