"""Every contender computes what the others do: its own check, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dcryo.bench import particles, peers, suites
from dcryo.bench.peers import OURS, PEERS
from dcryo.bench.subject import Job, load
from dcryo.bench.suites import SUITES, Contender
from dcryo.methods.progress import Silent

ALL = {
    f"{name}-{contender.label}-{what}": contender
    for name, suite in SUITES.items()
    if name not in ("threads", "store")
    for what, contenders in suite.cases.items()
    for contender in contenders
}
PLAIN = {name: c for name, c in ALL.items() if not name.startswith("reconstruct")}
MAPS = {name: c for name, c in ALL.items() if name.startswith("reconstruct")}


def needed(contender: Contender) -> None:
    """Skip where the peer is not installed."""
    if contender.peer != OURS and PEERS[contender.peer].version() is None:
        pytest.skip(f"{contender.peer} is not installed: {PEERS[contender.peer].install}")


def bound(contender: Contender) -> float:
    """Largest error: the 1e-3 that is asked for; of interpolation on a grid of twice the size, a few %."""
    if "Convolve" in contender.factory or "padded" in contender.factory:
        return 1e-6  # float32
    return {"torch-projectors, linear": 0.1, "torch-projectors, cubic": 0.04}.get(contender.label, 1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_operators_and_convolutions(name: str, tmp_path: Path) -> None:
    contender = PLAIN[name]
    needed(contender)
    subject = load(contender.factory)(Job(24, 10, 1, 1, "cpu", str(tmp_path)))
    first = np.array(subject.run())
    result = subject.run()
    np.testing.assert_array_equal(result, first, err_msg="the second call was given other data")
    checks = subject.check(result)
    assert 0 < checks["relative"] < bound(contender)
    assert subject.check(1.05 * result)["relative"] > 0.03 or "Kernel" in contender.factory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles as a store and as a STAR file, and what their map is solved to."""
    made = tmp_path_factory.mktemp("particles")
    particles.make_particles(made, 32, 200, 0, Silent())
    particles.write_star(made, Silent())
    particles.find_target(made, 32, 200, 0, 1)
    return made


@pytest.mark.parametrize("name", MAPS)
def test_maps(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contender = MAPS[name]
    needed(contender)
    monkeypatch.chdir(folder)
    subject = load(contender.factory)(Job(32, 200, 0, 1, "cpu", str(folder)))
    checks = subject.check(subject.run())
    # 200 noisy views of 32 pixels determine most shells; another object, or another hand, has no FSC at all
    assert checks["mean_fsc"] > 0.4
    sign = -1 if contender.peer == "aspire" else 1
    assert sign * checks["correlation"] > 0.2
    if contender.factory.endswith(":Map"):
        assert 0 < checks["gap"] <= particles.GAP
        assert 1 < checks["iterations"] < particles.LONG / 3


def test_sums_from_memory_are_of_all_particles(folder: Path) -> None:
    subject = particles.FromMemory(Job(32, 200, 0, 1, "cpu", str(folder)))
    equations = subject.run()
    assert subject.check(equations) == {"particles": 200}
    # the kernel does not know the images: it is that of the store
    stored = particles.sums(Job(32, 200, 0, 1, "cpu", str(folder)), folder / "again.zarr")
    np.testing.assert_allclose(equations.spectrum, stored.spectrum, atol=1e-5 * np.abs(stored.spectrum).max())


def test_peers_are_those_asked_for() -> None:
    installed = ["scipy", "ducc0"]
    assert peers.choose(["auto"], installed) == ("scipy", "ducc0")
    assert peers.choose(["none"], installed) == ()
    assert peers.choose(["ducc0", "ducc0"], installed) == ("ducc0",)


def test_ours_stands_first_in_every_case() -> None:
    for suite in SUITES.values():
        for contenders in suite.cases.values():
            assert contenders[0].peer == OURS
            assert {c.peer for c in contenders} <= {OURS, *PEERS}
            assert len({c.label for c in contenders}) == len(contenders)


def test_a_given_size_is_measured_once() -> None:
    operators = SUITES["operators"]
    assert suites.sizes(operators, True, None, None) == operators.full
    assert suites.sizes(operators, True, 32, 7) == ((32, 7),)
    assert suites.sizes(operators, False, None, 7) == ((64, 7),)
