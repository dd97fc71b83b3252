"""What is recorded of every iteration of a refinement: how far poses moved, and how far half maps agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dcryo.dataflow.pose_update import PoseRule, is_settled
from dcryo.io.run_store import RunStore
from dcryo.methods.refine_round import Round
from dcryo.operators.pose_search import lattice_samples


@dataclass(frozen=True)
class PoseChange:
    """Of one iteration: turns [rad] and moves [Å] of the poses, and what is known of them.

    turn_median, turn_p90; move_rms: of one component of the shift; sigma_median, sigma_shift: median standard
    deviations of rotation and shift; lost: particles; searched: particles that took part in a search; jumped:
    share that turned by more than its spacing; cost: mean data term over that of pure noise.
    """

    turn_median: float
    turn_p90: float
    move_rms: float
    sigma_median: float
    sigma_shift: float
    lost: int
    searched: int
    jumped: float
    cost: float


def measure_change(run: RunStore, iteration: int, rule: PoseRule | None) -> PoseChange:
    """How an iteration changed the poses by its ``rule``.

    Particles that had no pose before count in nothing but what is known of the poses now.
    """
    now = run.poses(iteration, ("shift", "turn", "sigma_rotation", "sigma_shift", "lost", "cost"))
    before = run.poses(iteration - 1, ("shift",))["shift"]
    turn = now["turn"][np.isfinite(now["turn"])].astype(np.float64)
    move = now["shift"] - before
    moved = move[np.isfinite(move).all(axis=1)]
    sigma = now["sigma_rotation"][np.isfinite(now["sigma_rotation"])]
    sigma_shift = now["sigma_shift"][np.isfinite(now["sigma_shift"])]
    cost = now["cost"][np.isfinite(now["cost"])]
    search = None if rule is None else rule.search
    searched = 0 if search is None else len(now["turn"])
    if search is not None and search.settled > 0:
        known = run.poses(iteration - 1, ("turn", "lost"))
        searched -= int(is_settled(known, search).sum())
    spacing = math.inf if search is None else search.spacing
    cutoff = math.nan if rule is None else rule.cutoff
    # half of the squared residuals of a plane: every sample of the half plane counts twice
    noise = len(lattice_samples(2 * math.ceil(cutoff) + 2, cutoff)[0]) if cutoff > 0 else math.nan
    return PoseChange(
        turn_median=float(np.median(turn)) if len(turn) else math.nan,
        turn_p90=float(np.quantile(turn, 0.9)) if len(turn) else math.nan,
        move_rms=float(np.sqrt(np.mean(moved**2))) if len(moved) else math.nan,
        sigma_median=float(np.median(sigma)) if len(sigma) else math.nan,
        sigma_shift=float(np.median(sigma_shift)) if len(sigma_shift) else math.nan,
        lost=int(now["lost"].sum()),
        searched=searched,
        jumped=float(np.mean(turn > spacing)) if len(turn) else 1.0,
        cost=float(cost.mean() / noise) if len(cost) else math.nan,
    )


def write_iterations(
    run: RunStore, rounds: Sequence[Round], changes: Sequence[PoseChange], cutoffs: Sequence[float],
    seconds: Sequence[float], side: float,
) -> None:  # fmt: skip
    """The tables ``iterations`` and ``iteration_fsc`` of a run; ``side`` of the box in Å."""
    run.write_table(
        "iterations",
        {
            "iteration": np.arange(1, len(rounds) + 1),
            "cutoff": np.array(cutoffs),
            "box": np.array([r.n for r in rounds]),
            "support": np.array([r.support for r in rounds]),
            "resolution_0143_A": np.array([r.resolution_0143_A for r in rounds]),
            "resolution_05_A": np.array([r.resolution_05_A for r in rounds]),
            "mean_fsc": np.array([r.mean_fsc for r in rounds]),
            "weight": np.array([r.weight for r in rounds]),
            "turn_median": np.array([c.turn_median for c in changes]),
            "turn_p90": np.array([c.turn_p90 for c in changes]),
            "move_rms": np.array([c.move_rms for c in changes]),
            "sigma_median": np.array([c.sigma_median for c in changes]),
            "lost": np.array([c.lost for c in changes]),
            "searched": np.array([c.searched for c in changes]),
            "cost": np.array([c.cost for c in changes]),
            "seconds": np.array(seconds),
        },
    )
    shells = max(len(r.fsc) for r in rounds)
    curves = np.full((len(rounds), shells), np.nan)
    for row, found in zip(curves, rounds, strict=True):
        row[: len(found.fsc)] = found.fsc
    run.write_table("iteration_fsc", {"frequency": np.arange(shells) / side, "fsc": curves})
