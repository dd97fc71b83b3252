"""What an experiment is, and how one is run: numbers and checks into a JSON, and from those the picture.

An experiment is a module of this package with the names of :class:`Experiment`.  Its parameters stand in a
frozen dataclass of the module, with an instance ``SMALL`` (about a minute on one core) and an instance
``FULL`` (the thesis' sizes); ``run`` takes the one that :attr:`Setting.full` asks for and puts it into its
numbers, under ``parameters``.
"""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from dcryo import __version__
from dcryo.dataflow.versions import versions
from dcryo.errors import InputError
from dcryo.figures import COVERED, EXPERIMENTS
from dcryo.io.atomic import atomic_file
from dcryo.io.store_root import plain
from dcryo.methods.progress import Progress, Silent


@dataclass(frozen=True)
class Setting:
    """How an experiment is to be run.

    Attributes
    ----------
    full : bool
        The thesis' sizes instead of the small ones.
    seed : int
        Of everything random; generators are ``np.random.default_rng([seed, what_for])``.
    threads : int
        Threads; 0: all processors.  Where CPU seconds are measured it is one thread whatever this says.
    progress : Progress
    scratch : Path
        An empty folder for stores and files that nobody needs afterwards; it is removed.
    atoms : str or None
        Path of an atomic model to take as the specimen, for the experiments that say ``TAKES_ATOMS``.
    map : str or None
        Path of a density map to take as the specimen, for the experiments that say ``TAKES_MAP``.
    """

    full: bool
    seed: int
    threads: int
    progress: Progress
    scratch: Path
    atoms: str | None = None
    map: str | None = None


@dataclass(frozen=True)
class Check:
    """One line that passes or fails: ``measured`` and ``wanted`` are for humans, with their units."""

    name: str
    passed: bool
    measured: str
    wanted: str


@dataclass(frozen=True)
class Outcome:
    """What an experiment gave.

    ``numbers`` hold whatever its picture needs, in types that JSON or numpy knows; sections of volumes go in
    by :func:`dcryo.report.plot.encode_section`.  ``shown`` are the few (label, value) lines of them that a
    human is shown on the terminal, values with their unit.
    """

    numbers: dict[str, Any]
    checks: tuple[Check, ...]
    shown: tuple[tuple[str, str], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


class Experiment(Protocol):
    """The names of a module of an experiment."""

    TITLE: str
    """What is compared, in one line."""

    SOURCE: str
    """The figure or table of the thesis, and what it shows there."""

    def run(self, setting: Setting) -> Outcome:
        """Measure."""

    def draw(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Write the picture, a PNG whatever the ending of ``path``, from numbers as the JSON gives them back.

        Tuples and arrays are lists there, and what was not finite is None.
        """


@dataclass(frozen=True)
class Reproduction:
    """A finished experiment: what it gave, and where its files are."""

    name: str
    title: str
    source: str
    outcome: Outcome
    json: Path
    png: Path


def find(text: str) -> str:
    """The name in :data:`EXPERIMENTS` that ``text`` means: ``table-4.1``, ``T4.1``, ``Figure 4.2``, ``4.2``.

    A bare number is that of a figure.

    Raises
    ------
    InputError
        If there is no such experiment.
    """
    match = re.fullmatch(r"(t|table|f|fig|figure)?[-_. ]*(\d+\.\d+)", text.strip(), re.IGNORECASE)
    name = ""
    if match is not None:
        kind = "table" if (match[1] or "f")[0].lower() == "t" else "figure"
        name = f"{kind}-{match[2]}"
        name = COVERED.get(name, name)
    if name not in EXPERIMENTS:
        raise InputError(f"there is no experiment {text!r}; give one of {', '.join(EXPERIMENTS)}")
    return name


def load(name: str) -> Experiment:
    """The module of an experiment of :data:`EXPERIMENTS`."""
    return cast(Experiment, importlib.import_module(f"dcryo.figures.{EXPERIMENTS[name]}"))


def reproduce(
    text: str,
    out: Path,
    *,
    full: bool = False,
    seed: int = 0,
    threads: int = 0,
    atoms: str | None = None,
    map: str | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Reproduction:
    """Run the experiment that ``text`` names and write ``out/NAME.json`` and ``out/NAME.png``.

    Both files appear when everything is done, or neither.

    Parameters
    ----------
    text : str
        See :func:`find`.
    out : Path
        Folder; made if it is not there.
    full, seed, threads, atoms, map, progress
        See :class:`Setting`.
    overwrite : bool
        Replace the files of an earlier run.

    Raises
    ------
    InputError
        For a name that is not known, a negative seed, atoms or a map that the experiment has no use for, or
        files in the way.
    """
    name = find(text)
    if seed < 0:
        raise InputError(f"--seed {seed}: give an integer, 0 or more")
    experiment = load(name)
    if atoms is not None and not getattr(experiment, "TAKES_ATOMS", False):
        raise InputError(f"{name} has no specimen that atoms could replace; leave out --atoms")
    if map is not None and not getattr(experiment, "TAKES_MAP", False):
        raise InputError(f"{name} has no specimen that a map could replace; leave out --map")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give the name of a folder")
    record, picture = out / f"{name}.json", out / f"{name}.png"
    for target in (record, picture):
        if target.exists() and not overwrite:
            raise InputError(f"{target} exists already; give another folder, or --overwrite")
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as scratch:
            setting = Setting(full, seed, threads, progress or Silent(), Path(scratch), atoms, map)
            outcome = experiment.run(setting)
        outcome = replace(outcome, numbers=plain(outcome.numbers))
        with atomic_file(record) as text_file, atomic_file(picture) as picture_file:
            text_file.write_text(_document(name, experiment, setting, outcome), encoding="utf-8")
            experiment.draw(outcome.numbers, picture_file)
    except BaseException:
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    return Reproduction(name, experiment.TITLE, experiment.SOURCE, outcome, record, picture)


def _document(name: str, experiment: Experiment, setting: Setting, outcome: Outcome) -> str:
    """The JSON of an experiment."""
    document = {
        "experiment": name,
        "title": experiment.TITLE,
        "source": experiment.SOURCE,
        "full": setting.full,
        "seed": setting.seed,
        "atoms": setting.atoms,
        "map": setting.map,
        "version": __version__,
        "versions": versions(),
        "passed": outcome.passed,
        "checks": [asdict(check) for check in outcome.checks],
        "numbers": outcome.numbers,
    }
    return json.dumps(plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
