"""The solvers on a GPU: the same iterates as on the CPU, and nothing brought to the host on the way."""

from __future__ import annotations

from functools import cache

import numpy as np
import oracle
import pytest
from equations import accumulate, relative
from gpu.backend import need_a_device

from dcryo.arrays import on_device, to_device, to_host
from dcryo.errors import InputError
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.reconstruct_config import SOLVERS
from dcryo.methods.regularise import MapProblem, Method, solve_map
from dcryo.operators.normal import NormalEquations
from dcryo.operators.wavelet import Haar
from dcryo.solvers.cg import conjugate_gradients
from dcryo.solvers.fista import inner
from dcryo.solvers.stopping import iterations

need_a_device()

pytestmark = pytest.mark.gpu

AGREE = 1e-5
"""Relative difference of CPU and GPU: a few iterations carry the rounding of float32 on."""


@cache
def equations(n: int) -> NormalEquations:
    """Of images of a blob in noise."""
    particles = oracle.example(6, 1)
    dense = oracle.projected(particles, n, detector=1)
    images = dense.apply(oracle.blob(n)) + 0.1 * oracle.noise((6, n, n), 2)
    return accumulate(particles, images.astype(np.float32), n, accuracy="default")


def test_inner_product_is_in_float64() -> None:
    a, b = oracle.noise((5, 4, 3), 1), oracle.noise((5, 4, 3), 2)
    expected = float(np.sum(a.astype(np.float64) * b))
    assert inner(to_device(a, "cuda"), to_device(b, "cuda")) == pytest.approx(expected, rel=1e-13)


def test_conjugate_gradients() -> None:
    rng = np.random.default_rng(3)
    diagonal = rng.uniform(1, 3, (4, 4, 4)).astype(np.float32)
    linear = oracle.noise((4, 4, 4), 4)
    there = to_device(diagonal, "cuda")
    x, norms = conjugate_gradients(
        lambda v: there * v, to_device(linear, "cuda"),
        precondition=lambda v: np.float32(0.5) * v, tolerance=1e-6,
    )  # fmt: skip
    assert on_device(x)
    assert norms[-1] <= 1e-6 * norms[0]
    assert relative(to_host(x), linear / diagonal) < 3e-6  # the residual, times the condition


def test_largest_eigenvalue() -> None:
    one, two = MapProblem(equations(6), 1), MapProblem(equations(6).to("cuda"), 1)
    assert two.lipschitz == pytest.approx(one.lipschitz, rel=AGREE)


@pytest.mark.parametrize(
    ("solver", "prior"), [*((name, "tv") for name in SOLVERS[1:]), ("fista", "tv-aniso")]
)
def test_regularised_map(solver: str, prior: str) -> None:
    """Two iterations, and two more that start from them; x >= 0 counts from a level."""
    found = []
    for device in ("cpu", "cuda"):
        problem = MapProblem(equations(6).to(device), 1, baseline=0.02)
        method = Method(prior, solver)
        duals = method.make_prior(1)
        duals.steps = 2
        first = solve_map(problem, 1.0, True, iterations(2), None, duals, method)
        second = solve_map(problem, 0.5, True, iterations(2), first, duals, method)
        assert on_device(second.x, second.coefficients) == (device == "cuda")
        two, one = second.coefficients, first.coefficients
        found.append((second, (problem.misfit(two), problem.misfit_error(two, one))))
    (expected, misfits), (there, others) = found
    assert relative(to_host(there.coefficients), expected.coefficients) < AGREE
    assert there.history == pytest.approx(expected.history, rel=AGREE)
    assert others == pytest.approx(misfits, rel=AGREE)


def test_wavelets_say_that_they_stay_on_the_cpu() -> None:
    with pytest.raises(InputError, match="--prior haar has no GPU transform"):
        Haar().dual(to_device(oracle.noise((8, 8, 8), 1), "cuda"))


def test_linear_map() -> None:
    maps = []
    for device in ("cpu", "cuda"):
        volume, norms = solve_linear(MapProblem(equations(8).to(device), 1), tolerance=1e-3)
        assert on_device(volume) == (device == "cuda")
        maps.append((to_host(volume), norms, surroundings(volume)))
    (expected, norms, level), (found, others, other) = maps
    assert len(norms) == len(others) > 3
    assert relative(found, expected) < 10 * AGREE  # ten iterations or so, ill-conditioned
    assert other == pytest.approx(level, rel=1e-3, abs=1e-6 * float(np.abs(expected).max()))
