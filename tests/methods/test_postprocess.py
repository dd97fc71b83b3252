"""Post-processing of made half maps: what it finds, what it writes, what it refuses, and RELION beside it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mrcfile
import numpy as np
import pytest
import starfile

import dcryo
from dcryo.errors import InputError
from dcryo.imaging.radial import filtered, low_pass
from dcryo.io.mrc import read_volume, write_volume
from dcryo.io.run_store import create_run
from dcryo.methods.postprocess import Postprocessed, postprocess
from dcryo.methods.postprocess_config import PostprocessConfig
from dcryo.methods.progress import Silent
from dcryo.metrics.directional import sphericity
from dcryo.metrics.sharpening import fsc_weight, sharpen

N, PIXEL = 48, 2.0
B = 200.0
RESOLVED = 17
"""Shell up to which the half maps agree: 96 Å / 17 = 5.6 Å."""

FIT = (15.0, 6.3)
QUICK = PostprocessConfig(bfactor_low=FIT[0], bfactor_high=FIT[1], local_resolution=False, directional=False)


class Notes(Silent):
    """A progress that keeps its messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def distance() -> np.ndarray:
    """Of every voxel to the middle of the particle."""
    x = np.arange(N) - N // 2
    return np.sqrt(x[:, None, None] ** 2 + (x[:, None] + 2) ** 2 + (x - 3) ** 2)


def particle() -> np.ndarray:
    """Random density in a soft ball of 8 to 14 voxels, whose amplitudes fall by a B factor."""
    ball = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance() - 8) / 6, 0, 1))
    density = ball * (1 + np.random.default_rng(0).standard_normal((N, N, N)))
    return filtered(density, lambda q: np.exp(-B / 4 * (q / (N * PIXEL)) ** 2))


def half_maps() -> list[np.ndarray]:
    """The particle up to a shell, and independent noise: little below the shell, much beyond it."""
    signal = filtered(particle(), low_pass(RESOLVED, 0))
    maps = []
    for seed in (1, 2):
        noise = np.random.default_rng(seed).standard_normal((N, N, N))
        coarse = filtered(noise, low_pass(RESOLVED, 0))
        maps.append(signal + 0.01 * coarse + 0.3 * (noise - coarse))
    return [m.astype(np.float32) for m in maps]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with half maps as files that RELION names, and run.zarr with the same as linear halves."""
    folder = tmp_path_factory.mktemp("halves")
    store = create_run(folder / "run.zarr", "reconstruct", {"symmetry": "C2"})
    for number, volume in enumerate(half_maps(), 1):
        write_volume(folder / f"run_half{number}_class001_unfil.mrc", volume, PIXEL)
        store.write_volume(f"linear{number}", volume, PIXEL)
        store.write_volume(f"half{number}", filtered(volume, low_pass(14)), PIXEL)
    tilt, rot = np.linspace(0, np.pi, 19), np.linspace(-np.pi, np.pi, 37)
    counts = np.rint(100 * np.repeat(np.sin((tilt[1:] + tilt[:-1]) / 2)[:, None], 36, axis=1)).astype(int)
    store.write_table("poses", {"counts": counts, "tilt": tilt, "rot": rot})
    store.finish({})
    return folder


@pytest.fixture(scope="module")
def full(made: Path) -> Postprocessed:
    config = PostprocessConfig(
        bfactor_low=FIT[0], bfactor_high=FIT[1], locres_radius=12, locres_edge=20, locres_sampling=24,
        locres_randomise=30,
    )  # fmt: skip
    return dcryo.postprocess(made / "run.zarr", made / "full", config)


def test_resolution_b_factor_and_mask_are_those_that_were_put_in(full: Postprocessed) -> None:
    result = full.result
    # The halves agree up to a shell and no further; the soft mask spreads that by about one.
    assert N * PIXEL / (RESOLVED + 1) < result["resolution_0143_A"] < N * PIXEL / (RESOLVED - 1)
    assert result["resolution_0143_A"] < result["final_resolution_A"] < result["resolution_05_A"] + 0.5
    # A random particle has a few hundred independent coefficients in a shell: ln|F| of it scatters by 0.05,
    # over s^2 from 0.004 to 0.025, and the FSC weights add a little.
    assert result["bfactor"] == pytest.approx(-B, abs=50)
    mask = read_volume(full.folder / "postprocess_mask.mrc")[0]
    d = distance()
    assert mask[d < 11].min() == 1  # half the density, and more for what is added
    assert mask[d > 14 + 3 + 6].max() == 0
    assert result["mask_fraction"] == pytest.approx(mask.mean(), rel=1e-5)


def test_files_agree_with_the_result(full: Postprocessed, made: Path) -> None:
    result, folder = full.result, full.folder
    assert sorted(path.name for path in folder.iterdir()) == result["files"]
    maps = ".mrc _masked.mrc _mask.mrc _locres.mrc _locres_filtered.mrc _half1_unfil.mrc _half2_unfil.mrc"
    endings = f"{maps} .star _directions.star _fsc.xml .png .json"
    assert result["files"] == sorted(f"postprocess{ending}" for ending in endings.split())
    blocks = starfile.read(folder / "postprocess.star", always_dict=True)
    general, fsc, guinier = blocks["general"], blocks["fsc"], blocks["guinier"]
    assert general["rlnFinalResolution"] == pytest.approx(result["final_resolution_A"])
    assert general["rlnBfactorUsedForSharpening"] == pytest.approx(result["bfactor"])
    assert general["rlnBfactorUsedForSharpening"] == pytest.approx(4 * general["rlnFittedSlopeGuinierPlot"])
    assert general["rlnRandomiseFrom"] == pytest.approx(result["randomised_from_A"])
    np.testing.assert_allclose(fsc["rlnFourierShellCorrelationCorrected"], full.fsc["corrected"], rtol=1e-9)
    assert len(guinier) == N // 2 + 1
    points = ElementTree.parse(folder / "postprocess_fsc.xml").getroot().findall("coordinate")
    assert [float(p.findtext("y")) for p in points] == pytest.approx(full.fsc["corrected"].tolist(), abs=1e-6)
    assert json.loads((folder / "postprocess.json").read_text())["result"]["bfactor"] == result["bfactor"]
    maps = {}
    for name in ("postprocess", "postprocess_mask", "postprocess_masked", "postprocess_locres"):
        with mrcfile.open(folder / f"{name}.mrc") as mrc:
            assert float(mrc.voxel_size.x) == PIXEL
            maps[name] = np.array(mrc.data)
    np.testing.assert_array_equal(maps["postprocess_masked"], maps["postprocess"] * maps["postprocess_mask"])
    # Other programs follow these names to the half maps and the mask.
    for number, volume in enumerate(half_maps(), 1):
        named = Path(general[f"rlnUnfilteredMapHalf{number}"])
        np.testing.assert_array_equal(read_volume(named)[0], volume)
    np.testing.assert_array_equal(read_volume(general["rlnMaskName"])[0], maps["postprocess_mask"])


def test_the_map_is_sharpened_and_ends_at_its_resolution(full: Postprocessed) -> None:
    sharp = read_volume(full.folder / "postprocess.mrc")[0]
    a, b = half_maps()
    q = np.fft.fftfreq(N) * N
    radius = np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q**2)
    before, after = np.abs(np.fft.fftn((a + b) / 2)), np.abs(np.fft.fftn(sharp))
    last = round(N * PIXEL / full.result["final_resolution_A"])
    # exp(-B/4 s^2) at every frequency below the filter, times the weight of its shell
    weight = fsc_weight(full.fsc["corrected"])
    for k in (3, 8, 14):
        seen = np.rint(radius) == k
        gain = weight[k] * np.exp(-full.result["bfactor"] / 4 * (radius[seen] / (N * PIXEL)) ** 2)
        np.testing.assert_allclose(after[seen], gain * before[seen], atol=1e-4 * before[seen].max())
    assert after[radius > last + 1.01].max() < 1e-4 * after.max()


def test_local_and_directional_resolution_are_those_of_the_whole(full: Postprocessed) -> None:
    """Both halves agree to one shell everywhere and in every direction."""
    result = full.result
    # A shell of the window's box of 70 Å, or of a cone, which holds few voxels: the best of 200 is by chance.
    assert result["directional_best_A"] <= result["directional_worst_A"]
    for key in ("local_resolution_median_A", "directional_worst_A"):
        assert abs(1 / result[key] - RESOLVED / (N * PIXEL)) < 1 / 64, key
    table = starfile.read(full.folder / "postprocess_directions.star", always_dict=True)
    directions = table["directions"]
    assert directions["dcryoResolution0143"].min() == pytest.approx(result["directional_best_A"])
    axes = directions[["dcryoDirectionX", "dcryoDirectionY", "dcryoDirectionZ"]].to_numpy()
    # of the surface of frequencies, whose radii are 1/Å
    surface = sphericity(axes, 1 / directions["dcryoResolution05"].to_numpy())
    assert result["sphericity"] == pytest.approx(surface, abs=1e-7)
    assert 0.95 < surface < 1
    # A histogram that goes with sin(tilt) is an even spread, whatever the symmetry.
    assert result["sampling_compensation"] == pytest.approx(1, abs=0.01)
    assert result["local_resolution_best_A"] <= result["local_resolution_median_A"]
    with mrcfile.open(full.folder / "postprocess_locres.mrc") as mrc:
        assert np.all(mrc.data >= 0)


def test_no_measurement_depends_on_another(full: Postprocessed, made: Path, tmp_path: Path) -> None:
    alone = postprocess(made / "run.zarr", tmp_path / "out", replace(QUICK, directional=True)).result
    for key in ("resolution_0143_A", "directional_best_A", "directional_std_A", "sphericity"):
        assert alone[key] == full.result[key]


def test_a_run_and_its_half_maps_as_files_give_the_same(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for path in made.glob("*.mrc"):
        shutil.copy(path, tmp_path)
    first, second = "run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"
    notes = Notes()
    by_name = postprocess(first, "a", QUICK, progress=notes)
    assert f"the other half map is {second}" in notes.said
    given = postprocess(first, "b", QUICK, half2=second)
    parts = postprocess(f"{made / 'run.zarr'}:linear1", "c", QUICK, half2=f"{made / 'run.zarr'}:linear2")
    whole = postprocess(made / "run.zarr", "d", QUICK)
    for other in (given, parts, whole):
        for name, curve in other.fsc.items():
            np.testing.assert_array_equal(curve, by_name.fsc[name])
        assert other.result["bfactor"] == by_name.result["bfactor"]
    general = starfile.read("a/postprocess.star", always_dict=True)["general"]
    assert (general["rlnUnfilteredMapHalf1"], general["rlnUnfilteredMapHalf2"]) == (first, second)
    assert not Path("a/postprocess_half1_unfil.mrc").exists()
    assert Path("d/postprocess_half1_unfil.mrc").exists()
    keys = ("local_resolution_median_A", "directional_best_A", "sphericity")
    assert [whole.result[key] for key in keys] == [None] * 3
    assert by_name.result["sampling_compensation"] is None
    assert not any("locres" in name or "directions" in name for name in whole.result["files"])


def test_the_run_is_left_as_it_is(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.zarr"
    shutil.copytree(made / "run.zarr", run)

    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in run.rglob("*")}

    before = state()
    postprocess(run, tmp_path / "out", QUICK)
    assert state() == before


def test_regularised_halves_come_with_a_warning(made: Path, tmp_path: Path) -> None:
    notes = Notes()
    config = PostprocessConfig(maps="regularised", local_resolution=False, directional=False)
    done = postprocess(made / "run.zarr", tmp_path / "out", config, progress=notes)
    assert done.result["half1"].endswith("run.zarr:half1")
    assert any("not a resolution" in said for said in notes.said)


def test_options_reach_the_map(made: Path, tmp_path: Path) -> None:
    a, b = half_maps()
    mtf = tmp_path / "mtf.star"
    mtf.write_text("data_\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n0 1\n0.5 0.5\n")
    config = PostprocessConfig(
        bfactor=-20,
        fsc_weighting=False,
        lowpass=8.0,
        mtf=str(mtf),
        mtf_pixel_size=1.0,
        local_resolution=False,
        directional=False,
        pixel_size=2.5,
    )
    done = postprocess(made / "run.zarr", tmp_path / "out", config)
    # 120 Å: shell 15 is 8 Å; the MTF falls by 1 per cycle per pixel of 1 Å
    expected = sharpen(
        (a + b) / 2,
        2.5,
        weights=None,
        fit_range=(10, 5),
        bfactor=-20,
        mtf=lambda q: 1 - q / (N * 2.5),
        lowpass=low_pass(15),
    )
    got, pixel = read_volume(tmp_path / "out" / "postprocess.mrc")
    assert pixel == 2.5
    np.testing.assert_allclose(got, expected.volume, atol=1e-5 * np.abs(got).max())
    assert done.result["guinier_slope"] is None
    guinier = starfile.read(tmp_path / "out" / "postprocess.star", always_dict=True)["guinier"]
    np.testing.assert_allclose(
        guinier["rlnLogAmplitudesMTFCorrected"], np.log(expected.mtf_corrected), atol=1e-6
    )


def test_a_mask_that_is_given_is_used(made: Path, tmp_path: Path, full: Postprocessed) -> None:
    mask = full.folder / "postprocess_mask.mrc"
    config = PostprocessConfig(mask=str(mask), bfactor=0, local_resolution=False, directional=False)
    done = postprocess(made / "run.zarr", tmp_path / "out", config)
    np.testing.assert_allclose(done.fsc["corrected"], full.fsc["corrected"], atol=1e-12)
    assert done.result["mask_threshold"] is None
    write_volume(tmp_path / "small.mrc", np.zeros((8, 8, 8)), PIXEL)
    bad = PostprocessConfig(mask=str(tmp_path / "small.mrc"))
    with pytest.raises(InputError, match=r"small\.mrc has the shape \(8, 8, 8\)"):
        postprocess(made / "run.zarr", tmp_path / "bad", bad)
    write_volume(tmp_path / "empty.mrc", np.zeros((N, N, N)), PIXEL)
    with pytest.raises(InputError, match=r"empty\.mrc: it is empty"):
        postprocess(made / "run.zarr", tmp_path / "bad", PostprocessConfig(mask=str(tmp_path / "empty.mrc")))
    assert not (tmp_path / "bad").exists()


def test_remarks_on_masks_and_maps(made: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    for number in (1, 2):
        write_volume(tmp_path / f"half{number}.mrc", rng.standard_normal((24, 24, 24)), 4.0)
    x = np.arange(24) - 12
    ball = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2) < 7
    write_volume(tmp_path / "ball.mrc", ball, 4.0)
    notes = Notes()
    config = PostprocessConfig(mask=str(tmp_path / "ball.mrc"), directional=False)
    done = postprocess(tmp_path / "half1.mrc", tmp_path / "noise", config, progress=notes)
    said = " ".join(notes.said)
    assert "agree in no shell" in said or done.result["resolution_0143_A"] > 40
    assert "too few to fit" in said
    assert done.result["bfactor"] == 0
    # 96 Å of box: the window of 75 Å fits; in half of that it does not
    assert done.result["local_resolution_median_A"] is not None
    small = PostprocessConfig(mask=config.mask, pixel_size=2.0, directional=False)
    postprocess(tmp_path / "half1.mrc", tmp_path / "small", small, progress=notes)
    assert any("its window is 72 Å wide, the box 48 Å" in said for said in notes.said)


def test_what_is_refused_leaves_nothing(made: Path, tmp_path: Path) -> None:
    first, second = (made / f"run_half{n}_class001_unfil.mrc" for n in (1, 2))
    volume, _ = read_volume(first)
    write_volume(tmp_path / "coarse.mrc", volume, 3.0)
    write_volume(tmp_path / "small.mrc", volume[:24, :24, :24], PIXEL)
    (tmp_path / "file").write_text("mine")
    unfinished = create_run(tmp_path / "begun.zarr", "reconstruct", {})
    unfinished.write_volume("linear1", volume, PIXEL)
    whole = create_run(tmp_path / "whole.zarr", "reconstruct", {})
    whole.write_volume("full", volume, PIXEL)
    whole.finish({})
    before = sorted(path.name for path in tmp_path.iterdir())
    cases: list[tuple[Any, Any, Any, str]] = [
        (first, tmp_path / "coarse.mrc", "out", r"2 Å per pixel and .*3; state it with --pixel-size"),
        (first, tmp_path / "small.mrc", "out", "give half maps of one box"),
        (first, first, "out", "are the same map"),
        (tmp_path / "coarse.mrc", None, "out", "give a run, or the other half map with --half2"),
        (f"{made / 'run.zarr'}:linear1", None, "out", "is one map"),
        (made / "run.zarr", second, "out", "brings both of its half maps"),
        (tmp_path / "begun.zarr", None, "out", "is not finished"),
        (tmp_path / "whole.zarr", None, "out", "has no linear half maps .* only full"),
        (tmp_path / "gone.mrc", second, "out", "no such file"),
        (first, None, "file", "is a file; give the name of a folder"),
        (first, None, "whole.zarr", "is a store, which is left as it is"),
        (first, None, "no/out", "does not exist; create it first"),
        (first, None, "s3://bucket/out", "local folder"),
    ]
    for maps, half2, out, sentence in cases:
        where = out if "://" in out else tmp_path / out
        with pytest.raises(InputError, match=sentence):
            postprocess(maps, where, QUICK, half2=half2, overwrite=True)
    empty = PostprocessConfig(mask_threshold=1e6)
    with pytest.raises(InputError, match="no voxel is inside"):
        postprocess(first, tmp_path / "out", empty)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_is_replaced_when_asked_and_only_by_ours(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no hindrance
    postprocess(
        made / "run.zarr", out, PostprocessConfig(locres_radius=10, locres_edge=10, directional=False)
    )
    assert (out / "postprocess_locres.mrc").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out: exists already; give another name or --overwrite"):
        postprocess(made / "run.zarr", out, QUICK)
    postprocess(made / "run.zarr", out, QUICK, overwrite=True)
    assert not (out / "postprocess_locres.mrc").exists()  # of the results before
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_while_writing_leaves_nothing(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def fails(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dcryo.methods.postprocess_files.write_fsc_xml", fails)
    with pytest.raises(OSError, match="No space left"):
        postprocess(made / "run.zarr", tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"maps": "best"}, "--maps 'best'"),
        ({"mask_lowpass": 0}, "--mask-lowpass 0 is not a positive"),
        ({"mask_edge": -1}, "--mask-edge -1"),
        ({"bfactor": "sharp"}, "--bfactor 'sharp'"),
        ({"bfactor_high": 12.0}, "--bfactor-high 12 is not finer than --bfactor-low 10"),
        ({"mask": "m.mrc", "mask_threshold": 1.0}, "leave it out, or --mask"),
        ({"mask_threshold": float("nan")}, "not a density"),
        ({"mtf_pixel_size": 1.0}, "give one with --mtf"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PostprocessConfig(**options)


needs_relion = pytest.mark.skipif(
    shutil.which("relion_postprocess") is None, reason="RELION is not installed"
)


def relion(command: str) -> None:
    subprocess.run(shlex.split(f"relion_{command}"), check=True, capture_output=True, timeout=120)


def half_spectrum_fsc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """FSC as RELION sums it: over a half spectrum whose plane x = 0 counts as much as all others."""
    fa, fb = (np.fft.rfftn(v.astype(float)) for v in (a, b))
    q = np.fft.fftfreq(len(a)) * len(a)
    r = np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + np.arange(len(a) // 2 + 1) ** 2)
    shell = np.rint(r).astype(int).ravel()
    cross, pa, pb = (
        np.bincount(shell, p.ravel())[: len(a) // 2 + 1]
        for p in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    )
    return cross / np.sqrt(pa * pb)


@needs_relion
def test_relion_finds_the_same(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Mask, curves, crossings, B factor and map of relion_postprocess and ours, on the same halves."""
    monkeypatch.chdir(tmp_path)
    first, second = (str(made / f"run_half{n}_class001_unfil.mrc") for n in (1, 2))
    ours = postprocess(first, "ours", QUICK, half2=second)
    a, b = half_maps()
    average = (a + b) / 2
    write_volume("average.mrc", average, PIXEL)
    threshold = repr(ours.result["mask_threshold"])
    relion("mask_create --i average.mrc --o mask.mrc --lowpass 15 --extend_inimask 3 --width_soft_edge 6 "
           f"--ini_threshold {threshold}")  # fmt: skip
    mask = read_volume("ours/postprocess_mask.mrc")[0]
    np.testing.assert_array_equal(read_volume("mask.mrc")[0], mask)
    relion(f"postprocess --i {first} --i2 {second} --mask ours/postprocess_mask.mrc --o ./relion "
           f"--angpix {PIXEL} --auto_bfac --autob_lowres {FIT[0]} --autob_highres {FIT[1]} "
           "--low_pass -1")  # fmt: skip
    blocks = starfile.read("relion.star", always_dict=True)
    general, fsc, guinier = blocks["general"], blocks["fsc"], blocks["guinier"]
    mine = starfile.read("ours/postprocess.star", always_dict=True)
    for name, table in blocks.items():
        optional = {"rlnParticleBoxFractionSolventMask", "rlnFourierShellCorrelationParticleMaskFraction"}
        assert set(table) - optional == set(mine[name]), name

    # RELION's curves, to the digits it prints, are sums over a half spectrum; ours are over the whole.
    for column, x, y in (
        ("rlnFourierShellCorrelationUnmaskedMaps", a, b),
        ("rlnFourierShellCorrelationMaskedMaps", a * mask, b * mask),
    ):
        np.testing.assert_allclose(fsc[column][1:], half_spectrum_fsc(x, y)[1:], atol=1e-5)
        # which is the same sum over 4 pi k^2 voxels with other weights on 2 pi k of them
        assert np.abs(fsc[column] - mine["fsc"][column])[3:].max() < 0.05
    assert general["rlnRandomiseFrom"] == pytest.approx(ours.result["randomised_from_A"], rel=1e-6)
    shells = [N * PIXEL / g["rlnFinalResolution"] for g in (general, mine["general"])]
    assert abs(shells[0] - shells[1]) < 1.01

    # B over the same range, with RELION's FSC: what is left is the half spectrum, in the mean of |F|.
    curve = fsc["rlnFourierShellCorrelationCorrected"].to_numpy()
    same = sharpen(
        average, PIXEL, weights=fsc_weight(curve), fit_range=FIT, lowpass=low_pass(round(shells[0]))
    )
    assert same.fit is not None
    assert same.bfactor == pytest.approx(general["rlnBfactorUsedForSharpening"], abs=1.5)
    assert same.fit.correlation == pytest.approx(general["rlnCorrelationFitGuinierPlot"], abs=0.02)
    assert ours.result["bfactor"] == pytest.approx(general["rlnBfactorUsedForSharpening"], abs=4)
    for column, values in (
        ("rlnLogAmplitudesOriginal", same.original),
        ("rlnLogAmplitudesWeighted", same.weighted),
    ):
        seen = values > 0
        assert np.abs(np.log(values[seen]) - guinier[column][: len(seen)][seen])[4:].max() < 0.1
    # With RELION's B as well the map is RELION's.
    b_factor, cut = general["rlnBfactorUsedForSharpening"], low_pass(round(shells[0]))
    given = sharpen(average, PIXEL, weights=fsc_weight(curve), fit_range=FIT, bfactor=b_factor, lowpass=cut)
    map_ = read_volume("relion.mrc")[0]
    # FSC and B are printed to six digits
    np.testing.assert_allclose(given.volume, map_, atol=1e-4 * np.abs(map_).max())
