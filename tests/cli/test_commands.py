"""Every command on a tiny set, from particles to a page, and what each says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.cli.main import main
from dcryo.io.mrc import read_volume, write_volume


class Line:
    """The command line in one folder: runs commands and returns what they printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def fails(self, *arguments: str) -> str:
        """Run a command that must complain: its one sentence."""
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert code == 2, captured
        assert captured.out == ""
        sentence = captured.err.splitlines()[-1]
        assert sentence.startswith(f"dcryo {arguments[0]}: ")
        return sentence

    def prints(self, *arguments: str) -> str:
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    def json(self, *arguments: str) -> dict[str, Any]:
        """Run a command with ``--json``: stdout must be one object and nothing else."""
        read = json.loads(self.prints(*arguments, "--json"))
        assert isinstance(read, dict)
        return read


@pytest.fixture
def line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.chdir(tmp_path)
    return Line(tmp_path, capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with particles.zarr (box 20, SNR 3) and its run.zarr."""
    folder = tmp_path_factory.mktemp("made")
    particles, run = str(folder / "particles.zarr"), str(folder / "run.zarr")
    options = [
        "--phantom",
        "protein",
        "--box",
        "20",
        "--pixel-size",
        "3",
        "--particles",
        "300",
        "--snr",
        "3",
        "--max-shift",
        "1",
    ]
    assert main(["simulate", particles, *options]) == 0
    assert main(["reconstruct", particles, run]) == 0
    return folder


def test_simulate_and_info(line: Line) -> None:
    said = line.json("simulate", "a.zarr", "--box", "16", "--particles", "30", "--pixel-size", "2.5")
    assert said == {
        "store": str(line.folder / "a.zarr"),
        "particles": 30,
        "box": 16,
        "pixel_size": 2.5,
    }
    info = line.json("info", "a.zarr")
    assert (info["kind"], info["count"], info["box"]) == ("particles", 30, 16)
    text = line.prints("info", "a.zarr")
    assert "16 pixels of 2.5 Å" in text
    assert "300 kV" in text
    assert "OUT" not in line.fails("simulate", "a.zarr", "--particles", "31")


def test_check_finds_a_deleted_chunk(line: Line) -> None:
    line.prints("simulate", "a.zarr", "--box", "16", "--particles", "30")
    assert line.json("check", "a.zarr")["problems"] == []
    assert "no problem" in line.prints("check", "a.zarr", "--quick")
    (line.folder / "a.zarr/image/c/0/0/0").unlink()
    assert main(["check", "a.zarr", "--json"]) == 2
    assert main(["check", "a.zarr"]) == 2


def test_check_problems_as_json(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.prints("simulate", "a.zarr", "--box", "16", "--particles", "30")
    (line.folder / "a.zarr/image/c/0/0/0").unlink()
    assert main(["check", "a.zarr", "--json"]) == 2
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] is False
    assert "image/c/0" in read["problems"][0]


def test_relion_files_come_back(line: Line) -> None:
    options = ["--box", "16", "--particles", "40", "--symmetry", "C2", "--star", "relion"]
    line.prints("simulate", "a.zarr", *options)
    said = line.json("ingest", "relion/particles.star", "b.zarr")
    assert said["particles"] == 40
    from dcryo.io.particle_store import open_particles

    before, after = open_particles("a.zarr"), open_particles("b.zarr")
    assert np.array_equal(before.images(0, 40), after.images(0, 40))
    np.testing.assert_allclose(after.particles().shift, before.particles().shift, atol=1e-5)
    truth, pixel_size = read_volume(line.folder / "relion" / "truth.mrc")
    assert np.array_equal(truth, before.truth())
    assert pixel_size == pytest.approx(1.5)
    assert "truth.mrc exists" in _star_again(line, "particles.star", "particles.mrcs")
    assert not (line.folder / "c.zarr").exists()


def _star_again(line: Line, *removed: str) -> str:
    """What is said of a --star folder that still holds some of the files."""
    for name in removed:
        (line.folder / "relion" / name).unlink()
    return line.fails("simulate", "c.zarr", "--box", "16", "--particles", "8", "--star", "relion")


def test_reconstruction_is_that_of_the_truth(line: Line, made: Path) -> None:
    result = line.json("reconstruct", made / "particles.zarr", made / "run.zarr")  # complete: read back
    keys = (
        "resolution_0143_A resolution_05_A mean_fsc weight iterations objective seconds bytes_read peak_rss"
    )
    assert set(keys.split()) <= result.keys()
    fsc = line.json("fsc", f"{made / 'run.zarr'}", f"{made / 'particles.zarr'}:truth", "--mask-radius", "0.3")
    # Against the mirrored truth it is 0.38, against the truth one voxel off 0.57.
    assert fsc["mean_fsc"] > 0.75
    assert "resolution, FSC 0.143" in line.prints("info", made / "run.zarr")
    assert line.json("info", made / "run.zarr")["result"]["iterations"] == result["iterations"]
    assert line.json("check", made / "run.zarr")["ok"] is True


def test_dry_run_writes_nothing(line: Line, made: Path) -> None:
    plan = line.json("reconstruct", made / "particles.zarr", "r.zarr", "--dry-run")["plan"]
    assert plan["box"] == 20
    assert "memory" in line.prints("reconstruct", made / "particles.zarr", "r.zarr", "--dry-run")
    assert not (line.folder / "r.zarr").exists()


def test_options_reach_the_configuration(line: Line, made: Path) -> None:
    options = ["--weight", "0.5", "--nonnegative", "off", "--halves", "even-odd", "--iterations", "3"]
    line.prints("reconstruct", made / "particles.zarr", "r.zarr", *options, "--threads", "1")
    config = line.json("info", "r.zarr")["config"]
    assert (config["weight"], config["nonnegative"]) == (0.5, False)
    assert (config["halves"], config["iterations"]) == ("even-odd", 3)
    assert "--overwrite" in line.fails("reconstruct", made / "particles.zarr", "r.zarr")


def test_too_little_memory_is_refused(line: Line, made: Path) -> None:
    line.fails("reconstruct", made / "particles.zarr", "r.zarr", "--max-memory", "100kB")
    assert not (line.folder / "r.zarr").exists()


def test_export_and_report(line: Line, made: Path) -> None:
    line.prints("export", made / "run.zarr", "map.mrc")
    assert read_volume(line.folder / "map.mrc")[0].shape == (20, 20, 20)
    assert line.json("export", made / "run.zarr", "half1.mrc", "--what", "half1") == {"file": "half1.mrc"}
    line.prints("export", made / "run.zarr", "fsc.xml")
    assert "exists" in line.fails("export", made / "run.zarr", "map.mrc")
    line.prints("export", made / "run.zarr", "map.mrc", "--overwrite")
    page = line.json("report", made / "run.zarr", "--output", "page.html")["report"]
    assert (line.folder / page).read_text("utf-8").startswith("<!DOCTYPE html>")


def test_fsc_of_maps_that_agree_up_to_a_shell(line: Line) -> None:
    n, last = 32, 9
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, n, n))
    spectra = np.fft.fftn(a), np.fft.fftn(rng.normal(size=a.shape))
    f = np.fft.fftfreq(n) * n
    shell = np.rint(np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2))
    b = np.fft.ifftn(np.where(shell <= last, *spectra)).real
    write_volume(line.folder / "a.mrc", a.astype(np.float32), 2.0)
    write_volume(line.folder / "b.mrc", b.astype(np.float32), 2.0)
    result = line.json("fsc", "a.mrc", "b.mrc")
    # 1 up to the shell, 0 beyond it but for chance: the crossings lie between it and the next.
    assert 32 * 2 / (last + 1) < result["resolution_05_A"] < 32 * 2 / last
    assert 32 * 2 / (last + 1) < result["resolution_0143_A"] < result["resolution_05_A"]
    assert result["mean_fsc"] == pytest.approx(last / 16, abs=0.02)
    np.testing.assert_allclose(result["fsc"][: last + 1], 1, atol=1e-5)
    assert result["frequency"][16] == pytest.approx(1 / 4)
    assert "FSC 0.143" in line.prints("fsc", "a.mrc", "b.mrc")
    # White maps decorrelate in a mask no further than its few shells: the crossing stays near.
    masked = line.json("fsc", "a.mrc", "b.mrc", "--mask-radius", "0.4")
    assert masked["mask_radius"] == 0.4
    assert masked["mean_fsc"] != result["mean_fsc"]


def test_fsc_refuses_what_does_not_compare(line: Line) -> None:
    for name, n, pixel_size in (("a", 16, 2.0), ("b", 18, 2.0), ("c", 16, 3.0)):
        write_volume(line.folder / f"{name}.mrc", np.ones((n, n, n), np.float32), pixel_size)
    assert "one box" in line.fails("fsc", "a.mrc", "b.mrc")
    assert "--pixel-size" in line.fails("fsc", "a.mrc", "c.mrc")
    assert "--mask-radius" in line.fails("fsc", "a.mrc", "a.mrc", "--mask-radius", "30")
    assert "--pixel-size" in line.fails("fsc", "a.mrc", "c.mrc", "--pixel-size", "0")
    line.prints("fsc", "a.mrc", "c.mrc", "--pixel-size", "2.5")


def test_stores_of_another_kind_are_named(line: Line, made: Path) -> None:
    assert "run" in line.fails("reconstruct", made / "run.zarr", "r.zarr")
    assert "particle store" in line.fails("report", made / "particles.zarr")
    assert "does not exist" in line.fails("info", "nothing.zarr")
    assert "does not exist" in line.fails("check", "nothing.zarr")
    assert "no such file" in line.fails("ingest", "nothing.star", "b.zarr")
    assert list(line.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "count"), [("8GB", 8e9), ("500 MB", 5e8), ("2.5e9", 2.5e9), ("10kb", 1e4), ("7B", 7)]
)
def test_sizes_are_read(text: str, count: float) -> None:
    from dcryo.cli.map_arguments import byte_count

    assert byte_count(text) == count


@pytest.mark.parametrize(
    "options", [["--max-memory", "lots"], ["--weight", "heavy"], ["--nonnegative", "maybe"], ["--scale", "x"]]
)
def test_unreadable_options(line: Line, options: list[str]) -> None:
    sentence = line.fails("reconstruct", "a.zarr", "r.zarr", *options)
    assert options[0] in sentence
    assert options[1] in sentence
