"""Post-processing of dcryo and of RELION beside each other, on the same half maps and the same mask.

    python tests/benchmarks/postprocess_beside_relion.py OUT a_half1_unfil.mrc b_half1_unfil.mrc ...

The mask is the automatic one of dcryo; relion_mask_create makes it again from the average at the same
threshold, to be compared.  RELION's B factor is fitted over the same range (--autob_highres), its map
filtered at its resolution (--low_pass -1).  Corrected curves hold random phases, so both programs run with
five seeds; B is that of the first, and once more ours with RELION's corrected FSC in place of our own.
Prints a row of the table in docs/benchmarks.md per pair, and writes OUT/relion.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import starfile

import dcryo
from dcryo.imaging.radial import low_pass
from dcryo.io.mrc import read_volume, write_volume
from dcryo.io.postprocess_star import FSC_COLUMNS
from dcryo.metrics.sharpening import fsc_weight, sharpen

SEEDS = range(5)


def relion(program: str, **options: Any) -> None:
    command = [f"relion_{program}"]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def last_shell(curve: np.ndarray) -> int:
    """The last shell before a curve first falls below 0.143."""
    below = np.flatnonzero(curve[1:] < 0.143)
    return int(below[0]) if below.size else len(curve) - 1


def compare(half1: Path, folder: Path) -> dict[str, Any]:
    """Numbers of both programs for one pair."""
    quick = dcryo.PostprocessConfig(local_resolution=False, directional=False)
    ours = [
        dcryo.postprocess(half1, folder / f"dcryo{seed}", replace(quick, seed=seed), overwrite=True)
        for seed in SEEDS
    ]
    half2, final = ours[0].result["half2"], ours[0].result["final_resolution_A"]
    first, pixel = read_volume(half1)
    second, _ = read_volume(half2)
    average = (first + second) / 2
    write_volume(folder / "average.mrc", average, pixel)
    relion("mask_create", i=folder / "average.mrc", o=folder / "mask.mrc", lowpass=15, extend_inimask=3,
           ini_threshold=repr(ours[0].result["mask_threshold"]), width_soft_edge=6)  # fmt: skip
    mask = folder / "dcryo0" / "postprocess_mask.mrc"
    theirs: list[dict[str, Any]] = []
    for seed in SEEDS:
        relion("postprocess", i=half1, i2=half2, o=folder / f"relion{seed}", mask=mask, angpix=pixel,
               auto_bfac=True, autob_highres=final * (1 - 1e-6), low_pass=-1, random_seed=seed)  # fmt: skip
        theirs.append(starfile.read(folder / f"relion{seed}.star", always_dict=True))
    curves = {name: [t["fsc"][column].to_numpy() for t in theirs] for name, column in FSC_COLUMNS.items()}
    row: dict[str, Any] = {
        "maps": half1.name,
        "mask_difference": np.abs(read_volume(folder / "mask.mrc")[0] - read_volume(mask)[0]).max(),
        "relion_B": theirs[0]["general"]["rlnBfactorUsedForSharpening"],
        "ours_B": ours[0].result["bfactor"],
        "ours_A": ours[0].result["resolution_0143_A"],
        "relion_A": theirs[0]["general"]["rlnFinalResolution"],
        "relion_shells": [last_shell(curve) for curve in curves["corrected"]],
        "ours_shells": [last_shell(run.fsc["corrected"]) for run in ours],
        "relion_masked_shell": last_shell(curves["masked"][0]),
        "ours_masked_shell": last_shell(ours[0].fsc["masked"]),
    }
    for name in ("unmasked", "masked"):
        row[name] = np.abs(ours[0].fsc[name] - curves[name][0])[1:].max()
    means = [
        np.mean(list_, axis=0) for list_ in ([run.fsc["corrected"] for run in ours], curves["corrected"])
    ]
    upto = 1 + max(row["relion_shells"] + row["ours_shells"])
    row["corrected"] = np.abs(means[0] - means[1])[1:upto].max()
    same = sharpen(average, pixel, weights=fsc_weight(curves["corrected"][0]), fit_range=(10, final),
                   lowpass=low_pass(row["relion_shells"][0]))  # fmt: skip
    row["ours_B_with_relion_fsc"] = same.bfactor
    map_ = read_volume(folder / "relion0.mrc")[0]
    row["map_difference"] = np.abs(same.volume - map_).max() / np.abs(map_).max()
    return {key: value if isinstance(value, str | list) else float(value) for key, value in row.items()}


def span(shells: list[int]) -> str:
    return f"{min(shells)}–{max(shells)}" if min(shells) < max(shells) else f"{shells[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("half1", type=Path, nargs="+", help="with half1 in the name, half2 beside it")
    args = parser.parse_args()
    rows = []
    for half1 in args.half1:
        folder = args.out / half1.stem
        folder.mkdir(parents=True, exist_ok=True)
        row = compare(half1, folder)
        rows.append(row)
        print(
            f"| {row['maps']} | {row['relion_masked_shell']:g}, {row['ours_masked_shell']:g} "
            f"| {span(row['relion_shells'])} | {span(row['ours_shells'])} "
            f"| {row['unmasked']:.4f} | {row['masked']:.4f} | {row['corrected']:.4f} "
            f"| {row['relion_B']:.1f} | {row['ours_B']:.1f} | {row['ours_B_with_relion_fsc']:.1f} |",
            flush=True,
        )
    (args.out / "relion.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
