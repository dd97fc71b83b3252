"""What the bits of a result depend on beside the plan: versions of the numerics, and the processor."""

from __future__ import annotations

import platform
from importlib.metadata import version

from dcryo import __version__

NUMERICS = ("numpy", "scipy", "numba", "llvmlite")


def versions() -> dict[str, str]:
    """Versions of the packages that compute, Python's, and the processor's name and instruction sets."""
    found = {"dcryo": __version__, "python": platform.python_version(), "machine": platform.machine()}
    found |= {name: version(name) for name in NUMERICS}
    found["processor"] = _processor()
    return found


def _processor() -> str:
    import llvmlite.binding  # loads LLVM: only where a run is recorded

    features = llvmlite.binding.get_host_cpu_features()
    names = sorted(name for name, there in features.items() if there)
    return f"{llvmlite.binding.get_host_cpu_name()}: {' '.join(names)}"
