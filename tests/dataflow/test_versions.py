"""What the bits of a result depend on beside the plan is recorded completely, and alike every time."""

from __future__ import annotations

import json
import platform

import numba
import numpy
import scipy

import dcryo
from dcryo.dataflow.versions import versions


def test_versions_are_those_of_the_modules_that_run() -> None:
    found = versions()
    assert found["dcryo"] == dcryo.__version__
    assert found["numpy"] == numpy.__version__
    assert found["scipy"] == scipy.__version__
    assert found["numba"] == numba.__version__
    assert found["python"] == platform.python_version()
    assert found["machine"] == platform.machine()


def test_processor_names_its_instruction_sets() -> None:
    name, _, features = versions()["processor"].partition(": ")
    assert name
    assert features.split() == sorted(set(features.split()))
    if platform.machine() in ("x86_64", "AMD64"):  # numba runs on nothing older
        assert "sse2" in features.split()


def test_same_machine_same_versions_and_json_keeps_them() -> None:
    assert versions() == versions() == json.loads(json.dumps(versions()))
