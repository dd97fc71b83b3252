"""Every kind of bad input through the command line: exit code 2, one sentence, nothing written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from zarr.storage import ObjectStore

from dcryo.cli.main import main
from dcryo.dataflow.commits import Commits
from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.mrc import write_volume
from dcryo.io.particle_store import create_particles, open_particles
from dcryo.io.run_store import create_run

N, COUNT = 16, 12
OPTICS = {
    "rlnOpticsGroup": "1",
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
    "rlnAngleRot": "{i}",
    "rlnAngleTilt": "20",
    "rlnAnglePsi": "30",
    "rlnRandomSubset": "{h}",
}
CS_FIELDS = {
    "uid": ("u8", 0),
    "blob/path": ("S12", b">stack.mrcs"),
    "blob/idx": ("u4", 0),
    "blob/psize_A": ("f4", 1.5),
    "blob/sign": ("f4", 1),
    "ctf/accel_kv": ("f4", 300),
    "ctf/cs_mm": ("f4", 2.7),
    "ctf/amp_contrast": ("f4", 0.1),
    "ctf/df1_A": ("f4", 15000),
    "ctf/df2_A": ("f4", 14000),
    "ctf/df_angle_rad": ("f4", 0.3),
}


def noise(count: int = COUNT, n: int = N) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, n, n)).astype(np.float32)


def columns(count: int = COUNT, **given: Any) -> Particles:
    """A table of two half sets, all looking along z, without CTF."""
    return Particles.empty_columns(
        count,
        **{
            "rotation": np.tile([0.0, 0.0, 0.0, 1.0], (count, 1)),
            "half": np.repeat(np.array([1, 2], np.int8), [(count + 1) // 2, count // 2]),
            "optics": (Optics(pixel_size=1.5, ctf=False),),
        }
        | given,
    )


def flip(path: Path) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(content)


class Folder:
    """The folder that a case fills; the commands run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stack(self, name: str = "stack.mrcs", images: np.ndarray | None = None) -> Path:
        """An image stack of noise, without a pixel size."""
        with mrcfile.new(self.path / name, overwrite=True) as mrc:
            mrc.set_data(noise() if images is None else images.astype(np.float32))
            mrc.set_image_stack()
        return self.path / name

    def star(
        self, optics: dict[str, str | None] | None = None, count: int = COUNT, **changed: str | None
    ) -> Path:
        """``p.star`` and its stack; keywords change a column, or leave it out (None)."""
        self.stack()
        group = {k: v for k, v in (OPTICS | (optics or {})).items() if v is not None}
        row = {k: v for k, v in (ROW | changed).items() if v is not None}
        rows = [" ".join(v.format(i=i, h=1 + i % 2) for v in row.values()) for i in range(1, count + 1)]
        tables = {"optics": (group, [" ".join(group.values())]), "particles": (row, rows)}
        text = "".join(
            f"\ndata_{name}\n\nloop_\n" + "".join(f"_{key}\n" for key in head) + "\n".join(lines) + "\n"
            for name, (head, lines) in tables.items()
        )
        path = self.path / "p.star"
        path.write_text(text)
        return path

    def cs(self, count: int = COUNT, **changed: Any) -> Path:
        """``p.cs`` and its stack; keywords (``df1_A`` for ``ctf/df1_A``) change a field, or add it."""
        self.stack()
        table = np.zeros(count, [(name, kind) for name, (kind, _) in CS_FIELDS.items()])
        for name, (_, value) in CS_FIELDS.items():
            table[name] = changed.get(name.rpartition("/")[2], value)
        table["uid"] = table["blob/idx"] = np.arange(count)
        with (self.path / "p.cs").open("wb") as stream:
            np.save(stream, table)
        return self.path / "p.cs"

    def particles(self, name: str = "s.zarr", box: int = N, dtype: str = "float32", **given: Any) -> Path:
        """A particle store of noise."""
        table = columns(**given)
        with create_particles(self.path / name, table, box, 1.5, dtype=dtype, provenance={}) as writer:
            writer.append(noise(len(table), box))
        return self.path / name

    def run(self, name: str = "r.zarr") -> Path:
        """A finished run with one map."""
        run = create_run(self.path / name, "reconstruct", {"by": "hand"})
        run.write_volume("full", noise(N), 1.5)
        run.finish({})
        return self.path / name

    def refined(self, particles: Path, count: int = COUNT, lost: int | None = None, **config: str) -> Path:
        """``refined.zarr``: two iterations of a refinement of a particle store, all looking along z."""
        known = {"particles": str(particles), "particles_digest": open_particles(particles).digest}
        run = create_run(self.path / "refined.zarr", "refine", known | {"halves": "auto"} | config)
        rotation = np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))
        run.write_poses(0, {"rotation": rotation, "shift": np.zeros((count, 2))})
        if lost is not None:
            rotation[lost] = np.nan
        run.write_poses(1, {"rotation": rotation, "shift": np.zeros((count, 2))})
        run.finish({})
        return self.path / "refined.zarr"


Make = Callable[[Folder], str]
CASES: dict[str, tuple[Make, tuple[str, ...]]] = {}


def case(*says: str) -> Callable[[Make], Make]:
    """Register a case: it fills the folder and returns the command, whose complaint contains ``says``."""

    def register(make: Make) -> Make:
        CASES[make.__name__] = (make, says)
        return make

    return register


# --- the images


@case("p.star", "gone.mrcs", "not found", "--datadir")
def missing_stack(folder: Folder) -> str:
    folder.star(rlnImageName="{i}@gone.mrcs")
    return "ingest p.star out.zarr"


@case("p.star", "image 12 of", "stack.mrcs", "only 10", "copy the stack again")
def stack_shorter_than_its_star_says(folder: Folder) -> str:
    folder.star()
    folder.stack(images=noise(10))
    return "ingest p.star out.zarr"


@case("stack.mrcs", "image 7", "NaN", "leave that particle out")
def nan_in_an_image(folder: Folder) -> str:
    folder.star()
    with mrcfile.mmap(folder.path / "stack.mrcs", "r+") as mrc:
        mrc.data[6, 3, 3] = np.nan
    return "ingest p.star out.zarr"


@case("big.mrcs", "truncated", "promises 11,029 images", "holds 1", "copy it again")
def truncated_mrc(folder: Folder) -> str:
    path = folder.stack("big.mrcs", noise(1))
    with path.open("r+b") as stream:
        stream.seek(8)  # nz, the third number of the header
        stream.write(np.int32(11029).tobytes())
    return "ingest big.mrcs out.zarr --pixel-size 1.5"


@case("map.mrc", "truncated", "holds 5", "copy it again")
def truncated_map(folder: Folder) -> str:
    path = write_volume(folder.path / "map.mrc", noise(N), 1.5)
    os.truncate(path, 1024 + 5 * 4 * N * N + 7)
    return "fsc map.mrc map.mrc"


@case("notes.mrc", "not an MRC file", "give an MRC file")
def text_named_mrc(folder: Folder) -> str:
    (folder.path / "notes.mrc").write_text("These are notes of the session on the microscope.\n" * 40)
    return "ingest notes.mrc out.zarr --pixel-size 1.5"


@case("notes.mrc", "not an MRC file", "1,024 bytes")
def short_text_named_mrc(folder: Folder) -> str:
    (folder.path / "notes.mrc").write_text("no map\n")
    return "fsc notes.mrc notes.mrc"


@case("stack.mrcs", "no pixel size", "headers of the stacks say none", "--pixel-size")
def bare_stack_without_pixel_size(folder: Folder) -> str:
    folder.stack()
    return "ingest stack.mrcs out.zarr"


@case("p.star", "matter should be bright", "darker", "--contrast invert", "--contrast keep")
def sign_contradicting_the_header(folder: Folder) -> str:
    folder.star()
    x = np.arange(N) - N // 2
    blob = np.exp(-(x**2 + x[:, None] ** 2) / 8)
    optics = columns(1, defocus=np.array([[15000.0, 14000.0, np.pi / 6]]), optics=(Optics(pixel_size=1.5),))
    seen = np.fft.irfft2(np.fft.rfft2(np.fft.ifftshift(blob)) * ctf_image(optics, 1.5, N)[0], s=(N, N))
    folder.stack(images=0.02 * noise() - np.fft.fftshift(seen))
    return "ingest p.star out.zarr"


@case("p.cs", "matter should be dark", "brighter", "--contrast keep", "--contrast invert")
def sign_contradicting_cryosparc(folder: Folder) -> str:
    sign_contradicting_the_header(folder)
    with mrcfile.mmap(folder.path / "stack.mrcs") as mrc:
        bright = -mrc.data
    folder.cs(sign=-1.0)
    folder.stack(images=bright)
    return "ingest p.cs out.zarr"


# --- the tables


@case("nothing.star", "no such file", "correct the path")
def missing_table(folder: Folder) -> str:
    return "ingest nothing.star out.zarr"


@case("p.star", "rlnDefocusU", "rlnVoltage", "--no-ctf")
def no_ctf_columns(folder: Folder) -> str:
    optics = dict.fromkeys(("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"))
    folder.star(optics, rlnDefocusU=None, rlnDefocusV=None, rlnDefocusAngle=None)
    return "ingest p.star out.zarr"


@case("p.star", "rlnOpticsGroup of row 1 is 7", "not in the optics table", "add the group")
def unknown_optics_group(folder: Folder) -> str:
    folder.star(rlnOpticsGroup="7")
    return "ingest p.star out.zarr"


@case("p.star", "rlnBeamTiltXX", "does not model", "--ignore rlnBeamTiltXX")
def unhandled_optics_column(folder: Folder) -> str:
    folder.star({"rlnBeamTiltXX": "0.3"})
    return "ingest p.star out.zarr"


@case("p.cs", "ctf/tilt_A", "does not model", "--ignore ctf/tilt_A")
def unhandled_optics_field(folder: Folder) -> str:
    path = folder.cs()
    table = np.load(path)
    more = np.zeros(len(table), [*table.dtype.descr, ("ctf/tilt_A", "<f4", (2,))])
    for name in table.dtype.names:
        more[name] = table[name]
    more["ctf/tilt_A"] = 0.1
    with path.open("wb") as stream:
        np.save(stream, more)
    return "ingest p.cs out.zarr"


@case("p.star", "rlnImagePixelSize", "0 Å", "--pixel-size")
def pixel_size_zero(folder: Folder) -> str:
    folder.star({"rlnImagePixelSize": "0"})
    return "ingest p.star out.zarr"


@case("p.cs", "blob/psize_A", "0 Å", "--pixel-size")
def pixel_size_zero_in_cryosparc(folder: Folder) -> str:
    folder.cs(psize_A=0.0)
    return "ingest p.cs out.zarr"


@case("--pixel-size 0", "give a positive number")
def pixel_size_zero_as_option(folder: Folder) -> str:
    folder.star()
    return "ingest p.star out.zarr --pixel-size 0"


@case("p.star", "line 34", "8 values for the 9 columns", "correct or remove")
def ragged_star_loop(folder: Folder) -> str:
    path = folder.star()
    lines = path.read_text().splitlines()
    lines[33] = lines[33].rpartition(" ")[0]
    path.write_text("\n".join(lines) + "\n")
    return "ingest p.star out.zarr"


@case("p.star", "rlnAngleTilt of row 3", "'tilted'", "not a number", "correct the row")
def word_in_a_column_of_numbers(folder: Folder) -> str:
    path = folder.star()
    path.write_text(path.read_text().replace(" 30 3 20 ", " 30 3 tilted "))
    return "ingest p.star out.zarr"


@case("p.star", "holds no particles", "write the file again")
def star_without_rows(folder: Folder) -> str:
    folder.star(count=0)
    return "ingest p.star out.zarr"


@case("p.star", "not a STAR file", "write it again")
def binary_named_star(folder: Folder) -> str:
    (folder.path / "p.star").write_bytes(bytes(range(256)) * 8)
    return "ingest p.star out.zarr"


@case("job.star", "no table with a column rlnImageName", "run_data.star")
def star_of_something_else(folder: Folder) -> str:
    (folder.path / "job.star").write_text("data_job\n\n_rlnJobType 1\n_rlnJobIsContinue 0\n")
    return "ingest job.star out.zarr"


@case("p.cs", "holds no particles", "a job that kept some")
def cs_without_rows(folder: Folder) -> str:
    folder.cs(0)
    return "ingest p.cs out.zarr"


@case("p.cs", "not a cryoSPARC table", "export the job again")
def empty_cs(folder: Folder) -> str:
    (folder.path / "p.cs").touch()
    return "ingest p.cs out.zarr"


@case("p.star", "half set 2 is empty", "--ignore rlnRandomSubset")
def half_set_empty(folder: Folder) -> str:
    folder.star(rlnRandomSubset="1")
    return "ingest p.star out.zarr"


@case("p.txt", "cannot be ingested", ".star, .cs, .mrcs or .mrc")
def table_of_another_format(folder: Folder) -> str:
    (folder.path / "p.txt").touch()
    return "ingest p.txt out.zarr"


@case("nowhere", "--datadir is not a folder", "give the folder")
def datadir_missing(folder: Folder) -> str:
    folder.star()
    return "ingest p.star out.zarr --datadir nowhere"


@case("other.cs", "no such file")
def passthrough_missing(folder: Folder) -> str:
    folder.cs()
    return "ingest p.cs out.zarr --passthrough other.cs"


@case("--box 32", "16 pixels of some images", "choose a smaller box")
def box_larger_than_the_images(folder: Folder) -> str:
    folder.star()
    return "ingest p.star out.zarr --box 32"


# --- the stores


@case("s.zarr", "half sets [1]", "--halves even-odd")
def half_set_empty_in_a_store(folder: Folder) -> str:
    folder.particles(half=np.ones(COUNT, np.int8))
    return "reconstruct s.zarr out.zarr"


@case("s.zarr", "image/c/2/0/0", "missing", "backup")
def deleted_chunk(folder: Folder) -> str:
    (folder.particles() / "image/c/2/0/0").unlink()
    return "reconstruct s.zarr out.zarr --weight 1"


@case("s.zarr", "chunk 2 of image (rows 4 to 5)", "damaged (its checksum differs)", "backup")
def damaged_chunk(folder: Folder) -> str:
    flip(folder.particles() / "image/c/2/0/0")
    return "reconstruct s.zarr out.zarr --weight 1"


@case("s.zarr", "rotation", "damaged", "backup")
def damaged_poses(folder: Folder) -> str:
    flip(folder.particles() / "rotation/c/0/0")
    return "reconstruct s.zarr out.zarr --weight 1"


@case("r.zarr", "is a run, not a particle store", "give a particle store")
def run_given_as_particles(folder: Folder) -> str:
    folder.run()
    return "reconstruct r.zarr out.zarr"


@case("s.zarr", "is a particle store, not a run", "give a run")
def particles_given_as_run(folder: Folder) -> str:
    folder.particles()
    return "report s.zarr"


@case("s.zarr", "it holds no map", "give a map, or a run")
def particles_given_as_map(folder: Folder) -> str:
    folder.particles()
    return "fsc s.zarr s.zarr"


@case("r.zarr", "is a run", "give the particle store")
def run_exported_as_particles(folder: Folder) -> str:
    folder.run()
    return "export r.zarr out.star"


@case("r.zarr", "no volume half1", "it has: full")
def volume_that_is_not_there(folder: Folder) -> str:
    folder.run()
    return "export r.zarr out.mrc --what half1"


@case("photos", "is not a particle store", "give one that dcryo ingest made")
def plain_folder(folder: Folder) -> str:
    (folder.path / "photos").mkdir()
    (folder.path / "photos" / "cat.png").touch()
    return "reconstruct photos out.zarr"


@case("photos", "neither a particle store nor a run", "dcryo reconstruct or dcryo refine made")
def plain_folder_to_info(folder: Folder) -> str:
    (folder.path / "photos").mkdir()
    return "info photos"


@case("s.star", "is not a particle store", "dcryo ingest")
def table_given_to_reconstruct(folder: Folder) -> str:
    folder.star().rename(folder.path / "s.star")
    return "reconstruct s.star out.zarr"


@case("nothing.zarr", "does not exist", "dcryo ingest or dcryo reconstruct or dcryo refine made")
def missing_store(folder: Folder) -> str:
    return "check nothing.zarr"


@case("s.zarr", "never finished", "run the command that makes it again")
def unfinished_store(folder: Folder) -> str:
    create_particles(folder.path / "s.zarr", columns(), N, 1.5, provenance={})
    return "reconstruct s.zarr out.zarr"


@case("r.zarr", "not finished", "dcryo reconstruct")
def report_of_an_unfinished_run(folder: Folder) -> str:
    create_run(folder.path / "r.zarr", "reconstruct", {})
    return "report r.zarr"


@case("s.zarr", "no poses", "ingest the STAR or .cs file")
def particles_without_poses(folder: Folder) -> str:
    folder.particles(rotation=np.full((COUNT, 4), np.nan))
    return "reconstruct s.zarr out.zarr"


@case("s.zarr", "particle 5", "no pose", "poses of a refinement")
def one_particle_without_pose(folder: Folder) -> str:
    rotation = np.tile([0.0, 0.0, 0.0, 1.0], (COUNT, 1))
    rotation[4] = np.nan
    folder.particles(rotation=rotation)
    return "reconstruct s.zarr out.zarr --weight 1"


# --- what a refinement needs


def rough(folder: Folder, pixel_size: float = 1.5, n: int = N, name: str = "rough.mrc") -> None:
    """A starting map: a blob."""
    x = np.square(np.arange(n) - n // 2)
    blob = np.exp(-(x[:, None, None] + x[:, None] + x) / 8.0)
    write_volume(folder.path / name, blob.astype(np.float32), pixel_size)


@case("s.zarr", "no poses", "--initial")
def refine_with_neither_poses_nor_map(folder: Folder) -> str:
    folder.particles(rotation=np.full((COUNT, 4), np.nan))
    return "refine s.zarr out.zarr"


@case("s.zarr", "particle 5", "no pose", "--initial")
def refine_with_a_particle_without_pose(folder: Folder) -> str:
    rotation = np.tile([0.0, 0.0, 0.0, 1.0], (COUNT, 1))
    rotation[4] = np.nan
    folder.particles(rotation=rotation)
    return "refine s.zarr out.zarr"


@case("s.zarr", "no poses", "and not --search local")
def refine_locally_without_poses(folder: Folder) -> str:
    folder.particles(rotation=np.full((COUNT, 4), np.nan))
    rough(folder)
    return "refine s.zarr out.zarr --initial rough.mrc --search local"


@case("--search global", "--initial")
def refine_globally_without_a_map(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --search global"


@case("symmetry", "'D'", "C1", "D1")
def refine_with_an_unknown_symmetry(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --symmetry D"


@case("gone.mrc", "no such file")
def refine_from_a_map_that_is_missing(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --initial gone.mrc"


@case("rough.mrc", "1 Å per voxel", "1.5 Å", "--initial-pixel-size")
def refine_from_a_map_that_may_not_know_its_pixels(folder: Folder) -> str:
    folder.particles()
    rough(folder, 1.0)
    return "refine s.zarr out.zarr --initial rough.mrc"


@case("wide.mrc", "outside of the particles' box", "24 Å", "larger box")
def refine_from_a_map_that_is_too_large(folder: Folder) -> str:
    folder.particles()
    rough(folder, 9.0, name="wide.mrc")
    return "refine s.zarr out.zarr --initial wide.mrc --low-pass 20"


@case("--low-pass 2 Å", "3 Å", "24 Å")
def refine_from_a_map_that_is_too_fine(folder: Folder) -> str:
    folder.particles()
    rough(folder)
    return "refine s.zarr out.zarr --initial rough.mrc --low-pass 2"


@case("s.zarr", "no half sets", "--halves even-odd")
def refine_without_half_sets(folder: Folder) -> str:
    folder.particles(half=np.zeros(COUNT, np.int8))
    return "refine s.zarr out.zarr"


@case("s.zarr", "half sets [1]", "--halves even-odd")
def refine_with_an_empty_half_set(folder: Folder) -> str:
    folder.particles(half=np.ones(COUNT, np.int8))
    return "refine s.zarr out.zarr"


@case("--halves none", "choose auto or even-odd")
def refine_with_no_half_sets_wanted(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --halves none"


@case("--rounds 0", "at least 1")
def refine_in_no_iterations(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --rounds 0"


@case("--max-shift nan", "positive number of Å")
def refine_with_a_reach_that_is_no_number(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --max-shift nan"


@case("--limit -8", "positive number of Å")
def refine_to_a_limit_below_zero(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --limit -8"


@case("--initial-pixel-size 0", "positive number of Å")
def refine_from_pixels_of_nothing(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --initial-pixel-size 0"


@case("--accuracy reference", "choose accurate")
def refine_with_direct_sums(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --accuracy reference"


@case("box of 16", "100 kB is allowed", "machine with more memory")
def refine_in_memory_that_is_not_allowed(folder: Folder) -> str:
    folder.particles()
    return "refine s.zarr out.zarr --max-memory 100kB"


@case("r.zarr", "is a run with", "--overwrite")
def refine_into_another_run(folder: Folder) -> str:
    folder.particles()
    folder.run()
    return "refine s.zarr r.zarr"


@case("refined.zarr", "b.zarr", "are not those in", "give the particle store that it refined")
def refine_from_poses_of_other_particles(folder: Folder) -> str:
    folder.refined(folder.particles("b.zarr"))
    folder.particles()
    return "refine s.zarr out.zarr --poses refined.zarr"


# --- the poses of a refinement


@case("r.zarr", "holds no poses", "give a run that dcryo refine made")
def poses_of_a_run_without_any(folder: Folder) -> str:
    folder.particles()
    folder.run()
    return "reconstruct s.zarr out.zarr --weight 1 --poses r.zarr"


@case("refined.zarr", "no poses of iteration 7", "it has: 0, 1")
def poses_of_an_iteration_that_is_not_there(folder: Folder) -> str:
    folder.refined(folder.particles())
    return "reconstruct s.zarr out.zarr --weight 1 --poses refined.zarr@7"


@case("refined.zarr", "b.zarr", "are not those in", "s.zarr", "give the particle store that it refined")
def poses_of_other_particles(folder: Folder) -> str:
    folder.refined(folder.particles("b.zarr"))
    folder.particles()
    return "reconstruct s.zarr out.zarr --weight 1 --poses refined.zarr"


@case("refined.zarr@1", "11 particles", "has 12", "give the particle store that it refined")
def poses_of_fewer_particles(folder: Folder) -> str:
    folder.refined(folder.particles(), COUNT - 1)
    return "reconstruct s.zarr out.zarr --weight 1 --poses refined.zarr"


@case("refined.zarr@1", "particle 5", "no pose", "choose another iteration")
def poses_that_are_missing(folder: Folder) -> str:
    folder.refined(folder.particles(), lost=4)
    return "reconstruct s.zarr out.zarr --weight 1 --poses refined.zarr"


@case("refined.zarr", "--halves even-odd", "better than they are", "give --halves even-odd")
def poses_refined_in_other_half_sets(folder: Folder) -> str:
    folder.refined(folder.particles(), halves="even-odd")
    return "reconstruct s.zarr out.zarr --weight 1 --poses refined.zarr"


@case("s.zarr", "is a particle store, not a run")
def poses_of_a_particle_store(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --weight 1 --poses s.zarr"


@case("refined.zarr", "poses/0001", "chunk rotation/c/0/0 is missing", "backup")
def poses_that_are_lost(folder: Folder) -> str:
    (folder.refined(folder.particles()) / "poses/0001/rotation/c/0/0").unlink()
    return "reconstruct s.zarr out.zarr --weight 1 --poses refined.zarr"


@case("refined.zarr", "no poses of iteration 7", "it has: 0, 1")
def export_of_an_iteration_that_is_not_there(folder: Folder) -> str:
    folder.refined(folder.particles())
    return "export refined.zarr out.star --iteration 7"


@case("s.zarr", "--iteration is for the poses of a run", "leave it out")
def export_of_an_iteration_of_particles(folder: Folder) -> str:
    folder.particles()
    return "export s.zarr out.star --iteration 1"


@case("s.zarr", "cannot refer to the original images", "export the images too")
def export_of_images_that_are_nowhere(folder: Folder) -> str:
    folder.refined(folder.particles())
    return "export refined.zarr out.star --no-images"


# --- cleaning


@case("r.zarr", "not finished", "--force")
def clean_of_an_unfinished_run(folder: Folder) -> str:
    run = create_run(folder.path / "r.zarr", "reconstruct", {})
    Path(run.scratch).mkdir()
    return "clean r.zarr"


@case("s.zarr", "is a particle store, not a run", "give a run")
def clean_of_particles(folder: Folder) -> str:
    folder.particles()
    return "clean s.zarr"


@case("--keep-iterations 0", "give 1 or more")
def clean_of_every_iteration(folder: Folder) -> str:
    folder.refined(folder.particles())
    return "clean refined.zarr --keep-iterations 0"


# --- memory and disk


@case("box of 16", "MB of memory", "100 kB is allowed", "machine with more memory")
def memory_that_is_not_allowed(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --max-memory 100kB"


@case("box of 2048", "TB of memory", "machine with more memory")
def box_too_large_for_memory(folder: Folder) -> str:
    folder.particles(box=2048, dtype="float16", count=2)
    return "reconstruct s.zarr out.zarr"


@case("file/out.zarr", "is a file", "choose another folder")
def output_below_a_file(folder: Folder) -> str:
    folder.star()
    (folder.path / "file").touch()
    return "ingest p.star file/out.zarr"


@case("file/out.zarr", "is a file", "choose another folder")
def run_below_a_file(folder: Folder) -> str:
    folder.particles()
    (folder.path / "file").touch()
    return "reconstruct s.zarr file/out.zarr --weight 1"


@case("nowhere", "does not exist", "create it first")
def export_to_a_missing_folder(folder: Folder) -> str:
    folder.run()
    return "export r.zarr nowhere/out.mrc"


# --- the place of the result is taken


@case("photos", "exists and is not a dcryo particle store", "choose another name")
def folder_in_the_way(folder: Folder) -> str:
    folder.star()
    (folder.path / "photos").mkdir()
    (folder.path / "photos" / "cat.png").write_bytes(b"cat")
    return "ingest p.star photos --overwrite"


@case("photos", "exists and is not a dcryo run", "choose another name")
def folder_in_the_way_of_a_run(folder: Folder) -> str:
    folder.particles()
    (folder.path / "photos").mkdir()
    (folder.path / "photos" / "cat.png").write_bytes(b"cat")
    return "reconstruct s.zarr photos --weight 1 --overwrite"


@case("letter", "exists and is not a dcryo particle store", "choose another name")
def file_in_the_way(folder: Folder) -> str:
    folder.star()
    (folder.path / "letter").write_text("Dear")
    return "ingest p.star letter --overwrite"


@case("s.zarr", "exists", "--overwrite")
def finished_store_in_the_way(folder: Folder) -> str:
    folder.star()
    folder.particles()
    return "ingest p.star s.zarr"


@case("r.zarr", "holds a run", "choose another name")
def run_in_the_way_of_particles(folder: Folder) -> str:
    folder.star()
    folder.run()
    return "ingest p.star r.zarr --overwrite"


@case("s.zarr", "holds a particle store", "choose another name")
def particles_in_the_way_of_their_run(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr s.zarr --weight 1 --overwrite"


@case("r.zarr", "is a run with", "--overwrite")
def another_run_in_the_way(folder: Folder) -> str:
    folder.particles()
    folder.run()
    return "reconstruct s.zarr r.zarr --weight 1"


@case("map.mrc", "exists", "--overwrite")
def file_in_the_way_of_an_export(folder: Folder) -> str:
    folder.run()
    (folder.path / "map.mrc").write_bytes(b"precious")
    return "export r.zarr map.mrc"


# --- options


@case("symmetry", "'D'", "C1", "D1")
def unknown_symmetry(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --symmetry D"


@case("--basis", "spline", "voxel", "kbwf:4,19,2")
def unknown_basis(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --basis spline"


@case("--accuracy", "'best'", "fast")
def unknown_accuracy(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --accuracy best"


@case("--scale", "between 1 and 64")
def scale_below_one(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --scale 0.5"


@case("--weight", "halves", "give a --weight")
def weight_without_halves(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --halves none"


@case("--mask-diameter", "Å")
def mask_without_extent(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --weight 1 --mask-diameter -5"


@case("--weight", "nan")
def weight_that_is_no_number(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --weight nan"


@case("--seed", "-1")
def seed_below_zero(folder: Folder) -> str:
    folder.star(rlnRandomSubset=None)
    return "ingest p.star out.zarr --seed -1"


@case("--max-memory", "'-8GB' is not a size", "8GB")
def memory_below_zero(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --weight 1 --max-memory=-8GB"


@case("--threads", "-2")
def threads_below_zero(folder: Folder) -> str:
    folder.particles()
    return "reconstruct s.zarr out.zarr --weight 1 --threads -2"


@case("ftp://", "s3://")
def unknown_scheme(folder: Folder) -> str:
    folder.star()
    return "ingest p.star ftp://host/out.zarr"


@case("unrecognized arguments: --symetry")
def misspelt_option(folder: Folder) -> str:
    return "reconstruct s.zarr out.zarr --symetry C2"


# --- the test


def held(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of files, None for folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def complaint(
    command: list[str], capsys: pytest.CaptureFixture[str], path: Path, says: tuple[str, ...]
) -> str:
    """Run a command that must complain in one sentence and change nothing below ``path``."""
    before = held(path)
    code = main(command)
    out, err = capsys.readouterr()
    assert out == ""
    *progress, sentence = err.splitlines()
    assert code == 2, err
    assert sentence.startswith(f"dcryo {command[0]}: ")
    assert not any(line.startswith("dcryo ") for line in progress)
    for words in says:
        assert words in sentence
    assert not re.search(r"Traceback|Error|Exception|<class|bug in dcryo", err)
    assert held(path) == before
    return sentence


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["", "json"])
@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_nothing_written(
    name: str, flags: list[str], folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    make, says = CASES[name]
    command = shlex.split(make(folder)) + flags
    complaint(command, capsys, folder.path, says)


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_check_names_the_chunk(harm: str, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """The one command that prints its object and still leaves with 2."""
    path = folder.particles() / "image/c/2/0/0"
    if harm == "missing":
        path.unlink()
    else:
        flip(path)
    assert main(["check", "s.zarr"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (sentence,) = err.splitlines()
    assert f"{folder.path}/s.zarr: the chunk " in sentence
    assert "image/c/2/0/0" in sentence
    assert harm in sentence
    assert "copy that object from a backup" in sentence
    assert main(["check", "s.zarr", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"store": "s.zarr", "ok": False, "problems": [sentence]}
    assert err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize(
    "command", ["ingest p.star closed/out.zarr", "reconstruct s.zarr closed/out.zarr --weight 1"]
)
def test_folder_that_must_not_be_written(
    command: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.star()
    folder.particles()
    (folder.path / "closed").mkdir(mode=0o500)
    complaint(shlex.split(command), capsys, folder.path, ("closed/out.zarr", "Permission denied", "check"))


# mrcfile leaves the file that it could not write to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "command",
    ["ingest p.star out.zarr", "export r.zarr out.mrc", "simulate out.zarr --box 32 --particles 20"],
)
def test_disk_that_is_full(command: str, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stands for it: the system refuses in the same place."""
    folder.star()
    folder.run()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        complaint(shlex.split(command), capsys, folder.path, ("out.", "File too large", "; "))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_ingest_again_refuses_until_told_to_overwrite(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.star()
    assert main(["ingest", "p.star", "out.zarr"]) == 0
    capsys.readouterr()
    complaint(["ingest", "p.star", "out.zarr"], capsys, folder.path, ("out.zarr exists", "--overwrite"))
    assert main(["ingest", "p.star", "out.zarr", "--overwrite"]) == 0


# --- Ctrl-C


def test_interrupted_ingest_leaves_nothing_and_can_be_run_again(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while zarr, in a thread of its own, is about to write a shard."""
    folder.star()
    before = held(folder.path)
    write = ObjectStore.set

    async def slow(self: Any, key: str, value: Any) -> None:
        if "image/c/" in key:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.3)
        await write(self, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "set", slow)
        assert main(["ingest", "p.star", "out.zarr"]) == 130
    time.sleep(0.5)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == (
        "",
        "dcryo ingest: interrupted; run the same command again to finish",
    )
    assert held(folder.path) == before
    assert main(["ingest", "p.star", "out.zarr"]) == 0


def test_interrupted_reconstruction_goes_on(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes when the first of two slices is committed; the second run keeps it."""
    folder.particles()
    command = ["reconstruct", "s.zarr", "out.zarr", "--weight", "1", "--nonnegative", "off", "--threads", "1"]
    commit = Commits.put

    def interrupted(self: Commits, *arguments: Any) -> None:
        commit(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Commits, "put", interrupted)
        assert main(command) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "dcryo reconstruct: interrupted; run the same command again to finish"
    assert main(command) == 0
    assert "1 of 2 slices were committed before and kept" in capsys.readouterr().err
    assert main(["check", "out.zarr"]) == 0
