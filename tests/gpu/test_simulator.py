"""Runs the tests of the GPU kernels in numba's CUDA simulator, where there is no GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "name",
    ["test_operators.py", "test_solvers.py", "test_reconstruct.py", "test_streams.py", "test_bench.py"],
)
def test_in_the_simulator(name: str) -> None:
    """In a process of its own: numba reads the variable once, and interprets the kernels of the GPU."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "NUMBA_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", HERE / name],
        env=kept | {"NUMBA_ENABLE_CUDASIM": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 4
