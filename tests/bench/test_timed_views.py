"""What is timed is right: the convolution is the direct product, and views add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dcryo.bench.timed_views import make_problem


def test_error_is_that_of_the_spreading_windows() -> None:
    # 6e-5 of the largest value in each of the projector and its adjoint, small against 1e-3
    assert 0 < make_problem(24, 20).without_ctf().error() < 1e-3


def test_direct_products_add_over_views() -> None:
    problem = make_problem(16, 10)
    rest = replace(problem, views=problem.views.take(slice(4, 10)), images=problem.images[4:])
    total = problem.first(4).product() + rest.product()
    np.testing.assert_allclose(total, problem.product(), atol=1e-5 * np.abs(total).max())
    assert len(problem.first(4)) == 4
