"""Sums of both half sets by dcryo beside one map of relion_reconstruct: CPU seconds on the same particles.

    python tests/benchmarks/reconstruct_beside_relion.py FOLDER --rounds 5

FOLDER holds particles.star and its stack: phantom B, `make_data.py FOLDER -n 128 -P 5000 --ctf --snr 0.1`.
RELION makes one map of all particles, without gridding and with its default gridding.  dcryo reads its store,
folds right-hand side and kernel of each half set, and commits them: everything that any number of maps is
then solved from; once more with those solves, as a whole command from its start to its end.  All on one
thread, in turns; user and system time, medians and ranges.  Writes FOLDER/beside_relion.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from dcryo.dataflow.accumulate import run_plan
from dcryo.dataflow.executor import SerialExecutor
from dcryo.io.particle_store import open_particles
from dcryo.io.run_store import create_run
from dcryo.methods.progress import Silent
from dcryo.methods.reconstruct import ReconstructConfig, make_fold, make_plan


def child_seconds(*command: str | Path) -> float:
    """User and system seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(c) for c in command], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fold_seconds(store_url: str, scratch: Path) -> float:
    """CPU seconds of this process for the committed sums of both half sets."""
    shutil.rmtree(scratch, ignore_errors=True)
    config = ReconstructConfig()
    began = time.process_time()
    store = open_particles(store_url)
    plan = make_plan(store, config)
    out = create_run(str(scratch), "reconstruct", {})
    run_plan(plan, make_fold(store, out, plan, config, threads=1), SerialExecutor(), lambda key: Silent())
    seconds = time.process_time() - began
    shutil.rmtree(scratch)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    folder: Path = args.folder
    store = folder / "particles.zarr"
    python = [sys.executable, "-m", "dcryo"]
    if not store.exists():
        subprocess.run([*python, "ingest", folder / "particles.star", store], check=True)
    relion = ["relion_reconstruct", "--i", folder / "particles.star", "--o", folder / "beside.mrc", "--ctf"]
    fold_seconds(str(store), folder / "fold.zarr")  # compiles, and fills the cache of the disk
    found: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        turns = {
            "dcryo, sums of both halves": lambda: fold_seconds(str(store), folder / "fold.zarr"),
            "relion, one map, --skip_gridding": lambda: child_seconds(*relion, "--skip_gridding"),
            "dcryo, the whole command": lambda: child_seconds(
                *python, "reconstruct", store, folder / "whole.zarr", "--overwrite", "--threads", "1"
            ),
            "relion, one map, default": lambda: child_seconds(*relion),
        }
        for name, turn in turns.items():
            found.setdefault(name, []).append(turn())
            print(f"{name:<40}{found[name][-1]:8.2f} CPU s", flush=True)
    medians = {
        name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        for name, values in found.items()
    }
    (folder / "beside_relion.json").write_text(json.dumps(medians, indent=2))
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
