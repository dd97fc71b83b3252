"""dcryo: regularised cryo-EM reconstruction from particle stores of any size.

The names below are loaded when they are first used, so that ``import dcryo`` stays cheap on a cluster::

    import dcryo

    particles = dcryo.ingest(["run_data.star"], "particles.zarr")
    run = dcryo.reconstruct("particles.zarr", "run.zarr", dcryo.ReconstructConfig(symmetry="C1"))
    dcryo.export("run.zarr", "map.mrc")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcryo.dataflow.cluster import DaskExecutor, local_workers
    from dcryo.io.datasets import open
    from dcryo.methods.export import export
    from dcryo.methods.ingest import IngestConfig, ingest
    from dcryo.methods.postprocess import postprocess
    from dcryo.methods.postprocess_config import PostprocessConfig
    from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
    from dcryo.methods.refine import RefineConfig, refine
    from dcryo.methods.simulate import SimulateConfig, simulate

__version__ = "0.1.0"

__all__ = [
    "DaskExecutor",
    "IngestConfig",
    "PostprocessConfig",
    "ReconstructConfig",
    "RefineConfig",
    "SimulateConfig",
    "__version__",
    "export",
    "ingest",
    "local_workers",
    "open",
    "postprocess",
    "reconstruct",
    "refine",
    "simulate",
]

_HOME = {
    "DaskExecutor": "dcryo.dataflow.cluster",
    "IngestConfig": "dcryo.methods.ingest",
    "PostprocessConfig": "dcryo.methods.postprocess_config",
    "ReconstructConfig": "dcryo.methods.reconstruct",
    "RefineConfig": "dcryo.methods.refine",
    "SimulateConfig": "dcryo.methods.simulate",
    "export": "dcryo.methods.export",
    "ingest": "dcryo.methods.ingest",
    "local_workers": "dcryo.dataflow.cluster",
    "open": "dcryo.io.datasets",
    "postprocess": "dcryo.methods.postprocess",
    "reconstruct": "dcryo.methods.reconstruct",
    "refine": "dcryo.methods.refine",
    "simulate": "dcryo.methods.simulate",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'dcryo' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
