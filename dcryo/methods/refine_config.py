"""Settings of a joint refinement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dcryo.dataflow.pose_update import UPDATES
from dcryo.errors import InputError
from dcryo.methods.reconstruct_config import ReconstructConfig

SEARCHES = ("auto", "global", "local")


@dataclass(frozen=True)
class RefineConfig(ReconstructConfig):
    """Settings of :func:`refine`: those of a reconstruction, and how poses are found.

    Attributes
    ----------
    initial : str, optional
        Starting map: an MRC file, ``RUN`` or ``RUN:half1``.  Left out, the refinement begins with the map of
        the poses that the particles have.
    initial_pixel_size : float, optional
        Of the starting map in Å, where its header does not say.
    low_pass : float, optional
        Resolution in Å that the starting map is cut off at: below it the half sets share what they began
        with.  By default an eighth of the box's side.
    search : {"auto", "global", "local"}
        global: all rotations are searched in the first iterations, whatever poses the particles have; local:
        poses are refined from where they are; auto: where there is a starting map, all rotations are searched
        and the poses there are tried beside what is found; else local.
    max_shift : float, optional
        Largest change of a shift in a search, Å; by default 6 % of the box's side.
    update : {"lm", "gradient", "matching"}
        How poses are refined: Levenberg-Marquardt; gradient descent with backtracking (the thesis' Algorithm
        5); or projection matching, the best of ever finer grids.
    soft : bool or "auto"
        Fold every image over the posterior of its pose instead of at the best one, which is ten times the
        folding; auto: where poses are known less well than the finest detail that they look at.
    rounds : int
        At most so many iterations of poses and map.
    limit : float, optional
        Finest resolution in Å at which poses are refined; by default what the half maps support.
    """

    initial: str | None = None
    initial_pixel_size: float | None = None
    low_pass: float | None = None
    search: Literal["auto", "global", "local"] = "auto"
    max_shift: float | None = None
    update: Literal["lm", "gradient", "matching"] = "lm"
    soft: bool | Literal["auto"] = "auto"
    rounds: int = 25
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.soft not in (True, False, "auto"):
            raise InputError(f"--soft {self.soft!r} is not one of auto, on, off")
        if self.halves == "none":
            raise InputError(
                "--halves none: a refinement looks no further than half maps agree; choose auto or even-odd"
            )
        super().__post_init__()
        if self.search not in SEARCHES:
            raise InputError(f"--search {self.search!r} is not known; choose one of {', '.join(SEARCHES)}")
        if self.update not in UPDATES:
            raise InputError(f"--update {self.update!r} is not known; choose one of {', '.join(UPDATES)}")
        if self.search == "global" and self.initial is None:
            raise InputError("--search global needs a map to search with; give one with --initial")
        if self.rounds < 1:
            raise InputError(f"--rounds {self.rounds} is not at least 1")
        if self.accuracy == "reference":
            raise InputError("--accuracy reference has no poses to refine with; choose accurate")
        for name in ("initial_pixel_size", "low_pass", "max_shift", "limit"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {value:g} is not a positive number of Å")
