"""New poses for a batch of particles against one reference: a search where it is wanted, then a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.operators.pose_search import PoseSearch, shift_grid
from dcryo.operators.poses import PoseModel, PoseTerms
from dcryo.operators.projection_matching import MatchingGrid, match_projections
from dcryo.operators.views import Radial, Views
from dcryo.solvers.pose_descent import gradient_descent
from dcryo.solvers.pose_fit import Evaluate, PoseFit, levenberg_marquardt, uncertainty

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

UPDATES = ("lm", "gradient", "matching")
"""How poses are fitted: Levenberg-Marquardt, the thesis' Algorithm 5, or the best of a grid and no fit."""

OPEN = np.pi
"""Standard deviation of a rotation that the data leave open, rad."""

LOST_SIGMA = np.radians(20)
"""A particle is lost where its rotation is known no better than this ..."""

LOST_SHARE = 0.25
"""... or where another pose of its search, as far away as that, has this share of the likelihood of both."""


LEAST_SCALE = 1e-6
"""Of a reference that is known up to a factor: images that speak against it at any pose leave it open."""


@dataclass(frozen=True)
class SearchRule:
    """A search over all rotations, and shifts around the known ones.

    spacing: of the rotations, rad; radius: Fourier pixels that are compared; distance, step: of the shifts,
    pixels; count: candidates that are fitted; settled: a particle that turned by less than this in the
    iteration before, in rad, and is not lost, is not searched.
    """

    spacing: float
    radius: float
    distance: float
    step: float
    count: int
    settled: float = 0.0


@dataclass(frozen=True)
class PoseRule:
    """How the poses of one iteration are found.

    cutoff: Fourier pixels that count in the fit; steps: of the fit at most; update: one of ``UPDATES``;
    matching: the grid around known poses, where that is how they are found; soft: images are folded over the
    posterior of their poses, and not at the best one; free_scale: the reference is known up to a factor.
    """

    cutoff: float
    steps: int = 4
    update: str = "lm"
    search: SearchRule | None = None
    matching: MatchingGrid | None = None
    soft: bool = False
    free_scale: bool = False


@dataclass(frozen=True)
class Batch:
    """Particles as a fit sees them.

    data: images on the lattice; views: transfer functions, without shifts; radial: tables; box: of the
    images; rotation (P, 3, 3) and shift (P, 2) [pixels]: known poses, NaN where there is none; group
    (G, 3, 3): the point group of the specimen.
    """

    data: Float32
    views: Views
    radial: Radial
    box: int
    rotation: Float64
    shift: Float64
    group: Float64 = field(default_factory=lambda: np.eye(3)[None])

    def take(self, index: NDArray[np.bool_]) -> Batch:
        """Some of the particles."""
        return replace(
            self, data=self.data[index], views=self.views.take(index), rotation=self.rotation[index],
            shift=self.shift[index],
        )  # fmt: skip

    def evaluator(self, model: PoseModel, radius: float, image: NDArray[np.intp]) -> Evaluate:
        """Terms as a function of poses; pose i belongs to the particle ``image[i]``."""

        def evaluate(index: NDArray[np.intp], rotation: Float64, shift: Float64) -> PoseTerms:
            rows = image[index]
            views = self.views.take(rows).posed(rotation, shift * (model.n / self.box))
            return model.terms(self.data, views, self.radial, box=self.box, radius=radius, image=rows)

        return evaluate


@dataclass(frozen=True)
class NewPoses:
    """Poses of P particles.

    rotation (P, 3, 3); shift (P, 2) [pixels]; normal (P, 5, 5) the Gauss-Newton matrix; cost (P,);
    sigma_rotation, sigma_shift (P,) standard deviations
    [rad, pixels]; lost (P,).
    """

    rotation: Float64
    shift: Float64
    normal: Float64
    cost: Float64
    sigma_rotation: Float64
    sigma_shift: Float64
    lost: NDArray[np.bool_]


def is_settled(before: Mapping[str, NDArray[Any]], search: SearchRule) -> NDArray[np.bool_]:
    """Which particles a search leaves out, by ``turn`` and ``lost`` of the iteration before; (P,)."""
    settled: NDArray[np.bool_] = (before["turn"] < search.settled) & (before["lost"] == 0)
    return settled


def update_unsettled(
    model: PoseModel, search: PoseSearch | None, batch: Batch, rule: PoseRule, settled: NDArray[np.bool_]
) -> NewPoses:
    """:func:`update_poses`, without a search for those that are settled (P,)."""
    found = [(~settled, search), (settled, None)]
    parts = [(mask, update_poses(model, s, batch.take(mask), rule)) for mask, s in found if mask.any()]
    columns = {}
    for name in NewPoses.__dataclass_fields__:
        first = getattr(parts[0][1], name)
        columns[name] = np.empty((len(settled), *first.shape[1:]), first.dtype)
        for mask, part in parts:
            columns[name][mask] = getattr(part, name)
    return NewPoses(**columns)


def update_poses(model: PoseModel, search: PoseSearch | None, batch: Batch, rule: PoseRule) -> NewPoses:
    """The best poses that a fit finds from the known ones, and from the candidates of a search."""
    rotation, shift = batch.rotation[:, None], batch.shift[:, None]
    if search is not None and rule.search is not None:
        rotation, shift = _with_candidates(search, batch, rule.search, rule.free_scale)
    elif rule.matching is not None:
        matched = match_projections(
            model, batch.data, batch.views, batch.radial, batch.rotation, batch.shift, rule.matching,
            box=batch.box, radius=rule.cutoff, threads=1,
        )  # fmt: skip
        rotation, shift = matched.rotation[:, None], matched.shift[:, None]
    count, starts = rotation.shape[:2]
    image = np.repeat(np.arange(count), starts)
    evaluate = batch.evaluator(model, rule.cutoff, image)
    if rule.free_scale:
        evaluate = _at_scale(batch, model, rule.cutoff, image, rotation[:, 0], shift[:, 0])
    fit = _fit(evaluate, rotation.reshape(-1, 3, 3), shift.reshape(-1, 2), rule)
    cost = fit.cost.reshape(count, starts)
    which = cost.argmin(axis=1)
    chosen = np.arange(count) * starts + which
    turns, moves = uncertainty(fit.normal[chosen])
    found = fit.rotation.reshape(count, starts, 3, 3)
    best = found[np.arange(count), which]
    # far from the best pose, and how likely beside it: exp(-cost) is the likelihood
    far: NDArray[np.bool_] = np.asarray(_angles(found, best[:, None], batch.group) > LOST_SIGMA)
    others = np.where(far, np.exp(-np.minimum(cost - cost.min(axis=1, keepdims=True), 700)), 0)
    rival = others.max(axis=1)
    lost = (turns > LOST_SIGMA) | (rival / (1 + rival) >= LOST_SHARE)
    moved = fit.shift[chosen]
    if search is None:
        # what the images do not tell stays as it was: a fit would follow the noise
        best = np.where(lost[:, None, None], batch.rotation, best)
        moved = np.where(lost[:, None], batch.shift, moved)
    return NewPoses(
        best, moved, fit.normal[chosen], fit.cost[chosen], np.minimum(turns, OPEN),
        np.minimum(moves, batch.box), lost,
    )  # fmt: skip


def _with_candidates(
    search: PoseSearch, batch: Batch, rule: SearchRule, free_scale: bool
) -> tuple[Float64, Float64]:
    """Candidates (P, M) of a search, and the known poses as another one where there are any."""
    centre = np.where(np.isfinite(batch.shift), batch.shift, 0)
    views = batch.views.posed(batch.views.rotation, centre * (search.n / batch.box))
    shifts = shift_grid(rule.distance, rule.step)
    found = search.find(
        batch.data, views, batch.radial, shifts, box=batch.box, count=rule.count, free_scale=free_scale
    )
    rotation, shift = found.rotation, found.shift + centre[:, None]
    known: NDArray[np.bool_] = np.asarray(np.isfinite(batch.rotation).all(axis=(1, 2)))
    if not known.any():
        return rotation, shift
    # a particle without a pose has its best candidate twice
    given = np.where(known[:, None, None], batch.rotation, rotation[:, 0])
    beside = np.where(known[:, None], centre, shift[:, 0])
    return (
        np.concatenate([rotation, given[:, None]], axis=1),
        np.concatenate([shift, beside[:, None]], axis=1),
    )


def _at_scale(
    batch: Batch, model: PoseModel, radius: float, image: NDArray[np.intp], rotation: Float64, shift: Float64
) -> Evaluate:
    """Terms of the volume times the factor that fits the batch best at a pose (P, ...) of each particle.

    One factor for all: that of a single noisy image says little.  1/2 |s S - B|^2 is s^2 times
    1/2 |S - B / s|^2, so that only the images change.
    """
    everyone = np.arange(len(rotation))

    def cost(factor: float) -> float:
        other = replace(batch, data=np.float32(factor) * batch.data)
        return float(other.evaluator(model, radius, everyone)(everyone, rotation, shift).cost.sum())

    corr, norm = (cost(-1) - cost(1)) / 2, 2 * cost(0)
    scale = max(corr / max(norm, 1e-300), LEAST_SCALE)
    scaled = replace(batch, data=(batch.data / np.float32(scale)).astype(np.float32))
    evaluate = scaled.evaluator(model, radius, image)

    def rescaled(index: NDArray[np.intp], rotation: Float64, shift: Float64) -> PoseTerms:
        terms = evaluate(index, rotation, shift)
        square = scale * scale
        return PoseTerms(terms.cost * square, terms.gradient * square, terms.normal * square)

    return rescaled


def _fit(evaluate: Evaluate, rotation: Float64, shift: Float64, rule: PoseRule) -> PoseFit:
    match rule.update:
        case "gradient":
            return gradient_descent(evaluate, rotation, shift, steps=rule.steps)
        case "matching":
            return levenberg_marquardt(evaluate, rotation, shift, steps=0)
    return levenberg_marquardt(evaluate, rotation, shift, steps=rule.steps)


def _angles(a: Float64, b: Float64, group: Float64) -> Float64:
    """Angles between rotations modulo a point group; the arc cosine is good enough beside degrees."""
    traces = [np.einsum("...ij,...ij->...", a, b @ element) for element in group]
    angles: Float64 = np.arccos(np.clip((np.max(traces, axis=0) - 1) / 2, -1, 1))
    return angles
