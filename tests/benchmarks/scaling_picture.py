"""The curves of docs/scaling.md: OUT/workers.json as measured, and the model up to 1,024 GPUs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.scaling_model import Costs, Machine, simulate, tasks_of

from dcryo.dataflow.plan import slice_particles

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "scaling.png"

WORKERS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]

ASSUMED = {
    256: Costs(image=1e-4, image_bytes=4.0 * 256**2, partial=3.37e8, finish=0.5, merge=1.0, begin=0.5),
    512: Costs(image=4e-4, image_bytes=4.0 * 512**2, partial=2.69e9, finish=4.0, merge=8.0, begin=0.5),
}
"""One GPU, by box.  No GPU has been measured: images from counted additions, the rest from the bytes and a
processor that hashes 1.1 GB/s; docs/scaling.md has the count."""

SITE = {"link": 2e9, "storage": 2e10, "handout": 3e-3, "latency": 2e-2}
"""An assumed parallel file system: 2 GB/s for a worker, 20 GB/s for all; the scheduler as measured."""

FAST = {**SITE, "link": 5e9, "storage": 4e11}
"""A site whose storage does not limit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--picture", type=Path, default=PICTURE)


def curve(count: int, box: int, size: int = 0, site: dict[str, float] = SITE) -> list[float]:
    """Seconds from the first task to the last sum, by number of GPUs."""
    tasks, costs = tasks_of(count, box, size), ASSUMED[box]
    return [max(simulate(tasks, costs, Machine(workers, **site)).values()) for workers in WORKERS]


def run(args: argparse.Namespace) -> dict[str, Any]:
    import matplotlib.pyplot as plt

    found: dict[str, Any] = {"workers": WORKERS, "seconds": {}}
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for axis, box in zip(axes[:2], ASSUMED, strict=True):
        for count, colour in zip((10**5, 10**6, 10**7), ("C0", "C1", "C2"), strict=True):
            planned = slice_particles(box, box)
            cases = {
                "storage 20 GB/s": (curve(count, box), "-"),
                "storage 400 GB/s": (curve(count, box, 0, FAST), "--"),
                "and slices an eighth as long": (curve(count, box, planned // 8, FAST), ":"),
            }
            for name, (seconds, style) in cases.items():
                found["seconds"][f"{box}, {count:.0e}, {name}"] = seconds
                axis.plot(WORKERS, seconds, style, color=colour)
            axis.plot([], [], color=colour, label=f"{count:,} particles")
        axis.set(
            xscale="log", yscale="log", xlabel="GPUs", ylabel="seconds to the sums",
            title=f"{box}², on paper: no GPU was measured",
        )  # fmt: skip
        for name, style in {"20 GB/s": "-", "400 GB/s": "--", "and slices / 8": ":"}.items():
            axis.plot([], [], style, color="0.3", label=name)
        axis.legend(fontsize=8, frameon=False)
    measured = args.out / "workers.json"
    if measured.exists():
        ran = json.loads(measured.read_text())
        for kind, marker in {"strong": "o-", "weak": "s--"}.items():
            rows = ran[kind]
            label = (
                f"{kind}: {ran[kind][0]['slices']} slices" if kind == "strong" else "weak: slices grow along"
            )
            axes[2].plot([r["workers"] for r in rows], [r["efficiency"] for r in rows], marker, label=label)
        axes[2].axhline(1, color="0.7", linewidth=1)
        axes[2].set_xscale("log")
        axes[2].minorticks_off()
        axes[2].set(
            xlabel="simulated workers", ylabel="model without latency / measured",
            ylim=(0, 1.25), xticks=(ticks := [row["workers"] for row in ran["weak"]]),
            xticklabels=list(map(str, ticks)), title=f"the scheduler, measured: slices of {ran['slice']:g} s",
        )  # fmt: skip
        axes[2].legend(fontsize=8, frameon=False)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, dpi=110)
    return found
