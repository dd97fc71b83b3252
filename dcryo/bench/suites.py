"""What is compared with what, and at which sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcryo.bench.peers import OURS
from dcryo.errors import InputError

Size = tuple[int, int]
"""Box n, and count P of views or particles."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    ``peer`` is its name, "dcryo" for us; ``label`` says which variant; ``factory`` is the ``module:name`` of
    its :class:`dcryo.bench.subject.Subject`; ``threads`` overrules those of the case, 0 for all processors.
    """

    peer: str
    label: str
    factory: str
    threads: int | None = None


@dataclass(frozen=True)
class Suite:
    """Comparisons of one kind: by name of what is computed, its contenders, ours first.

    ``particles``: it needs a particle store, and a STAR file where a peer in ``STAR_READERS`` takes part;
    ``solves``: the objective that is close enough as well; ``fixed``: it chooses its own threads; ``clock``
    "wall": what is compared is how long one waits, also where all use one thread.
    """

    title: str
    small: tuple[Size, ...]
    full: tuple[Size, ...]
    cases: dict[str, tuple[Contender, ...]] = field(default_factory=dict)
    particles: bool = False
    solves: bool = False
    fixed: bool = False
    clock: str = "cpu"


STAR_READERS = ("relion", "aspire")


def _ours(name: str, label: str = OURS, threads: int | None = None) -> Contender:
    return Contender(OURS, label, f"dcryo.bench.ours:{name}", threads)


def _particles(name: str, label: str) -> Contender:
    return Contender(OURS, label, f"dcryo.bench.particles:{name}")


def _operator(name: str) -> tuple[Contender, ...]:
    return (
        _ours(f"Fast{name}", "dcryo, --accuracy fast"),
        _ours(name),
        Contender("ducc0", "ducc0", f"dcryo.bench.nufft:Ducc{name}"),
        Contender("finufft", "finufft", f"dcryo.bench.nufft:Finufft{name}"),
        Contender(
            "torch-projectors", "torch-projectors, linear", f"dcryo.bench.torch_projector:Linear{name}"
        ),
        Contender("torch-projectors", "torch-projectors, cubic", f"dcryo.bench.torch_projector:Cubic{name}"),
    )


def _both(name: str) -> tuple[Contender, ...]:
    return (_ours(name, "dcryo, all threads", 0), _ours(name, "dcryo, one thread", 1))


SUITES: dict[str, Suite] = {
    "operators": Suite(
        "H and its adjoint, CTF and image FFTs included",
        small=((64, 200),),
        full=((128, 500), (256, 200)),
        cases={"Hc": _operator("Projection"), "Hᵀb": _operator("Backprojection")},
    ),
    "convolution": Suite(
        "the convolution that stands for HᵀH, against full padded FFTs",
        small=((64, 1),),
        full=((64, 1), (128, 1), (256, 1)),
        cases={
            "HᵀHc": (
                _ours("Convolve"),
                Contender("scipy", "scipy, full", "dcryo.bench.padded:Scipy"),
                Contender("ducc0", "ducc0, full", "dcryo.bench.padded:Ducc"),
            )
        },
    ),
    "kernel": Suite(
        "the kernel of HᵀH: ours with every CTF, the peer's without any",
        small=((64, 500),),
        full=((128, 5000),),
        cases={
            "kernel": (
                _ours("Kernel", "dcryo, with CTF"),
                Contender("ducc0", "ducc0, without CTF", "dcryo.bench.nufft:DuccKernel"),
            )
        },
    ),
    "reconstruct": Suite(
        "particles on disk to the sums of one map, or to the regularised map",
        small=((64, 500),),
        full=((128, 5000),),
        cases={
            "one map": (
                _particles("Sums", "dcryo, rhs and kernel"),
                _particles("Map", "dcryo, regularised map"),
                Contender("relion", "relion, --skip_gridding", "dcryo.bench.relion:SkipGridding"),
                Contender("relion", "relion", "dcryo.bench.relion:Default"),
                Contender("aspire", "aspire", "dcryo.bench.aspire:Mean"),
            )
        },
        particles=True,
        solves=True,
    ),
    "threads": Suite(
        "all processors against one",
        small=((64, 200),),
        full=((128, 500), (256, 200)),
        cases={"Hc": _both("FastProjection"), "Hᵀb": _both("FastBackprojection"), "kernel": _both("Kernel")},
        fixed=True,
        clock="wall",
    ),
    "store": Suite(
        "sums streamed from the store and committed, against the same compute from memory",
        small=((64, 1000),),
        full=((256, 20_000),),
        cases={
            "rhs and kernel": (
                _particles("Sums", "dcryo, from the store"),
                _particles("FromMemory", "dcryo, from memory"),
            )
        },
        particles=True,
        clock="wall",
    ),
}


def choose(asked: tuple[str, ...]) -> dict[str, Suite]:
    """The suites of these names, in the order of :data:`SUITES`; all of them for none.

    Raises
    ------
    InputError
        For a name that is not known.
    """
    for name in asked:
        if name not in SUITES:
            raise InputError(f"--suite {name}: not known; give some of {', '.join(SUITES)}")
    return {name: suite for name, suite in SUITES.items() if name in asked or not asked}


def sizes(suite: Suite, full: bool, box: int | None, count: int | None) -> tuple[Size, ...]:
    """Sizes of a suite; a given box or count replaces them, and equal ones are measured once."""
    chosen = suite.full if full else suite.small
    return tuple(dict.fromkeys((box or n, count or p) for n, p in chosen))
