"""Fixtures that every folder of tests shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time: a test that fails here fails for the next person as well.
settings.register_profile("dcryo", deadline=None, derandomize=True)
settings.load_profile("dcryo")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Files made by other programs, kept beside the checkout; a test that needs them is skipped without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the files made by other programs (../shared/data beside the checkout) are not here")
    return folder


@pytest.fixture(scope="session")
def shared_phantom() -> Path:
    """The reference phantom and FSC program, kept beside the checkout; skipped where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "phantom"
    if not folder.is_dir():
        pytest.skip(
            "the reference phantom and FSC program (../shared/phantom beside the checkout) are not here"
        )
    return folder
