"""Table 4.1 of the thesis: what a projection, its adjoint and their product cost, 500 views of 128³.

The thesis' figures are from MATLAB on other hardware and without a CTF; here every view has a CTF,
astigmatism and a shift.  The direct product is timed as well: that is what the convolution has to beat today.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from benchmarks.problem import ONE_THREAD, Problem, make_problem

from dcryo.figures.table_4_1 import THESIS, THESIS_BOX, THESIS_VIEWS
from dcryo.operators.normal import Convolution

pytestmark = pytest.mark.benchmark(timer=time.process_time)

THESIS_CASE = (THESIS_BOX, THESIS_VIEWS)

TARGET = {"Hc": 1.5, "Hᵀb": 1.5, "kernel": 1.5, "HᵀHc, convolution": 0.15}
"""CPU seconds on one thread that we want to stay below in that case."""

CASES = [(64, 500), THESIS_CASE, (128, 1000)]
"""Box and number of views: the thesis' case, half the box, and twice the views."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"box{case[0]}-views{case[1]}")
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(*request.param)


def compared(problem: Problem, name: str) -> dict[str, Any]:
    """The figures that a timing of this problem is comparable with."""
    if (problem.box, len(problem)) != THESIS_CASE:
        return {}
    return {"thesis": THESIS[name], "target": TARGET.get(name)}


def test_projection(problem: Problem, record: Callable[..., Any]) -> None:
    images = record(problem.project, per=len(problem), **compared(problem, "Hc"))
    assert images.shape == problem.images.shape


def test_backprojection(problem: Problem, record: Callable[..., Any]) -> None:
    volume = record(lambda: problem.backproject(problem.images), per=len(problem), **compared(problem, "Hᵀb"))
    assert volume.shape == problem.volume.shape


def test_kernel_with_spectrum(problem: Problem, record: Callable[..., Any]) -> None:
    spectrum = record(problem.spectrum, per=len(problem), **compared(problem, "kernel"))
    # A sum of squares of real transfer functions: its mean is positive.
    assert spectrum.mean() > 0


def test_direct_product(problem: Problem, record: Callable[..., Any]) -> None:
    volume = record(
        problem.product, per=len(problem), rounds=3,
        **compared(problem, "HᵀHc, direct"),
    )  # fmt: skip
    assert volume.shape == problem.volume.shape


def test_fast_product(problem: Problem, record: Callable[..., Any]) -> None:
    convolve = Convolution(problem.spectrum(), problem.box, ONE_THREAD)
    fast = record(lambda: convolve(problem.volume), rounds=10, **compared(problem, "HᵀHc, convolution"))
    assert fast.shape == problem.volume.shape


def test_fast_product_is_the_product() -> None:
    """What is timed above is the right thing, to the error of spreading; without a CTF.

    A CTF carries some of the object over the edge of an image, where the direct product wraps around and the
    convolution does not: 4 % of the product for these boxes and defocuses.
    """
    assert make_problem(64, 100).without_ctf().error() < 1e-3
