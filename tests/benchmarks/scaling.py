"""What the dataflow costs: planning, Dask beside plain processes, hundreds of workers, 1,000 GPUs on paper.

    export PYTHONPATH=tests
    python -m benchmarks.scaling OUT planning                  # 10^7 particles, up to the first task
    python -m benchmarks.scaling OUT overhead                  # --workers 2 beside two plain processes
    python -m benchmarks.scaling OUT workers                   # the executor on up to 512 workers that sleep
    python -m benchmarks.scaling OUT inputs --boxes 128 256    # seconds of a slice, a commit and a merge
    python -m benchmarks.scaling OUT picture                   # docs/images/scaling.png from these

Each writes OUT/NAME.json and prints it.  docs/scaling.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import scaling_inputs, scaling_overhead, scaling_picture, scaling_planning, scaling_workers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    runs: dict[str, Callable[..., dict[str, Any]]] = {}
    for name, module in {
        "planning": scaling_planning,
        "overhead": scaling_overhead,
        "workers": scaling_workers,
        "inputs": scaling_inputs,
        "picture": scaling_picture,
    }.items():
        module.add_arguments(commands.add_parser(name))
        runs[name] = module.run
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": platform.processor() or platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        **runs[args.command](args),
    }
    text = json.dumps(found, indent=1)
    (args.out / f"{args.command}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
