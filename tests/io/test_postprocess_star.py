"""Post-processing tables: read back by starfile and by RELION, and MTF files good and bad."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile

from dcryo.errors import InputError
from dcryo.io.postprocess_star import read_mtf, write_postprocess_star

FREQUENCY = np.arange(5) / 20
FSC = {
    "corrected": np.array([1, 0.9, 0.5, 0.1, 0]),
    "unmasked": np.array([1, 0.8, 0.4, 0.1, 0]),
    "masked": np.array([1, 0.95, 0.6, 0.2, 0.1]),
    "randomised": np.array([1, 0.95, 0.2, 0.1, 0.1]),
}
GUINIER = {"original": np.array([1, 0.5, 0.25, 0.1, 0.1]), "weighted": np.array([1, 0.5, 0.2, 0.01, 0])}
GENERAL: dict[str, Any] = {
    "rlnFinalResolution": 8.123456789,
    "rlnBfactorUsedForSharpening": -51.5,
    "rlnUnfilteredMapHalf1": "post/half 1.mrc",
    "rlnMaskName": None,
}


def written(folder: Path) -> Path:
    return write_postprocess_star(folder / "p.star", GENERAL, FREQUENCY, FSC, GUINIER, -2.5)


def test_blocks_and_columns(tmp_path: Path) -> None:
    blocks = starfile.read(written(tmp_path), always_dict=True)
    assert list(blocks) == ["general", "fsc", "guinier"]
    assert blocks["general"] == {k: v for k, v in GENERAL.items() if v is not None}
    fsc = blocks["fsc"]
    assert fsc["rlnSpectralIndex"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(fsc["rlnAngstromResolution"], [999, 20, 10, 20 / 3, 5])
    np.testing.assert_allclose(fsc["rlnResolution"], [1 / 999, 0.05, 0.1, 0.15, 0.2])
    for name, column in (
        ("corrected", "rlnFourierShellCorrelationCorrected"),
        ("unmasked", "rlnFourierShellCorrelationUnmaskedMaps"),
        ("masked", "rlnFourierShellCorrelationMaskedMaps"),
        ("randomised", "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"),
    ):
        np.testing.assert_allclose(fsc[column], FSC[name])
    guinier = blocks["guinier"]
    np.testing.assert_allclose(guinier["rlnResolutionSquared"], FREQUENCY**2)
    np.testing.assert_allclose(guinier["rlnLogAmplitudesOriginal"], np.log(GUINIER["original"]))
    np.testing.assert_allclose(guinier["rlnLogAmplitudesWeighted"], [*np.log(GUINIER["weighted"][:4]), -99])
    assert guinier["rlnLogAmplitudesIntercept"].tolist() == [-2.5] * 5
    assert "rlnLogAmplitudesMTFCorrected" not in guinier


@pytest.mark.skipif(shutil.which("relion_star_printtable") is None, reason="RELION is not installed")
def test_relion_reads_it(tmp_path: Path) -> None:
    command = [
        "relion_star_printtable",
        str(written(tmp_path)),
        "data_fsc",
        "rlnFourierShellCorrelationCorrected",
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    np.testing.assert_allclose([float(word) for word in said.split()], FSC["corrected"])


def mtf(path: Path, rows: str, columns: str = "_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n") -> Path:
    path.write_text(f"\ndata_\n\nloop_\n{columns}{rows}\n")
    return path


def test_mtf(tmp_path: Path) -> None:
    frequency, value = read_mtf(mtf(tmp_path / "k3.star", "0.0 1\n0.25 0.8\n0.5 0.4"))
    assert frequency.tolist() == [0, 0.25, 0.5]
    assert value.tolist() == [1, 0.8, 0.4]


def test_bad_mtf(tmp_path: Path) -> None:
    cases = [
        ("0 1\n0.25 0\n0.5 0.4", "row 2 of the MTF"),
        ("0 1\n0.25 x\n0.5 0.4", "row 2 of the MTF"),
        ("0 1\n0.5 0.8\n0.25 0.4", "does not rise"),
        ("0 1", "does not rise"),
    ]
    for rows, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            read_mtf(mtf(tmp_path / "m.star", rows))
    with pytest.raises(
        InputError, match="0 tables with the columns rlnResolutionInversePixel and rlnMtfValue"
    ):
        read_mtf(mtf(tmp_path / "m.star", "0 1\n1 2", "_rlnA #1\n_rlnB #2\n"))
    with pytest.raises(InputError, match="no such file"):
        read_mtf(tmp_path / "none.star")
