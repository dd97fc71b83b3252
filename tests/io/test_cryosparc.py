"""cryoSPARC tables: a real one against another reader's matrices, small ones made field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.io.cryosparc import read_particles_cs
from dcryo.io.star import read_particles_star

COUNT = 4
FIELDS: dict[str, Any] = {
    "uid": np.array([40, 10, 30, 20], "u8"),
    "blob/path": np.array([b">J1/s.mrc"] * COUNT),
    "blob/idx": np.arange(COUNT, dtype="u4"),
    "blob/psize_A": np.full(COUNT, 1.5, "f4"),
    "blob/sign": np.full(COUNT, -1, "f4"),
    "ctf/exp_group_id": np.array([3, 3, 5, 5], "u4"),
    "ctf/accel_kv": np.full(COUNT, 300, "f4"),
    "ctf/cs_mm": np.full(COUNT, 2.7, "f4"),
    "ctf/amp_contrast": np.full(COUNT, 0.1, "f4"),
    "ctf/df1_A": np.full(COUNT, 15000, "f4"),
    "ctf/df2_A": np.full(COUNT, 14000, "f4"),
    "ctf/df_angle_rad": np.full(COUNT, 0.5, "f4"),
    "ctf/phase_shift_rad": np.full(COUNT, 0.25, "f4"),
    "ctf/tilt_A": np.zeros((COUNT, 2), "f4"),
    "alignments3D/split": np.array([0, 1, 0, 1], "u4"),
    "alignments3D/pose": Rotation.random(COUNT, random_state=3).as_rotvec().astype("f4"),
    "alignments3D/shift": np.array([[1, -2]] * COUNT, "f4"),
    "alignments3D/psize_A": np.full(COUNT, 3.0, "f4"),
}


def save(path: Path, fields: dict[str, Any]) -> Path:
    table = np.zeros(len(next(iter(fields.values()))), [(k, v.dtype, v.shape[1:]) for k, v in fields.items()])
    for name, values in fields.items():
        table[name] = values
    with path.open("wb") as stream:
        np.save(stream, table)
    return path


@pytest.fixture
def cs(tmp_path: Path) -> Path:
    (tmp_path / "J1").mkdir()
    with mrcfile.new(tmp_path / "J1" / "s.mrc") as mrc:
        mrc.set_data(np.zeros((COUNT, 8, 8), np.float32))
        mrc.set_image_stack()
    (tmp_path / "J2").mkdir()
    return tmp_path / "J2" / "particles.cs"  # a job's table names images from the project above it


def test_values_and_units(cs: Path) -> None:
    table = read_particles_cs(save(cs, FIELDS))
    particles = table.particles
    assert table.contrast_sign == -1
    assert table.stack_paths == (cs.parents[1] / "J1" / "s.mrc",)
    np.testing.assert_array_equal(particles.source, [[0, i] for i in range(COUNT)])  # 0-based in the file
    np.testing.assert_array_equal(particles.half, [1, 2, 1, 2])
    np.testing.assert_array_equal(particles.optics_group, [0, 0, 1, 1])
    np.testing.assert_allclose(particles.shift, [[-3, 6]] * COUNT)  # minus pixels of 3 Å, not of 1.5
    np.testing.assert_allclose(particles.defocus[0], [15000, 14000, 0.5])
    np.testing.assert_allclose(particles.phase_shift, 0.25)
    assert particles.optics[0].cs == pytest.approx(2.7e7)
    assert particles.optics[0].pixel_size == 1.5
    vectors = FIELDS["alignments3D/pose"].astype(float)
    expected = np.swapaxes(Rotation.from_rotvec(vectors).as_matrix(), 1, 2)
    np.testing.assert_allclose(quaternion_to_matrix(particles.rotation), expected, atol=1e-12)


def test_passthrough_is_joined_by_uid(cs: Path) -> None:
    order = np.array([2, 0, 3, 1])
    defocus = np.array([1e4, 2e4, 3e4, 4e4], "f4")
    main = {k: v for k, v in FIELDS.items() if not k.startswith("ctf/")}
    more = {k: v[order] for k, v in FIELDS.items() if k == "uid" or k.startswith("ctf/")}
    more["ctf/df1_A"] = defocus[order]
    more["blob/idx"] = np.zeros(COUNT, "u4")  # what the main file has stays
    other = save(cs.with_name("passthrough.cs"), more)
    with pytest.raises(InputError, match=r"ctf/accel_kv.* are missing; .*--passthrough, or --no-ctf"):
        read_particles_cs(save(cs, main))
    particles = read_particles_cs(cs, passthrough=[other]).particles
    np.testing.assert_array_equal(particles.defocus[:, 0], defocus)
    np.testing.assert_array_equal(particles.source[:, 1], np.arange(COUNT))
    save(other, {k: v[:3] for k, v in more.items()})
    with pytest.raises(InputError, match=r"passthrough\.cs: does not hold 1 of the 4 particles .*uid 10"):
        read_particles_cs(cs, passthrough=[other])


def test_given_pixel_size_keeps_shifts_in_pixels(cs: Path) -> None:
    particles = read_particles_cs(save(cs, FIELDS), pixel_size=3.0).particles
    assert particles.optics[0].pixel_size == 3.0
    np.testing.assert_allclose(particles.shift, [[-6, 12]] * COUNT)


def test_one_split_means_no_halves(cs: Path) -> None:
    table = read_particles_cs(save(cs, FIELDS | {"alignments3D/split": np.zeros(COUNT, "u4")}))
    np.testing.assert_array_equal(table.particles.half, 0)
    assert any("alignments3D/split" in note for note in table.notes)


def test_2d_alignments_are_not_poses(cs: Path) -> None:
    fields = {k: v for k, v in FIELDS.items() if not k.startswith("alignments3D")}
    table = read_particles_cs(save(cs, fields | {"alignments2D/pose": np.zeros(COUNT, "f4")}))
    assert np.isnan(table.particles.rotation).all()
    np.testing.assert_array_equal(table.particles.shift, 0)


@pytest.mark.parametrize("name", ["ctf/tilt_A", "ctf/anisomag", "ctf/bfactor", "ctf/trefoil_A"])
def test_aberrations_are_refused_by_name(cs: Path, name: str) -> None:
    values = np.zeros((COUNT, 2), "f4")
    values[2, 1] = 0.1
    path = save(cs, FIELDS | {name: values})
    with pytest.raises(InputError, match=f"field {name} is not zero .*--ignore {name}"):
        read_particles_cs(path)
    assert read_particles_cs(path, ignore=(name,)).ignored == (name,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"blob/psize_A": np.zeros(COUNT, "f4")}, "blob/psize_A is 0 Å.*--pixel-size"),
        ({"blob/idx": np.full(COUNT, 4, "u4")}, "asks for image 5 of .*which holds only 4"),
        ({"blob/path": np.array([b"J1/gone.mrc"] * COUNT)}, "J1/gone.mrc was not found.*--datadir"),
        ({"blob/sign": np.array([1, -1, 1, 1], "f4")}, "blob/sign differs"),
        ({"alignments3D/split": np.full(COUNT, 7, "u4")}, "alignments3D/split is neither 0 nor 1"),
        (
            {"alignments3D/pose": np.full((COUNT, 3), np.nan, "f4")},
            "alignments3D/pose of row 1 is not finite",
        ),
    ],
)
def test_bad_values_are_named(cs: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_particles_cs(save(cs, FIELDS | change))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.cs"
    with pytest.raises(InputError, match="no such file"):
        read_particles_cs(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not a cryoSPARC table"):
        read_particles_cs(path)
    save(path, {k: v[:0] for k, v in FIELDS.items()})
    with pytest.raises(InputError, match="holds no particles"):
        read_particles_cs(path)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(InputError, match="without the field uid"):
        read_particles_cs(path)
    with path.open("wb") as stream:  # a pickle would run code
        np.save(stream, np.array([{"uid": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a cryoSPARC table"):
        read_particles_cs(path)


def test_real_table_gives_the_matrices_of_another_reader(shared_data: Path) -> None:
    folder = shared_data / "particles" / "cryosparc"
    particles = read_particles_cs(folder / "cryosparc_P12_J24_001_particles.cs", images=False).particles
    matrices = np.load(folder / "P12_J24_rotation_matrices.npy")
    # The poses are float32, whose rounding is 4e-7 here.
    np.testing.assert_allclose(quaternion_to_matrix(particles.rotation), matrices, atol=1e-6)
    fraction = np.load(folder / "P12_J24_shift_fraction.npy")
    np.testing.assert_allclose(-particles.shift / 2.95 / 180, fraction, atol=1e-7)
    np.testing.assert_array_equal(np.bincount(particles.half), [0, 1010, 1009])


def test_star_and_cs_of_the_same_images_agree(shared_data: Path) -> None:
    folder = shared_data / "particles" / "small_real"
    cs = read_particles_cs(folder / "empiar_10076_7.cs")
    star = read_particles_star(folder / "empiar_10076_7.star")
    assert cs.stack_paths == star.stack_paths
    np.testing.assert_allclose(cs.particles.defocus, star.particles.defocus, rtol=1e-6)
    np.testing.assert_array_equal(cs.particles.source, star.particles.source)
    assert cs.pixel_size == pytest.approx(star.pixel_size, rel=1e-6)
