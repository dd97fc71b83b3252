"""The maps that come out of normal equations, against dense solvers that see the matrix itself."""

from __future__ import annotations

import math
from dataclasses import replace

import cvxpy
import numpy as np
import oracle
import penalties
import pytest
from equations import accumulate, lags

from dcryo.figures.figure_4_16 import SMALL, Case, make_problem
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.regularise import RHO, SHARE, MapProblem, Method, solve_map
from dcryo.operators.gradient import Gradient
from dcryo.operators.normal import NormalEquations
from dcryo.solvers.fista import solve
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import iterations, objective_gap

COUNT = 20


def setting(n: int) -> tuple[MapProblem, np.ndarray, np.ndarray, float]:
    """Noisy images of an offset object: the problem in float32; HᵀH, Hᵀb of the dense matrix; energy."""
    particles = oracle.example(COUNT, n)
    dense = oracle.projected(particles, n)
    volume = oracle.blob(n) + 0.2
    images = dense.apply(volume)[:, :n, :n] + 0.3 * oracle.noise((COUNT, n, n), n)
    equations = accumulate(particles, images.astype(np.float32), n)
    single = replace(
        equations, rhs=equations.rhs.astype(np.float32), spectrum=equations.spectrum.astype(np.float32)
    )
    rhs = dense.rhs(images.astype(np.float32)).ravel()
    return MapProblem(single, threads=1), dense.normal(), rhs, equations.energy


def ball(n: int) -> np.ndarray:
    """Raised cosine from its formula: ends two voxels from the faces, its edge a 20th of the box."""
    z, y, x = np.indices((n, n, n)) - n // 2
    edge = n / 20
    beyond = (np.sqrt(x * x + y * y + z * z) - max(n / 2 - 2 - edge, 1)) / edge
    return (0.5 * (1 + np.cos(math.pi * np.clip(beyond, 0, 1)))).ravel()


def cone_programme(
    normal: np.ndarray, rhs: np.ndarray, soft: np.ndarray, penalty: float, nonnegative: bool, baseline: float,
    name: str = "tv",
) -> tuple[float, np.ndarray]:  # fmt: skip
    """Prior, nonnegativity, baseline and ball on the dense matrix: smallest objective and coefficients."""
    n = round(len(rhs) ** (1 / 3))
    values, vectors = np.linalg.eigh(soft[:, None] * normal * soft)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    x = cvxpy.Variable(n**3)
    shifted = x + baseline
    goal = 0.5 * cvxpy.sum_squares(root @ shifted) - (soft * rhs) @ shifted
    goal = goal + penalty * penalties.expression(name, x, (n, n, n))
    cvxpy.Problem(cvxpy.Minimize(goal), [x >= 0] if nonnegative else []).solve(solver=cvxpy.CLARABEL)
    return float(goal.value), soft * shifted.value


@pytest.mark.parametrize("baseline", [0.0, -0.05])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("n", [6, 7, 8])
def test_optimum_agrees_with_a_convex_solver(n: int, nonnegative: bool, baseline: float) -> None:
    problem, normal, rhs, energy = setting(n)
    problem = MapProblem(problem.equations, threads=1, baseline=baseline)
    soft = ball(n)
    weight = 0.5
    penalty = weight * math.sqrt(normal.trace() / n**3)
    least, c = cone_programme(normal, rhs, soft, penalty, nonnegative, baseline)

    # nearly exact proxes: how fast inexact ones get there is another question
    prior = AnalysisPrior(Gradient(threads=1), 0.0, steps=30)
    solution = solve_map(problem, weight, nonnegative, iterations(1000), prior=prior)
    # float32 numbers in the solver: some 1e-6 of the energy; the last iterations gain less than that
    assert solution.history[-1] == pytest.approx(least + energy / 2, abs=-2e-5 * least)
    found = solution.coefficients.ravel().astype(np.float64)
    # an objective known to 1e-6 fixes a strictly convex minimiser to its root
    assert np.linalg.norm(found - c) < 5e-3 * np.linalg.norm(c)

    # and the books: the objective of the dense problem at what the solver returns
    direct = 0.5 * found @ normal @ found - found @ rhs
    direct += penalty * penalties.value("tv", solution.x)
    assert direct == pytest.approx(least, abs=-2e-5 * least)
    if nonnegative:
        assert solution.x.min() >= 0


SOLVERS = ("fista", "admm-cg", "admm-pcg", "ilf", "ilf-circulant")


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("name", penalties.NAMES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_reaches_the_optimum_of_every_prior(solver: str, name: str, nonnegative: bool) -> None:
    n = 6
    problem, normal, rhs, energy = setting(n)
    penalty = 0.5 * math.sqrt(normal.trace() / n**3)
    least, c = cone_programme(normal, rhs, ball(n), penalty, nonnegative, 0.0, name)
    method = Method(name, solver)
    prior = method.make_prior(1)
    prior.steps = 2 if name == "haar" else 30  # only FISTA asks
    count, near = (100, 3e-3) if name == "haar" else (400, 5e-4)
    solution = solve_map(problem, 0.5, nonnegative, iterations(count), prior=prior, method=method)
    found = solution.coefficients.ravel().astype(np.float64)
    direct = 0.5 * found @ normal @ found - found @ rhs + penalty * penalties.value(name, solution.x)
    # what the slowest of them leaves after so many iterations
    assert direct == pytest.approx(least, abs=-near * least)
    assert solution.history[-1] == pytest.approx(direct + energy / 2, abs=-near * least)
    assert np.linalg.norm(found - c) < 0.05 * np.linalg.norm(c)
    if nonnegative:
        assert solution.x.min() >= 0


@pytest.mark.parametrize(("views", "ctf", "weight"), [(30, True, 1.0), (30, False, 1.0), (300, True, 0.1)])
def test_tolerance_is_the_gap_that_is_left(views: int, ctf: bool, weight: float) -> None:
    """Relative to the fall from zero, as in Figure 4.16, on problems of its table."""
    problem = make_problem(24, Case(views, ctf, weight), SMALL, 0)
    least = min(solve_map(problem, weight, True, iterations(300)).history)
    at_zero = problem.quadratic().constant
    for tolerance in (1e-2, 1e-3):
        solution = solve_map(problem, weight, True, objective_gap(tolerance) | iterations(200))
        assert "of its fall" in solution.reason
        assert solution.history[-1] - least < tolerance * (at_zero - least)


@pytest.mark.parametrize("n", [6, 8])
def test_norm_is_known_to_some_percent(n: int) -> None:
    problem, normal, _, _ = setting(n)
    soft = ball(n)
    largest = np.linalg.eigvalsh(soft[:, None] * normal * soft)[-1]
    assert problem.lipschitz == pytest.approx(largest, rel=0.1)
    assert problem.lipschitz > 0.98 * largest


@pytest.mark.parametrize("n", [7, 8])
def test_circular_majoriser_majorises(n: int) -> None:
    problem, normal, _, _ = setting(n)
    soft = ball(n)
    dense = soft[:, None] * normal * soft
    columns = [
        np.fft.irfftn(np.fft.rfftn(unit.reshape(n, n, n)) * problem.majoriser, s=(n,) * 3, axes=(0, 1, 2))
        for unit in np.eye(n**3)
    ]
    circular = np.stack([column.ravel() for column in columns], axis=1)
    largest = np.linalg.eigvalsh(dense)[-1]
    assert np.linalg.eigvalsh(circular - dense)[0] > -1e-5 * largest  # float32
    # a better one than the norm: that is what it is for
    assert circular.trace() < 0.8 * largest * n**3
    # and the iteration needs more than one half of it
    assert 0.5 < SHARE < 1


@pytest.mark.parametrize(("rho", "expected"), [("auto", RHO * 0.5), (0.02, 0.02)])
def test_penalty_is_a_pure_number(rho: float | str, expected: float) -> None:
    problem, _, _, _ = setting(7)
    eq = problem.equations
    # ten times the data: the weight of the prior grows in step, and so must the penalty
    more = MapProblem(replace(eq, rhs=100 * eq.rhs, spectrum=100 * eq.spectrum), threads=1)
    for one in (problem, more):
        scheme = Method("tv", "ilf", rho).make_scheme(one, 0.5)
        assert scheme.rho == pytest.approx(expected * one.lipschitz)
    assert Method("tv", "ilf").make_scheme(problem, 0.0).rho > 0


@pytest.mark.parametrize("n", [6, 7])
def test_nonnegativity_costs_something(n: int) -> None:
    """A light prior and an object with a negative lobe: the constraint costs something."""
    problem, normal, rhs, energy = setting(n)
    soft = ball(n)
    penalty = 0.02 * math.sqrt(normal.trace() / n**3)
    least, c = cone_programme(normal, rhs, soft, penalty, True, 0.0)
    free, _ = cone_programme(normal, rhs, soft, penalty, False, 0.0)
    prior = AnalysisPrior(Gradient(threads=1), 0.02 * problem.noise, True, steps=10)
    result = solve(problem.quadratic(), prior, iterations(2000))
    assert least - free > -5e-4 * least
    assert result.x.min() == 0
    assert result.history[-1] == pytest.approx(least + energy / 2, abs=-2e-5 * least)
    found = problem.coefficients(result.x).ravel()
    assert np.linalg.norm(found - c) < 1e-2 * np.linalg.norm(c)


def shell_means(kernel: np.ndarray, n: int) -> np.ndarray:
    """Mean over shells of a kernel's spectrum on the padded lattice, at the frequencies of a box of n."""
    length = len(kernel)
    spectrum = np.fft.fftn(kernel).real
    f = np.fft.fftfreq(length) * n
    shell = np.rint(np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2))
    edge = (n - 1) // 2
    means = [spectrum[shell == k].mean() for k in range(edge + 1)]
    f = np.fft.fftfreq(n) * n
    radius = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)
    return np.interp(radius, np.arange(edge + 1), means)  # constant beyond the band


@pytest.mark.parametrize("n", [6, 7, 8])
@pytest.mark.parametrize("ridge", [0.5, 0.05])
def test_linear_solve_agrees_with_numpy(n: int, ridge: float) -> None:
    """Padded lengths that are a multiple of the box (preconditioned) and, at 7, one that is not."""
    problem, normal, rhs, _ = setting(n)
    soft = ball(n)
    factor = ridge * shell_means(lags(problem.equations), n)
    unit = np.eye(n**3).reshape(-1, n, n, n)
    damping = np.fft.ifftn(np.fft.fftn(unit, axes=(1, 2, 3)) * factor, axes=(1, 2, 3)).real.reshape(
        n**3, n**3
    )
    system = soft[:, None] * normal * soft + damping
    expected = np.linalg.solve(system, soft * rhs) * soft
    found, norms = solve_linear(problem, ridge, tolerance=1e-6, iterations=400)
    assert norms[-1] <= 1e-6 * norms[0]
    # the residual, known to 1e-6 in the preconditioner's norm, and float32, times the condition number
    values = np.linalg.eigvalsh(system)
    bound = 2e-6 * values[-1] / values[0]
    assert bound < 1e-3
    assert np.linalg.norm(found.ravel() - expected) < bound * np.linalg.norm(expected)


@pytest.mark.parametrize("n", [7, 8])
def test_linear_maps_are_linear_in_the_images(n: int) -> None:
    one, _, _, _ = setting(n)
    eq = one.equations
    other = oracle.noise((n, n, n), 3)
    parts = [eq.rhs, other, eq.rhs + 2 * other]
    maps = [
        solve_linear(MapProblem(replace(eq, rhs=r), threads=1), tolerance=1e-6, iterations=200)[0]
        for r in parts
    ]
    difference = np.linalg.norm(maps[0] + 2 * maps[1] - maps[2])
    assert difference < 1e-4 * np.linalg.norm(maps[2])


@pytest.mark.parametrize("n", [7, 8])
def test_operator_is_the_ball_around_the_matrix(n: int) -> None:
    problem, normal, rhs, _ = setting(n)
    soft = ball(n)
    np.testing.assert_allclose(problem.ball.ravel(), soft, atol=1e-6)
    np.testing.assert_allclose(problem.linear.ravel(), soft * rhs, atol=1e-5 * np.abs(rhs).max())
    x = oracle.noise((n, n, n), 5)
    expected = soft * (normal @ (soft * x.ravel()))
    assert np.linalg.norm(problem.apply(x).ravel() - expected) < 1e-5 * np.linalg.norm(expected)
    assert problem.noise**2 == pytest.approx(normal.trace() / n**3, rel=1e-5)
    largest = np.linalg.eigvalsh(soft[:, None] * normal * soft)[-1]
    # twelve power iterations reach 98 %, the margin of 2 % covers the rest
    assert 0.99 * largest < problem.lipschitz < 1.03 * largest


@pytest.mark.parametrize("n", [7, 8])
def test_data_term_counts_from_the_baseline(n: int) -> None:
    problem, normal, rhs, energy = setting(n)
    x, b = oracle.noise((n, n, n), 6), 0.7
    c = ball(n) * (x.ravel() + b)
    expected = 0.5 * c @ normal @ c - c @ rhs + energy / 2
    shifted = MapProblem(problem.equations, threads=1, baseline=b)
    quadratic = shifted.quadratic()
    value = 0.5 * np.vdot(x, quadratic.apply(x)) - np.vdot(x, quadratic.linear) + quadratic.constant
    # float32 products
    assert float(value) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(shifted.coefficients(x).ravel(), c, atol=1e-5)


@pytest.mark.parametrize("n", [32, 33])
def test_surroundings_are_the_level_around_the_particle(n: int) -> None:
    z, y, x = np.indices((n, n, n)) - n // 2
    radius = np.sqrt(x * x + y * y + z * z)
    noise = oracle.noise((n, n, n), 4)
    volume = 0.3 + 0.5 * noise + 5 * (radius < 0.3 * n)
    volume[radius > n / 2 - 2] = 0
    # the median of some 5,000 voxels of standard deviation 0.5: 0.5 * 1.25 / sqrt(5000), three times
    assert surroundings(volume) == pytest.approx(0.3, abs=0.03)


def test_equations_without_particles_are_refused() -> None:
    with pytest.raises(ValueError, match="no particles"):
        MapProblem(NormalEquations.zeros(8))


@pytest.mark.parametrize("n", [7, 8])
def test_misfit_is_the_distance_to_the_images(n: int) -> None:
    particles = oracle.example(5, n)
    dense = oracle.projected(particles, n)
    volume = oracle.blob(n)
    images = oracle.noise((5, n, n), 3)
    equations = accumulate(particles, images, n)
    # what of the images lies beyond the band counts in neither
    detector = dense.pad(images).reshape(5, 2 * n, 2 * n)
    w = np.fft.fftfreq(2 * n)
    inside = np.hypot(w[:, None], w) < 0.5 - 1e-12
    seen = np.fft.ifft2(np.fft.fft2(detector) * inside).real
    expected = 0.5 * np.sum((dense.apply(volume) - seen) ** 2)
    assert MapProblem(equations, threads=1).misfit(volume.astype(np.float64)) == pytest.approx(
        expected, rel=1e-9
    )


def test_weight_is_a_pure_number() -> None:
    """Images and noise three times as strong: the same weight gives the same map, three times as strong."""
    problem, _, _, _ = setting(8)
    eq = problem.equations
    # b -> 3 b with the noise 3 times as strong: rhs / 3, spectrum / 9
    scaled = NormalEquations(eq.rhs / 3, eq.spectrum / 9, eq.energy, eq.count)
    one = solve_map(problem, 0.5, True, iterations(60))
    other = solve_map(MapProblem(scaled, threads=1), 0.5, True, iterations(60))
    difference = np.linalg.norm(other.coefficients / 3 - one.coefficients)
    assert difference < 1e-3 * np.linalg.norm(one.coefficients)


def test_misfit_error_is_that_of_the_noise() -> None:
    """Many noisy data sets of the same views: the spread of the difference of two maps' misfits."""
    n = 6
    particles = oracle.example(4, n)
    dense = oracle.projected(particles, n, detector=1)
    one, two = (oracle.noise((n, n, n), seed) for seed in (1, 2))
    noise = np.random.default_rng(3).standard_normal((4000, len(dense.matrix)))
    # misfit(one) - misfit(two) depends on the noise through its product with H (one - two) alone
    spread = (noise @ (dense.matrix @ (one - two).ravel().astype(np.float64))).std()
    equations = accumulate(particles, np.zeros((4, n, n), np.float32), n)
    exact = oracle.projected(particles, n)
    found = MapProblem(equations, threads=1).misfit_error(one.astype(np.float64), two.astype(np.float64))
    assert found == pytest.approx(np.linalg.norm(exact.matrix @ (one - two).ravel()), rel=1e-6)
    # the images' own lattice instead of a wider detector, and 4000 samples: some 10 % in so small a box
    assert found == pytest.approx(spread, rel=0.3)


def test_radius_is_kept_inside_the_box() -> None:
    equations = replace(NormalEquations.zeros(16), count=1)
    z, y, x = np.indices((16, 16, 16)) - 8
    radius = np.sqrt(x * x + y * y + z * z)
    for wanted, reached in ((None, 6.0), (100.0, 6.0), (4.5, 4.5)):
        mask = MapProblem(equations, radius=wanted).ball
        assert not mask[radius >= reached].any()
        assert (mask[radius < reached - 0.1] > 0).all()
        assert (mask[radius <= reached - 16 / 20] == 1).all()


def test_warm_start_needs_fewer_iterations() -> None:
    problem, _, _, _ = setting(8)
    prior = AnalysisPrior(Gradient(threads=1), 0.0)
    first = solve_map(problem, 0.5, True, iterations(800), prior=prior)
    again = solve_map(problem, 0.5, True, iterations(1), first, prior)
    assert again.history[0] == pytest.approx(first.history[-1], rel=1e-5)
    assert again.history[0] < first.history[5]


def test_few_dual_steps_lead_to_the_same_optimum() -> None:
    """The warm-started, inexact prox does not change where the iteration ends."""
    problem, _, _, _ = setting(8)
    objective = []
    for steps in (2, 50):
        prior = AnalysisPrior(Gradient(threads=1), 0.5 * problem.noise, True, steps=steps)
        objective.append(solve(problem.quadratic(), prior, iterations(1500)).history[-1])
    fall = problem.equations.energy / 2 - objective[1]
    # slowly: the duals of a prox that has them settle in a few iterations follow over hundreds of these
    assert objective[0] == pytest.approx(objective[1], abs=1e-3 * fall)
