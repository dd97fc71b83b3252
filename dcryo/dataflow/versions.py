"""What the bits of a result depend on beside the plan: versions of the numerics, and the processor."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

NUMERICS = ("dcryo", "numpy", "scipy", "numba", "llvmlite")


def versions() -> dict[str, str]:
    """Versions of the packages that compute, Python's, and the processor's name and instruction sets."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in NUMERICS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["processor"] = _processor()
    return found


def _processor() -> str:
    import llvmlite.binding  # loads LLVM: only where a run is recorded

    features = llvmlite.binding.get_host_cpu_features()
    names = sorted(name for name, there in features.items() if there)
    return f"{llvmlite.binding.get_host_cpu_name()}: {' '.join(names)}"
