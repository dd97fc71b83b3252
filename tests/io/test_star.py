"""RELION STAR files: made by RELION and by hand; angles and matrices against scipy, columns against gemmi."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.star import read_particles_star, write_particles_star

OPTICS = {
    "rlnOpticsGroup": "1",
    "rlnOpticsGroupName": "og",
    "rlnVoltage": "300",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
    "rlnImagePixelSize": "1.5",
}
ROW = {
    "rlnImageName": "{i}@stack.mrcs",
    "rlnOpticsGroup": "1",
    "rlnDefocusU": "15000",
    "rlnDefocusV": "14000",
    "rlnDefocusAngle": "30",
    "rlnAngleRot": "10",
    "rlnAngleTilt": "20",
    "rlnAnglePsi": "30",
    "rlnOriginXAngst": "3",
    "rlnOriginYAngst": "-6",
    "rlnRandomSubset": "{h}",
}


def loop(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, 1))
    return f"\ndata_{name}\n\nloop_\n{head}" + "".join(" ".join(row) + "\n" for row in rows)


def save_stack(path: Path, count: int = 4, n: int = 8, voxel: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.zeros((count, n, n), np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = voxel
    return path


Maker = Callable[..., Path]


@pytest.fixture
def star(tmp_path: Path) -> Maker:
    """Write a STAR 3.1 file of four particles; keywords change (or, with None, remove) columns."""

    def make(*, optics: dict | None = None, stack: bool = True, **columns: str | None) -> Path:
        if stack and not (tmp_path / "stack.mrcs").exists():
            save_stack(tmp_path / "stack.mrcs")
        group = {k: v for k, v in (OPTICS | (optics or {})).items() if v is not None}
        row = {k: v for k, v in (ROW | columns).items() if v is not None}
        rows = [[v.format(i=i, h=1 + i % 2) for v in row.values()] for i in range(1, 5)]
        path = tmp_path / "run_data.star"
        path.write_text(
            loop("particles", list(row), rows) + loop("optics", list(group), [list(group.values())])
        )
        return path

    return make


def test_values_and_units(star: Maker) -> None:
    table = read_particles_star(star(rlnPhaseShift="90", rlnCtfBfactor="20", rlnCtfScalefactor="0.5"))
    particles = table.particles
    expected = Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).as_matrix().T
    np.testing.assert_allclose(Rotation.from_quat(particles.rotation).as_matrix()[0], expected, atol=1e-12)
    np.testing.assert_allclose(particles.shift[0], [-3, 6])  # t = -(origin)
    np.testing.assert_allclose(particles.defocus[0], [15000, 14000, np.pi / 6])
    np.testing.assert_allclose(particles.phase_shift, np.pi / 2)
    np.testing.assert_allclose(particles.bfactor, 20)
    np.testing.assert_allclose(particles.scale, 0.5)
    np.testing.assert_array_equal(particles.source, [[0, 0], [0, 1], [0, 2], [0, 3]])  # 1-based in the file
    np.testing.assert_array_equal(particles.half, [2, 1, 2, 1])
    (optics,) = particles.optics
    assert (optics.voltage, optics.cs, optics.amplitude_contrast) == (300, pytest.approx(2.7e7), 0.1)
    assert (optics.pixel_size, optics.name) == (1.5, "og")
    assert (table.image_shape, table.pixel_size, table.contrast_sign) == (8, 1.5, 1)


def test_optics_of_higher_order(star: Maker) -> None:
    more = {
        "rlnBeamTiltX": "0.5",
        "rlnBeamTiltY": "-0.25",
        "rlnOddZernike": "[1,2,3]",
        "rlnEvenZernike": "[4,5]",
        "rlnMagMat00": "1.01",
        "rlnMagMat01": "0.002",
        "rlnMagMat10": "0.003",
        "rlnMagMat11": "0.99",
        "rlnCtfDataAreCtfPremultiplied": "1",
        "rlnCtfDataArePhaseFlipped": "0",
    }
    (optics,) = read_particles_star(star(optics=more)).particles.optics
    assert optics.beam_tilt == pytest.approx((0.5e-3, -0.25e-3))  # mrad
    assert (optics.odd_zernike, optics.even_zernike) == ((1, 2, 3), (4, 5))
    assert optics.magnification == ((1.01, 0.002), (0.003, 0.99))
    assert (optics.premultiplied, optics.phase_flipped) == (True, False)


def test_pixel_origins_in_a_new_file(star: Maker) -> None:
    path = star(rlnOriginXAngst=None, rlnOriginYAngst=None, rlnOriginX="2", rlnOriginY="-4")
    np.testing.assert_allclose(read_particles_star(path).particles.shift[0], [-3, 6])


def test_given_pixel_size_keeps_shifts_in_pixels(star: Maker) -> None:
    table = read_particles_star(star(), pixel_size=3.0)
    assert table.pixel_size == 3.0
    np.testing.assert_allclose(table.particles.shift[0] / 3.0, np.array([-3, 6]) / 1.5)
    assert any("1.5" in note for note in table.notes)


def test_relion_30_pixel_size_and_groups(tmp_path: Path) -> None:
    save_stack(tmp_path / "stack.mrcs")
    row = ROW | {
        "rlnOpticsGroup": None,
        "rlnOriginXAngst": None,
        "rlnOriginYAngst": None,
        "rlnOriginX": "2",
        "rlnOriginY": "0",
        "rlnVoltage": "{v}",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnDetectorPixelSize": "5",
        "rlnMagnification": "25000",
        "rlnBeamTiltX": "{b}",
    }
    row = {k: v for k, v in row.items() if v is not None}
    volts, tilts = [300, 200, 300, 300], [0, 0, 0.5, 0.5]
    rows = [
        [v.format(i=i, h=1 + i % 2, v=volts[i - 1], b=tilts[i - 1]) for v in row.values()]
        for i in range(1, 5)
    ]
    path = tmp_path / "p.star"
    path.write_text(loop("images", list(row), rows))
    particles = read_particles_star(path).particles
    assert [o.pixel_size for o in particles.optics] == [2.0] * 3  # 5 um * 1e4 / 25000
    np.testing.assert_allclose(particles.shift[0], [-4, 0])
    seen = [(particles.optics[g].voltage, particles.optics[g].beam_tilt[0]) for g in particles.optics_group]
    assert seen == [(300, 0), (200, 0), (300, 0.5e-3), (300, 0.5e-3)]


def test_particle_columns_override_the_table(star: Maker) -> None:
    table = read_particles_star(star(rlnVoltage="200"))
    assert [o.voltage for o in table.particles.optics] == [200]
    assert any("rlnVoltage" in note and "override" in note for note in table.notes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"optics": {"rlnImagePixelSize": "0"}}, "rlnImagePixelSize of og is 0 Å.*--pixel-size"),
        ({"rlnOpticsGroup": "7"}, "rlnOpticsGroup of row 1 is 7.*add the group"),
        ({"optics": {"rlnOddZernike": "[1,two]"}}, "rlnOddZernike of og"),
        ({"optics": {"rlnVoltage": "fast"}}, "rlnVoltage of og is 'fast', not a number"),
        ({"optics": {"rlnVoltage": "300000"}}, "not in kV"),
        ({"optics": {"rlnVoltage": None}}, "without rlnVoltage; .*--no-ctf"),
        ({"rlnDefocusU": None}, "without rlnDefocusU; .*--no-ctf"),
        ({"rlnDefocusU": "1.5", "rlnDefocusV": "1.4"}, "rlnDefocusU"),  # um
        ({"rlnAngleRot": "north"}, "rlnAngleRot of row 1 is 'north'"),
        ({"rlnRandomSubset": "3"}, "rlnRandomSubset of row 1 is 3"),
        ({"rlnImageName": "0@stack.mrcs"}, "rlnImageName of row 1.*from 1"),
        ({"rlnImageName": "x@stack.mrcs"}, "rlnImageName of row 1"),
        ({"rlnImageName": "9@stack.mrcs"}, "asks for image 9 of .*stack.mrcs, which holds only 4"),
        ({"rlnImageName": "{i}@gone.mrcs"}, "gone.mrcs was not found .*--datadir"),
        ({"rlnTomoName": "ts1"}, "column rlnTomoName.*--ignore rlnTomoName"),
        ({"rlnOriginZAngst": "4"}, "column rlnOriginZAngst"),
        ({"optics": {"rlnImageDimensionality": "3"}}, "rlnImageDimensionality"),
        ({"optics": {"rlnEnergyLoss": "10"}}, "column rlnEnergyLoss.*--ignore rlnEnergyLoss"),
        ({"optics": {"rlnMagMat00": "0"}}, "singular"),
    ],
)
def test_bad_values_are_named(star: Maker, change: dict, sentence: str) -> None:
    path = star(**change)
    with pytest.raises(InputError, match=sentence) as caught:
        read_particles_star(path)
    assert "run_data.star" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ignored_columns_are_as_if_absent(star: Maker) -> None:
    path = star(optics={"rlnEnergyLoss": "10"}, rlnTomoName="ts1")
    table = read_particles_star(
        path, ignore=("rlnEnergyLoss", "rlnTomoName", "rlnRandomSubset", "rlnNothing")
    )
    assert table.ignored == ("rlnEnergyLoss", "rlnTomoName", "rlnRandomSubset")
    np.testing.assert_array_equal(table.particles.half, 0)


def test_zero_columns_of_an_unknown_kind_are_harmless(star: Maker) -> None:
    read_particles_star(star(optics={"rlnEnergyLoss": "0.0"}, rlnOriginZAngst="0"))


def test_images_without_ctf(star: Maker) -> None:
    path = star(rlnDefocusU=None, rlnDefocusV=None, optics={"rlnVoltage": None})
    (optics,) = read_particles_star(path, no_ctf=True).particles.optics
    assert not optics.ctf


def test_missing_angle_means_no_pose(star: Maker) -> None:
    table = read_particles_star(star(rlnAngleRot=None))
    assert np.isnan(table.particles.rotation).all()
    assert any("rlnAngleRot" in note for note in table.notes)


def test_pixel_size_of_the_header_is_the_last_resort(star: Maker, tmp_path: Path) -> None:
    save_stack(tmp_path / "stack.mrcs", voxel=2.25)
    table = read_particles_star(star(optics={"rlnImagePixelSize": None}))
    assert table.pixel_size == pytest.approx(2.25)
    # Å shifts cannot be rescaled when the file does not say by which pixel they were made
    np.testing.assert_allclose(table.particles.shift[0], [-3, 6])


@pytest.mark.parametrize(("line", "values"), [("1 2 3 4", 4), ("1@stack.mrcs 1 2 3 4 5 6 7 8 9 1 12", 12)])
def test_ragged_loop_names_the_line(star: Maker, line: str, values: int) -> None:
    path = star()
    lines = path.read_text().splitlines()
    row = next(i for i, text in enumerate(lines) if text.startswith("3@"))
    lines[row] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"line {row + 1} has {values} values for the 11 columns"):
        read_particles_star(path)


def test_ragged_rows_that_cancel_are_noticed(star: Maker) -> None:
    path = star()
    lines = path.read_text().splitlines()
    row = next(i for i, text in enumerate(lines) if text.startswith("3@"))
    lines[row], lines[row + 1] = lines[row].rsplit(" ", 1)[0], lines[row + 1] + " 1"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"line {row + 1} has 10 values"):
        read_particles_star(path)


def test_rows_over_two_lines_are_refused(star: Maker) -> None:
    path = star()
    lines = path.read_text().splitlines()
    row = next(i for i, text in enumerate(lines) if text.startswith("3@"))
    lines[row] = lines[row].replace(" ", "\n", 1)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"line {row + 1} has 1 values"):
        read_particles_star(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no table with a column rlnImageName"),
        ("data_job\n\n_rlnJobType 3\n", "no table with a column rlnImageName"),
        ("just words\n", "not a STAR file"),
        (loop("a", ["rlnImageName"], [["1@s"]]) + loop("b", ["rlnImageName"], [["1@s"]]), "several tables"),
        (
            loop("particles", ["rlnImageName", "rlnDefocusU", "rlnDefocusU"], [["1@s", "1", "2"]]),
            "rlnDefocusU",
        ),
        (loop("particles", ["rlnImageName"], []), "star"),
    ],
)
def test_files_that_are_no_particle_tables(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "x.star"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        read_particles_star(path)
    assert "\n" not in str(caught.value)


def test_no_such_star(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_particles_star(tmp_path / "x.star")


def test_paths_from_the_project_root(tmp_path: Path, star: Maker) -> None:
    stack = save_stack(tmp_path / "project" / "Extract" / "job1" / "s.mrcs")
    text = star(rlnImageName="{i}@Extract/job1/s.mrcs").read_text()
    job = tmp_path / "project" / "Refine3D" / "job2"
    job.mkdir(parents=True)
    (job / "run_data.star").write_text(text)
    assert read_particles_star(job / "run_data.star").stack_paths == (stack,)


def test_datadir_and_moved_projects(tmp_path: Path, star: Maker) -> None:
    stack = save_stack(tmp_path / "moved" / "job1" / "s.mrcs")
    path = star(rlnImageName="{i}@Extract/job1/s.mrcs")
    with pytest.raises(InputError, match=r"Extract/job1/s\.mrcs was not found"):
        read_particles_star(path)
    assert read_particles_star(path, datadir=tmp_path / "moved").stack_paths == (stack,)
    assert read_particles_star(path, datadir=tmp_path / "moved" / "job1").stack_paths == (stack,)
    absolute = star(rlnImageName="{i}@/old/disk/job1/s.mrcs")
    assert read_particles_star(absolute, datadir=tmp_path / "moved").stack_paths == (stack,)
    with pytest.raises(InputError, match="--datadir is not a folder"):
        read_particles_star(path, datadir=tmp_path / "nowhere")


def test_two_names_that_lead_to_one_file_are_refused(tmp_path: Path, star: Maker) -> None:
    save_stack(tmp_path / "flat" / "s.mrcs")
    path = star()
    path.write_text(
        path.read_text().replace("1@stack.mrcs", "1@a/s.mrcs").replace("2@stack.mrcs", "2@b/s.mrcs")
    )
    save_stack(tmp_path / "flat" / "stack.mrcs")
    with pytest.raises(InputError, match=r"a/s\.mrcs and b/s\.mrcs both lead to"):
        read_particles_star(path, datadir=tmp_path / "flat")


@pytest.mark.parametrize("absolute", [True, False])
def test_escaping_paths_are_refused(tmp_path: Path, star: Maker, absolute: bool) -> None:
    outside = save_stack(tmp_path / "secret" / "s.mrcs")
    text = star(rlnImageName=f"{{i}}@{outside if absolute else '../secret/s.mrcs'}").read_text()
    inside = tmp_path / "project"
    inside.mkdir()
    (inside / "p.star").write_text(text)
    with pytest.raises(InputError, match=r"leads out of .*--datadir .* --allow-outside"):
        read_particles_star(inside / "p.star")
    found = read_particles_star(inside / "p.star", allow_outside=True).stack_paths
    assert [os.path.samefile(path, outside) for path in found] == [True]


def test_absolute_path_inside_the_folder_is_fine(tmp_path: Path, star: Maker) -> None:
    path = star(rlnImageName=f"{{i}}@{tmp_path / 'stack.mrcs'}")
    assert read_particles_star(path).stack_paths == (tmp_path / "stack.mrcs",)


def test_single_images_without_a_number(tmp_path: Path, star: Maker) -> None:
    for i in range(1, 5):
        save_stack(tmp_path / f"one{i}.mrc", count=1)
    table = read_particles_star(star(rlnImageName="one{i}.mrc"))
    np.testing.assert_array_equal(table.particles.source, [[i, 0] for i in range(4)])


def test_written_table_reads_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    count = 20
    optics = (
        Optics(pixel_size=1.234567, beam_tilt=(1e-4, -2e-4), odd_zernike=(0.1, 0, 1e-3), name="a b"),
        Optics(voltage=200, magnification=((1.01, -2e-4), (3e-4, 0.99)), phase_flipped=True, name="c"),
    )
    particles = Particles.empty_columns(
        count,
        rotation=Rotation.random(count, random_state=1).as_quat(),
        shift=rng.normal(0, 5, (count, 2)),
        defocus=rng.uniform([1e4, 1e4, 0], [2e4, 2e4, 3], (count, 3)),
        phase_shift=rng.uniform(0, 1, count),
        bfactor=rng.uniform(0, 50, count),
        scale=rng.uniform(0.5, 1.5, count),
        optics_group=np.arange(count, dtype=np.int32) % 2,
        half=(1 + np.arange(count) % 2).astype(np.int8),
        micrograph=np.zeros(count, np.int32),
        micrographs=("m.mrc",),
        optics=optics,
    )
    save_stack(tmp_path / "s.mrcs", count)
    path = write_particles_star(tmp_path / "p.star", particles, [f"{i + 1}@s.mrcs" for i in range(count)], 8)
    back = read_particles_star(path).particles
    between = Rotation.from_quat(back.rotation).inv() * Rotation.from_quat(particles.rotation)
    # ten digits of an angle in degrees: 1e-8 rad
    assert between.magnitude().max() < 1e-8
    for name in ("shift", "defocus", "phase_shift", "bfactor", "scale"):
        np.testing.assert_allclose(getattr(back, name), getattr(particles, name), rtol=1e-9, atol=1e-9)
    for name in ("half", "optics_group", "micrograph"):
        np.testing.assert_array_equal(getattr(back, name), getattr(particles, name))
    for old, new in zip(optics, back.optics, strict=True):
        for name in ("voltage", "cs", "pixel_size", "amplitude_contrast", "beam_tilt"):
            assert getattr(new, name) == pytest.approx(getattr(old, name), rel=1e-9)
        assert new.odd_zernike == pytest.approx(old.odd_zernike)
        assert np.allclose(new.magnification, old.magnification)
        assert new.phase_flipped == old.phase_flipped
    # a stricter reader than ours agrees on the angles
    block = gemmi.cif.read_file(str(path)).find_block("particles")
    columns = [block.find_values(f"_rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    angles = np.array([[float(value) for value in column] for column in columns]).T
    matrices = np.swapaxes(Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix(), 1, 2)
    np.testing.assert_allclose(matrices, Rotation.from_quat(particles.rotation).as_matrix(), atol=1e-8)
    np.testing.assert_allclose(
        [float(v) for v in block.find_values("_rlnOriginXAngst")], -particles.shift[:, 0], rtol=1e-9
    )


def test_table_with_some_poses_is_not_written(tmp_path: Path) -> None:
    particles = Particles.empty_columns(2, rotation=np.array([[0, 0, 0, 1.0], [np.nan] * 4]))
    with pytest.raises(InputError, match="1 of 2 particles have no orientation"):
        write_particles_star(tmp_path / "p.star", particles, ["1@s", "2@s"], 8)
    assert list(tmp_path.iterdir()) == []


# Files that others made.  Expectations were read off the files by eye.


def test_six_optics_groups(shared_data: Path) -> None:
    table = read_particles_star(shared_data / "star" / "relion31.6opticsgroups.star", images=False)
    particles = table.particles
    assert len(particles) == 139
    assert [o.name for o in particles.optics] == [f"opticsGroup{i}" for i in (5, 3, 2, 1, 4, 6)]
    assert [o.pixel_size for o in particles.optics] == [1.25, 1.24, 1.25, 1.25, 1.24, 1.25]
    assert particles.optics[0].odd_zernike[0] == 1.70554063513
    assert particles.optics_group[0] == 5
    np.testing.assert_allclose(particles.shift[0], [-13.284554, 3.21701])


def test_optics_table_last(shared_data: Path) -> None:
    particles = read_particles_star(shared_data / "star" / "relion31.v2.star", images=False).particles
    (optics,) = particles.optics
    assert (len(particles), optics.pixel_size, optics.cs) == (5, 2.806, pytest.approx(1e5))


def test_relion_5(shared_data: Path) -> None:
    particles = read_particles_star(shared_data / "star" / "relion5.star", images=False).particles
    (optics,) = particles.optics
    assert (optics.voltage, optics.pixel_size) == (100, 0.89)
    assert optics.magnification == ((1.001833, -7.04404e-04), (-8.23335e-04, 1.000381))
    assert sorted(set(particles.sources)) == ["toy_images_a.mrcs", "toy_images_b.mrcs"]
    np.testing.assert_array_equal(particles.source[:2], [[0, 0], [1, 1]])


def test_30_and_31_of_the_same_images(shared_data: Path) -> None:
    folder = shared_data / "particles" / "small_real"
    old = read_particles_star(folder / "sample_particles_relion30.star")
    new = read_particles_star(folder / "sample_particles_relion31.star")
    assert old.stack_paths == new.stack_paths == (folder / "sample.mrcs",)
    same = np.arange(17) != 14  # the two files give row 15 different angles
    np.testing.assert_allclose(old.particles.rotation[same], new.particles.rotation[same], atol=1e-12)
    np.testing.assert_allclose(old.particles.defocus, new.particles.defocus)
    # 5 um * 10^4 / 37369.207031; the shifts are in pixels in one file and in Å in the other
    assert old.pixel_size == pytest.approx(5e4 / 37369.207031)
    np.testing.assert_allclose(old.particles.shift[0] / old.pixel_size, [-0.1996, -0.1996])
    np.testing.assert_allclose(new.particles.shift[0], [-0.1996, -0.1996])
    assert {o.voltage for o in new.particles.optics} == {300, 200}


def test_one_row_loop(shared_data: Path) -> None:
    table = read_particles_star(shared_data / "star" / "sample_relion_one_image.star", images=False)
    assert len(table.particles) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sample.star", "line 20 has 5 values for the 4 columns"),
        ("sample_incomplete_ctf_params.star", "without rlnVoltage"),
        ("FinalRefinement-OriginalParticles-PfCRT.star", "without rlnAmplitudeContrast"),
    ],
)
def test_broken_files(shared_data: Path, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_particles_star(shared_data / "star" / name, images=False)
