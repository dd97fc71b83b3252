"""What the tests marked ``gpu`` run on: a GPU, or numba's simulator of one.

``test_simulator.py`` starts them in a process of its own with NUMBA_ENABLE_CUDASIM=1, where numpy takes
cupy's place.  In any other process they need a GPU and cupy.
"""

from __future__ import annotations

import os

import pytest

from dcryo.arrays import check_device
from dcryo.errors import InputError

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
"""Whether the kernels of the GPU are interpreted."""


def need_a_device() -> None:
    """Skip the module that calls this where there is neither."""
    if SIMULATED:
        from gpu.simulated_cupy import install

        install()
    try:
        check_device("cuda")
    except InputError as error:
        pytest.skip(f"{error}", allow_module_level=True)
