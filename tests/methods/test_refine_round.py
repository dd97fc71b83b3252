"""The weight of the references, and when half maps are moved into one frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest

from dcryo.methods.refine_round import Round, explained, support_of
from dcryo.methods.regularise import MapProblem, Solution
from dcryo.operators.normal import Accumulator, Convolution
from dcryo.operators.views import make_radial, make_views

N = 12


def problem(seed: int) -> MapProblem:
    """Normal equations of noise images."""
    particles = oracle.example(8, seed)
    accumulator = Accumulator(
        N, make_radial(oracle.flat, [np.ones(N // 2 + 1)], N, [1.0]), accuracy="reference", threads=1
    )
    accumulator.add(oracle.noise((8, N, N), seed), make_views(particles, oracle.PIXEL))
    return MapProblem(accumulator.finish(), 1)


def solution(volume: Any) -> Solution:
    return Solution(volume, volume, [], "")


def test_half_maps_explain_each_others_images_by_the_fall_of_the_misfit() -> None:
    """Of c against nothing: cᵀ rhs - cᵀ(r * c) / 2, for the map of the other half."""
    problems = {1: problem(1), 2: problem(2)}
    # a step down the slope of each, short enough that it falls
    maps = {3 - h: np.asarray(1e-3 * p.equations.rhs, np.float32) for h, p in problems.items()}
    wanted = 0.0
    for half, own in problems.items():
        c = maps[3 - half].astype(np.float64)
        response = Convolution(own.equations.spectrum, N, 1)(maps[3 - half])
        wanted += float((c * own.equations.rhs).sum() - 0.5 * (c * response).sum())
    assert wanted > 0
    # float32 volumes: sums of a thousand products beside an energy of the images
    assert explained(problems, {h: solution(m) for h, m in maps.items()}) == pytest.approx(wanted, rel=1e-3)
    empty = {h: solution(np.zeros((N, N, N), np.float32)) for h in (1, 2)}
    assert explained(problems, empty) == 0


def found(angle: float, move: float) -> Round:
    """Half 2 is turned about z by ``angle`` and ``move`` voxels of 2 Å away."""
    c, s = np.cos(angle), np.sin(angle)
    return Round(
        20, 6, [1.0], 10.0, 12.0, 0.5, 1.0, False, [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]],
        [move, 0.0, 0.0], 2.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("angle", "move", "moved"),
    [(0.02, 0.1, False), (0.06, 0.1, True), (0.02, 0.6, True)],
    ids=["noise", "turned", "moved"],
)
def test_half_maps_are_moved_where_they_differ_by_more_than_noise(
    angle: float, move: float, moved: bool
) -> None:
    frames = found(angle, move).frames(40, turn=0.05, shift=1.0)
    assert bool(frames) == moved
    if moved:
        half, frame = frames[0]
        assert half == 2
        np.testing.assert_allclose(frame.translation, [2 * move, 0, 0])  # voxels of half the size


def test_frames_of_unknown_noise_are_left_alone() -> None:
    assert found(1.0, 10.0).frames(40, np.nan, np.nan) == ()


def test_support_ends_before_the_first_shell_that_does_not_agree() -> None:
    assert support_of(np.array([0.0, 0.9, 0.5, 0.1, 0.4])) == 3
    assert support_of(np.array([1.0, 0.9, 0.5, 0.2])) == 3
