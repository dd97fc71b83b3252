"""The notebooks run from top to bottom, and say what they should."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import dcryo

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def outputs(notebook: Any, kind: str) -> list[str]:
    """All outputs of a MIME type, in order; of "text" what was printed."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if kind == "text" and output.output_type == "stream":
                found.append(output.text)
            elif kind in output.get("data", {}):
                found.append(output.data[kind])
    return found


def test_there_are_notebooks_and_they_hold_no_outputs() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")], (
            path
        )


@pytest.fixture
def kernel_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel, a process of its own, imports the dcryo that is tested, and leaves nothing behind."""
    root = Path(dcryo.__file__).resolve().parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("kernel_environment")
# jupyter_client and the kernel's sockets warn of what they themselves leave open
@pytest.mark.filterwarnings("default")
def test_first_reconstruction_gives_a_map() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "first_reconstruction.ipynb", as_version=4)
    NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
    printed = "".join(outputs(notebook, "text"))
    assert "dashboard: http://127.0.0.1:" in printed
    assert len(outputs(notebook, "image/png")) == 3
    texts = "".join(outputs(notebook, "text/plain"))
    assert "2000 x 48²" in texts
    assert "xarray.Dataset" in texts
    assert "xarray.DataTree" in texts
    (result,) = [text for text in outputs(notebook, "text/plain") if text.startswith("{'resolution_0143_A'")]
    # the phantom's 2,000 images at this noise determine it far beyond half of Nyquist (16 Å)
    assert 8 <= eval(result)["resolution_0143_A"] < 16
