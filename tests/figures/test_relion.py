"""RELION as a peer, played by programs that do as it does: what they are told, and what is read back."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcryo.figures import relion
from dcryo.geometry.rotations import euler_to_matrix
from dcryo.io.mrc import write_volume

LAUNCH = """
import os, subprocess, sys
assert sys.argv[1:3] == ["-n", "3"], sys.argv
codes = [subprocess.call(sys.argv[3:], env=os.environ | {"OMPI_COMM_WORLD_RANK": str(k)}) for k in range(3)]
sys.exit(max(codes))
"""

REFINE = """
import os, shutil, sys, time
rank, told = int(os.environ["OMPI_COMM_WORLD_RANK"]), sys.argv[1:]
if "@FAIL@" == "yes":
    print("doing well")
    sys.exit("ERROR: there is no such thing")
while time.process_time() < 0.1 + 0.2 * rank:
    pass
out = told[told.index("--o") + 1]
if rank == 1:
    shutil.copy("answer.star", out + "_data.star")
    for name in ("class001", "half1_class001_unfil", "half2_class001_unfil"):
        shutil.copy(name + ".mrc", f"{out}_{name}.mrc")
    for iteration in range(4):
        open(f"{out}_it{iteration:03d}_optimiser.star", "w").close()
"""

STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
1 one 2.0 4 300 2.7 0.1

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOriginXAngst #5
_rlnOriginYAngst #6
_rlnOpticsGroup #7
000002@start.mrcs 10 20 30 1.5 -2.5 1
000003@start.mrcs 40 50 60 0 0 1
000001@start.mrcs 70 80 90 -4 8 1
"""


def play(folder: Path, monkeypatch: pytest.MonkeyPatch, *, fail: bool = False) -> Path:
    """Programs of those names on a PATH that holds nothing else, and what the refinement answers."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("mpirun", LAUNCH), ("relion_refine_mpi", REFINE)):
        path = programs / name
        path.write_text(f"#!{sys.executable} -IS\n" + text.replace("@FAIL@", "yes" if fail else "no"))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(programs))
    (folder / "answer.star").write_text(STAR)
    for value, name in enumerate(("class001", "half1_class001_unfil", "half2_class001_unfil")):
        write_volume(folder / f"{name}.mrc", np.full((4, 4, 4), value, np.float32), 2.0)
    return folder / "start.star"


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path, monkeypatch)
    assert relion.missing() is None
    (tmp_path / "bin" / "mpirun").unlink()
    assert relion.missing() == "mpirun not found on PATH"
    monkeypatch.setenv("PATH", "")
    assert relion.missing() == "relion_refine_mpi and mpirun not found on PATH"


def test_poses_come_in_the_order_of_the_images_and_the_leader_is_counted_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    star = play(tmp_path, monkeypatch)
    made = relion.auto_refine(star, tmp_path / "initial.mrc", 123.4, ctf=False)
    angles = np.deg2rad([[70, 80, 90], [10, 20, 30], [40, 50, 60]])
    np.testing.assert_allclose(made.rotation, euler_to_matrix(*angles.T), atol=1e-12)
    # RELION's origin is what re-centres an image, ours where its content is
    np.testing.assert_allclose(made.shift, [[4, -8], [-1.5, 2.5], [0, 0]])
    assert [float(volume.mean()) for volume in (made.volume, made.half1, made.half2)] == [0, 1, 2]
    assert made.iterations == 3

    # 0.1 s of the leader's and 0.3 and 0.5 s of the workers', and what three interpreters need to start
    assert 0.1 <= made.leader_seconds < 0.3
    assert 0.9 <= made.cpu_seconds < 1.5


@pytest.mark.parametrize("ctf", [False, True])
def test_options_are_those_of_an_auto_refinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctf: bool
) -> None:
    star, told = play(tmp_path, monkeypatch), []

    def run(command: list[str], **how: object) -> subprocess.CompletedProcess[str]:
        told.extend(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(relion.RelionFailedError):
        relion.auto_refine(star, tmp_path / "maps" / "initial.mrc", 123.4, ctf=ctf)
    given = dict(zip(told, [*told[1:], ""], strict=True))
    assert (given["--i"], given["--ref"]) == ("start.star", "maps/initial.mrc")
    assert (given["--healpix_order"], given["--auto_local_healpix_order"]) == ("2", "3")
    assert (given["--offset_range"], given["--offset_step"], given["--ini_high"]) == ("4", "2", "30")
    assert given["--particle_diameter"] == "123.4"
    assert {"--auto_refine", "--split_random_halves"} <= given.keys()
    assert ("--ctf" in given) is ctf
    assert ("--ctf_corrected_ref" in given) is ctf


def test_an_error_is_what_it_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star = play(tmp_path, monkeypatch, fail=True)
    with pytest.raises(relion.RelionFailedError, match=r"ended with 1: .*ERROR: there is no such thing"):
        relion.auto_refine(star, tmp_path / "initial.mrc", 100.0, ctf=False)


def test_no_result_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star = play(tmp_path, monkeypatch)
    launcher = tmp_path / "bin" / "mpirun"
    launcher.write_text(f"#!{sys.executable} -IS\nprint('all is well')\n")
    assert os.access(launcher, os.X_OK)
    with pytest.raises(relion.RelionFailedError, match="ended with 0: all is well"):
        relion.auto_refine(star, tmp_path / "initial.mrc", 100.0, ctf=False)
