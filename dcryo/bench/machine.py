"""What was measured on: processor, memory, system, GPU."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from dcryo.arrays import module


def describe(device: str) -> dict[str, Any]:
    """Names and sizes; ``gpu`` is None on the device "cpu"."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        "usable": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpu": _gpu() if device == "cuda" else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _gpu() -> str:
    runtime = module("cuda").cuda.runtime
    name = runtime.getDeviceProperties(runtime.getDevice())["name"]
    return name.decode() if isinstance(name, bytes) else str(name)
