"""Local resolution of maps that are resolved differently in two halves of the box."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft

from dcryo.errors import InputError
from dcryo.imaging.radial import filtered, low_pass
from dcryo.metrics.fsc import phase_randomise
from dcryo.metrics.local_resolution import LocalResolution, Window, local_resolution

N, PIXEL = 64, 2.0
WINDOW = Window(radius=6, edge=8, step=9)
LEFT, RIGHT = 20, 9
"""Shells to which the lower and the upper half in z are shared by the half maps."""


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, N, N))


def step() -> np.ndarray:
    """1 where z < N/2, 0 elsewhere, (N, 1, 1)."""
    return (np.arange(N) < N // 2).astype(float)[:, None, None]


WAVES = (4, 15, 27)


def wave(frequency: int) -> np.ndarray:
    """A plane wave along x, (N, N, N)."""
    return np.cos(2 * np.pi * frequency * np.arange(N) / N) * np.ones((N, N, 1))


def halves() -> list[np.ndarray]:
    """White half maps that share all frequencies up to a shell and none beyond, another on each side."""
    shared = noise(0)
    result = []
    for seed in (1, 2):
        own = noise(seed)
        sides = []
        for shell in (LEFT, RIGHT):
            gain = low_pass(shell, 0)
            sides.append(filtered(shared, gain) + own - filtered(own, gain))
        result.append(step() * sides[0] + (1 - step()) * sides[1])
    return result


def measure(threads: int = 2) -> LocalResolution:
    """Local resolution of these; the map that is filtered is a sum of plane waves along x."""
    a, b = halves()
    rng = np.random.default_rng(3)
    shell = 4
    return local_resolution(
        (a, b),
        (phase_randomise(a, shell, rng), phase_randomise(b, shell, rng)),
        shell / (N * PIXEL),
        sum(wave(frequency) for frequency in WAVES),
        PIXEL,
        WINDOW,
        threads=threads,
    )


@pytest.fixture(scope="module")
def found() -> LocalResolution:
    return measure()


def test_each_side_has_its_own_resolution(found: LocalResolution) -> None:
    values, z = found.values, found.centres[:, 0]
    reach = WINDOW.radius + WINDOW.edge // 2
    for side, shell in ((z < N // 2 - reach, LEFT), (z > N // 2 + reach, RIGHT)):
        assert side.sum() > 10
        # Cut at a shell of N, seen with a window whose edge spreads a frequency by about a shell of its box.
        spread = 1 / (WINDOW.box * PIXEL)
        frequency = 1 / np.median(values[side])
        assert abs(frequency - shell / (N * PIXEL)) < spread
        assert np.std(1 / values[side]) < spread


def test_between_the_points_frequencies_are_averaged(found: LocalResolution) -> None:
    x = np.arange(N)
    total, mean = np.zeros((2, N, N, N))
    for centre, value in zip(found.centres, found.values, strict=True):
        d = np.sqrt(
            ((x - centre[0]) ** 2)[:, None, None] + ((x - centre[1]) ** 2)[:, None] + (x - centre[2]) ** 2
        )
        ball = 0.5 + 0.5 * np.cos(np.pi * np.clip((d - WINDOW.radius) / WINDOW.edge, 0, 1))
        total += ball
        mean += ball / value
    reached = total > 1e-5
    np.testing.assert_allclose(found.resolution[reached], total[reached] / mean[reached], rtol=1e-3)
    assert np.all(found.resolution[total == 0] == 0)
    assert np.all(found.filtered[total == 0] == 0)
    assert found.resolution[N // 2, N // 2, N // 2] > 0


def test_filtering_keeps_what_is_resolved_and_no_more(found: LocalResolution) -> None:
    """Waves on either side of each cut-off: they pass where they are resolved, and are gone elsewhere."""
    x = np.arange(N)
    ball = np.sqrt(sum(np.meshgrid(*[(x - N // 2) ** 2] * 3, indexing="ij"))) < N // 2 - 12
    lower, upper = ball & (x < N // 2 - 8)[:, None, None], ball & (x > N // 2 + 8)[:, None, None]
    for frequency, passes_lower, passes_upper in ((4, True, True), (15, True, False), (27, False, False)):
        for side, passes in ((lower, passes_lower), (upper, passes_upper)):
            one = wave(frequency)[side]
            # FSC weights of shared frequencies are near 1, and beyond the cut-off the filter leaves nothing;
            # the other waves, not quite orthogonal on half a ball, add some hundredths.
            share = np.vdot(found.filtered[side], one) / np.vdot(one, one)
            assert share > 0.85 if passes else abs(share) < 0.1, (frequency, passes, share)


def test_no_result_depends_on_threads(found: LocalResolution) -> None:
    one = measure(threads=1)
    np.testing.assert_array_equal(one.resolution, found.resolution)
    np.testing.assert_array_equal(one.filtered, found.filtered)


def test_nothing_shared_is_as_coarse_as_allowed() -> None:
    a, b = (filtered(noise(seed), low_pass(20)).astype(float) for seed in (5, 6))
    rng = np.random.default_rng(7)
    found = local_resolution(
        (a, b),
        (phase_randomise(a, 2, rng), phase_randomise(b, 2, rng)),
        2 / (N * PIXEL),
        a,
        PIXEL,
        WINDOW,
        coarsest=40,
    )
    assert found.values.max() == 40
    assert np.median(found.values) > 20


@pytest.mark.parametrize("n", [40, 41])
def test_windows_fit_and_points_lie_on_a_grid_through_the_centre(n: int) -> None:
    window = Window(radius=5, edge=4, step=6)
    assert window.box >= 2 * (5 + 4)
    assert window.box % 2 == 0
    assert scipy.fft.next_fast_len(window.box, real=True) == window.box
    centres = window.centres(n)
    offset = centres - n // 2
    assert np.all(offset % 6 == 0)
    assert np.linalg.norm(offset, axis=1).max() <= n // 2 - 5
    brute = [
        (z, y, x)
        for z in range(-12, 13, 6) for y in range(-12, 13, 6) for x in range(-12, 13, 6)
        if z * z + y * y + x * x <= (n // 2 - 5) ** 2
    ]  # fmt: skip
    np.testing.assert_array_equal(offset, brute)


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="each must be 1 or more"):
        Window(radius=0, edge=4, step=4)
    small = np.zeros((16, 16, 16))
    with pytest.raises(InputError, match="28 voxels does not fit the box of 16"):
        local_resolution((small, small), (small, small), 0.1, small, 1.0, WINDOW)
