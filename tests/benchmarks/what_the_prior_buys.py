"""What the prior buys: dcryo with its bare defaults beside relion_reconstruct, on the same particles.

    python tests/benchmarks/what_the_prior_buys.py OUT --phantom ../shared/phantom
    python tests/benchmarks/what_the_prior_buys.py OUT --atoms 5a1a.pdb.gz

Phantom B (`make_data.py -n 128 -P 5000 --ctf --snr 0.1`, seeds 1 to 3), or an atomic model in noisy solvent
simulated by dcryo.  From the first 200, 500, 1000 and 5000 particles: mean FSC against the truth inside a
soft ball of 0.3 boxes.  RELION: `relion_reconstruct --ctf --skip_gridding`.  What is there already is kept,
so an interrupted run goes on.  Writes OUT/prior.json and OUT/prior.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import starfile

from dcryo.io.run_store import read_map
from dcryo.metrics.fsc import fsc_curve, mean_fsc, resolution, soft_ball

COUNTS = (200, 500, 1000, 5000)


def run(*command: str | Path) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)


def dcryo(*command: str | Path) -> None:
    run(sys.executable, "-m", "dcryo", *command)


def make_sets(args: argparse.Namespace) -> dict[str, Path]:
    """Folders with particles.star, particles.mrcs and truth.mrc."""
    sets: dict[str, Path] = {}
    if args.phantom:
        for seed in args.seeds:
            folder = args.out / f"phantom-B-{seed}"
            if not (folder / "particles.star").exists():
                run(sys.executable, args.phantom / "make_data.py", folder, "-n", "128", "-P", "5000", "--ctf",
                    "--snr", "0.1", "--phantom-seed", str(seed), "--seed", str(seed))  # fmt: skip
            sets[folder.name] = folder
    if args.atoms:
        folder = args.out / "atoms"
        if not (folder / "particles.star").exists():
            dcryo("simulate", args.out / "atoms.zarr", "--atoms", args.atoms, "--box", "128", "--pixel-size",
                  "1.7", "--particles", "5000", "--snr", "0.1", "--resolution", "4", "--solvent", "--star",
                  folder)  # fmt: skip
        sets[folder.name] = folder
    return sets


def first_particles(folder: Path, count: int) -> Path:
    """STAR file of the first ``count`` particles."""
    path = folder / f"first{count}.star"
    if not path.exists():
        blocks = starfile.read(folder / "particles.star", always_dict=True)
        blocks["particles"] = blocks["particles"].iloc[:count]
        starfile.write(blocks, path, float_format="%.6f")
    return path


def score(path: str, truth: np.ndarray) -> dict[str, float]:
    volume, pixel = read_map(path)
    n = len(truth)
    ball = soft_ball(n, 0.3 * n, 5)
    curve = fsc_curve(volume * ball, truth * ball)
    return {"mean_fsc": mean_fsc(curve), "resolution_05_A": resolution(curve, 0.5, n, pixel)}


def compare(folder: Path, count: int) -> dict[str, Any]:
    """Both programs on the first ``count`` particles of a set."""
    star = first_particles(folder, count)
    truth, _ = read_map(folder / "truth.mrc")
    relion = folder / f"relion{count}.mrc"
    if shutil.which("relion_reconstruct") and not relion.exists():
        command = ["relion_reconstruct", "--i", star.name, "--o", relion.name, "--ctf", "--skip_gridding"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    store, result = folder / f"first{count}.zarr", folder / f"run{count}.zarr"
    if not store.exists():
        dcryo("ingest", star, store)
    dcryo("reconstruct", store, result)
    record = json.loads((result / "zarr.json").read_text())["attributes"]
    row = {"set": folder.name, "particles": count, "dcryo": score(str(result), truth)}
    row["linear"] = score(f"{result}:linear", truth)
    row["relion"] = score(str(relion), truth) if relion.exists() else None
    row["weight"] = record["result"]["weight"]
    row["nonnegative"] = record["result"]["nonnegative"]
    row["timings"] = record["timings"]
    return row


def draw(rows: list[dict[str, Any]], sets: dict[str, Path], path: Path) -> None:
    """Mean FSC against the number of particles, and sections of three maps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = next(iter(sets.values()))
    figure = plt.figure(figsize=(12, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.6))
    axes = left.subplots()
    for key, label, style in (("dcryo", "dcryo, defaults", "o-"), ("relion", "relion_reconstruct", "s--")):
        scores = {c: [r[key]["mean_fsc"] for r in rows if r["particles"] == c and r[key]] for c in COUNTS}
        present = [c for c in COUNTS if scores[c]]
        axes.plot(present, [np.mean(scores[c]) for c in present], style, label=label, lw=2)
    axes.set(xscale="log", xlabel="particles", ylabel="mean FSC against the truth", ylim=(0.4, 1))
    axes.set_xticks(COUNTS, [f"{c:,}" for c in COUNTS])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    panels = right.subplots(1, 4)
    truth, _ = read_map(folder / "truth.mrc")
    n = len(truth)
    high = np.percentile(truth[n // 2], 99.7)
    shown = [
        (str(folder / "relion500.mrc"), "500 particles\nrelion_reconstruct"),
        (str(folder / "relion5000.mrc"), "5,000 particles\nrelion_reconstruct"),
        (str(folder / "run500.zarr"), "500 particles\ndcryo"),
        (str(folder / "truth.mrc"), "truth\n"),
    ]
    crop = slice(n // 8, n - n // 8)
    for panel, (source, title) in zip(panels, shown, strict=True):
        panel.set_axis_off()
        panel.set_title(title, fontsize=10)
        if Path(source).exists():
            volume, _ = read_map(source)
            # the map is the truth times a factor, plus noise: show it in units of the truth
            section = volume[n // 2][crop, crop] * float((truth * truth).sum() / (volume * truth).sum())
            panel.imshow(section, cmap="gray", vmin=-0.25 * high, vmax=high, origin="lower")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--phantom", type=Path, help="folder of make_data.py")
    parser.add_argument("--atoms", type=Path, help="atomic model to simulate in solvent")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = make_sets(args)
    rows = []
    for count in COUNTS:
        for folder in sets.values():
            rows.append(compare(folder, count))
            print(json.dumps(rows[-1]), flush=True)
    (args.out / "prior.json").write_text(json.dumps(rows, indent=1))
    draw(rows, sets, args.out / "prior.png")


if __name__ == "__main__":
    main()
