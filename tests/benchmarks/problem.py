"""What is timed: the views of Table 4.1, and the normal equations of their noisy images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dcryo.bench import timed_views
from dcryo.bench.timed_views import Problem
from dcryo.bench.timing import ONE_THREAD
from dcryo.operators.normal import NormalEquations

__all__ = ["ONE_THREAD", "Problem", "make_equations", "make_problem"]


@lru_cache(maxsize=1)
def make_problem(box: int, count: int) -> Problem:
    """``count`` random views of a phantom in a box of ``box``."""
    return timed_views.make_problem(box, count)


@lru_cache(maxsize=1)
def make_equations(box: int, count: int) -> NormalEquations:
    """Normal equations of noisy images of the phantom, 0.1 in signal to noise."""
    problem = make_problem(box, count)
    clean = problem.project()
    clean *= np.sqrt(0.1 / clean.var())
    clean += problem.images
    rhs = problem.backproject(clean)
    return NormalEquations(rhs, problem.spectrum(), float(np.square(clean, dtype=np.float64).sum()), count)
