"""Clean: free what a run no longer needs."""

from __future__ import annotations

from dataclasses import dataclass

from dcryo.errors import InputError
from dcryo.io.location import Location, sizes
from dcryo.io.run_store import open_run


@dataclass(frozen=True)
class CleanConfig:
    """Options of :func:`clean`.

    Parameters
    ----------
    keep_iterations : int
        Poses of so many iterations of a refinement stay, the last ones.
    force : bool
        Also clean a run that was not finished: it would begin its current stage again.
    """

    keep_iterations: int = 1
    force: bool = False

    def __post_init__(self) -> None:
        if self.keep_iterations < 1:
            raise InputError(f"--keep-iterations {self.keep_iterations} would leave no poses; give 1 or more")


@dataclass(frozen=True)
class Cleaned:
    """What :func:`clean` did: bytes freed, iterations whose poses went, and those whose poses stay."""

    freed_bytes: int
    removed_iterations: list[int]
    kept_iterations: list[int]


def clean(run: Location, config: CleanConfig = CleanConfig()) -> Cleaned:
    """Remove the scratch of a run and the poses of old iterations; never those of the last.

    Parameters
    ----------
    run : path or URL
    config : CleanConfig

    Raises
    ------
    InputError
        If it is not a run, or one that was not finished (without ``force``).
    """
    store = open_run(run)
    if not store.complete and not config.force:
        raise InputError(
            f"{store.url} was not finished, and its scratch is what it would go on from; run its command "
            "again, or give --force"
        )
    before = sum(sizes(store.url).values())
    store.clean()
    removed = store.keep_poses(config.keep_iterations)
    return Cleaned(before - sum(sizes(store.url).values()), removed, store.pose_iterations())
