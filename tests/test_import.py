"""``import dcryo`` is cheap, and every public name arrives when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dcryo

HEAVY = ("cupy", "dask", "distributed", "matplotlib", "numba", "torch", "xarray", "zarr")


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after ``statement``."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    packages = loaded_by("import dcryo")
    assert "dcryo" in packages
    assert packages.isdisjoint(HEAVY)


def test_dir_needs_nothing_heavy() -> None:
    assert loaded_by("import dcryo; assert 'reconstruct' in dir(dcryo)").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", sorted(set(dcryo.__all__) - {"__version__"}))
def test_public_names_resolve(name: str) -> None:
    assert getattr(dcryo, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'reconstrct'"):
        _ = dcryo.reconstrct
