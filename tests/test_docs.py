"""The pages of docs/ and the README say what is so: keys of --json, columns, commands, files, examples."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dcryo.cli.main import COMMANDS, command_parser, main
from dcryo.figures import table_4_1
from dcryo.io import cryosparc, star_optics
from dcryo.io.particle_schema import COLUMN_LAYOUT
from dcryo.methods import demo
from dcryo.methods.simulate import SimulateConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")], key=lambda page: page.name)
RESULT = "dcryo reconstruct"
REFINED = "dcryo refine"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of every Markdown table in a text, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {index for index, line in enumerate(lines) if set(line) <= set("|- ")}
    kept = [line for index, line in enumerate(lines) if not {index, index + 1} & rules]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def code(text: str) -> str:
    """The first piece of code between backquotes."""
    found = re.search(r"`([^`]+)`", text)
    assert found, text
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language; of none for an empty one."""
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if name == language]


@dataclass(frozen=True)
class Key:
    """What docs/json.md says of one key."""

    kind: str
    present: str

    @property
    def opaque(self) -> bool:
        """An object whose inner keys are not promised here."""
        return self.kind.startswith("object")


def documented() -> dict[str, dict[str, Key]]:
    """Keys by command, from the tables of docs/json.md."""
    sections = re.split(r"^## ", page("json.md"), flags=re.M)[1:]
    return {
        code(section.splitlines()[0]): {code(row[0]): Key(row[1], row[3]) for row in rows(section)}
        for section in sections
    }


def flat(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of everything in a JSON value; ``[]`` stands for the objects of a list."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from flat(entry, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for entry in value:
            yield from flat(entry, f"{prefix}[]")
    else:
        yield prefix


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What every command prints with --json for tiny sets: with and without truth, halves, several slices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        patch.setattr(demo, "SIMULATION", replace(demo.SIMULATION, box=16, particles=40, snr=5.0))
        capture: dict[str, list[dict[str, Any]]] = defaultdict(list)

        def run(name: str, line: str) -> None:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert main([*shlex.split(line)[1:], "--json"]) == 0, line
            capture[name].append(json.loads(said.getvalue()))

        run("dcryo simulate", "dcryo simulate p.zarr --box 16 --particles 40 --snr 5 --star relion")
        run("dcryo ingest", "dcryo ingest relion/particles.star q.zarr")
        for store in ("p.zarr", "q.zarr"):
            run("dcryo info PARTICLES", f"dcryo info {store}")
            run(f"{RESULT} --dry-run", f"dcryo reconstruct {store} none.zarr --dry-run --slice-size 8")
        run(f"{RESULT} --dry-run", "dcryo reconstruct p.zarr none.zarr --dry-run --halves none --weight 1")
        run(RESULT, "dcryo reconstruct p.zarr r.zarr")
        run(RESULT, "dcryo reconstruct q.zarr without.zarr --halves none --weight 0.1")
        run(RESULT, "dcryo reconstruct p.zarr plain.zarr --prior none")
        run(
            REFINED,
            "dcryo refine p.zarr f.zarr --initial p.zarr:truth --rounds 1 --weight 0.7 --nonnegative on",
        )
        run(REFINED, "dcryo refine q.zarr g.zarr --rounds 1 --prior none")
        run("dcryo info RUN", "dcryo info r.zarr")
        run("dcryo check", "dcryo check p.zarr")
        run("dcryo check", "dcryo check r.zarr")
        narrow = "--mask-lowpass 8 --mask-extend 1 --mask-edge 2"
        run("dcryo postprocess", f"dcryo postprocess r.zarr post {narrow} --locres-radius 3 --locres-edge 6")
        run("dcryo postprocess", f"dcryo postprocess r.zarr post2 {narrow} --bfactor 0 --no-directional")
        run("dcryo fsc", "dcryo fsc r.zarr p.zarr:truth")
        run("dcryo fsc", "dcryo fsc r.zarr p.zarr:truth --mask-radius 0.3")
        run("dcryo fsc", "dcryo fsc r.zarr p.zarr:truth --align")
        run("dcryo export", "dcryo export r.zarr map.mrc")
        run("dcryo report", "dcryo report r.zarr --output page.html")
        run("dcryo clean", "dcryo clean r.zarr")
        run("dcryo demo", "dcryo demo made")
        small = table_4_1.Parameters(
            box=16, views=12, counts=(6, 12), rounds=1, least_gain=0.0, latest_break_even=10**9
        )
        patch.setattr(table_4_1, "SMALL", small)
        patch.setattr(table_4_1, "THESIS_BOX", 16)
        run("dcryo figure", "dcryo figure table-4.1 figures")
        run("dcryo figure --list", "dcryo figure --list")
        run("dcryo bench", "dcryo bench bench --suite convolution --box 16 --rounds 1 --peers scipy")
        run("dcryo bench --list", "dcryo bench --list")
        return dict(capture)


SECTIONS = (
    *(f"dcryo {name}" for name in COMMANDS if name != "info"),
    "dcryo info PARTICLES",
    "dcryo info RUN",
    f"{RESULT} --dry-run",
    "dcryo figure --list",
    "dcryo bench --list",
)


def test_every_command_has_its_keys_documented() -> None:
    assert sorted(documented()) == sorted(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_json_keys(section: str, printed: dict[str, list[dict[str, Any]]]) -> None:
    known = documented()
    keys = known[section] | (known[RESULT] if section in ("dcryo demo", REFINED) else {})
    opaque = [name for name, key in keys.items() if key.opaque]
    seen: set[str] = set()
    for value in printed[section]:
        names = {next((n for n in opaque if f"{name}.".startswith(f"{n}.")), name) for name in flat(value)}
        # An empty list shows no keys of its objects.
        names -= {name for name in names if any(key.startswith(f"{name}[].") for key in keys)}
        assert names <= keys.keys(), f"printed, and not in docs/json.md: {sorted(names - keys.keys())}"
        lost = {name for name, key in keys.items() if key.present == "always"} - names
        assert not lost, f"always there by docs/json.md, and not printed: {sorted(lost)}"
        seen |= names
    assert seen == keys.keys(), f"in docs/json.md, and never printed: {sorted(keys.keys() - seen)}"


KINDS: dict[str, Any] = {
    "text": str,
    "integer": int,
    "number": (int, float),
    "true or false": bool,
    "null": type(None),
    "object": dict,
    "list": list,
    "two numbers": list,
    "2 × 2 numbers": list,
}


def test_json_types(printed: dict[str, list[dict[str, Any]]]) -> None:
    for section, keys in documented().items():
        for value in printed[section]:
            for name, key in keys.items():
                if "[]" in name or name not in value:
                    continue
                kinds = [key.kind] if key.kind == "true or false" else key.kind.split(" or ")
                allowed = tuple(KINDS[kind.split(",")[0].split(" of ")[0]] for kind in kinds)
                assert isinstance(value[name], allowed), (section, name, value[name])


def test_info_of_a_run_repeats_its_result(printed: dict[str, list[dict[str, Any]]]) -> None:
    (run,) = printed["dcryo info RUN"]
    assert run["result"] == {name: value for name, value in printed[RESULT][0].items() if name != "run"}


def test_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    tiny = example
    for large, small in {"box=64": "box=16", "particles=2000": "particles=40", "snr=0.1": "snr=5.0"}.items():
        assert large in tiny
        tiny = tiny.replace(large, small)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(tiny, "README.md", "exec"), names)
    assert names["volume"].shape == (16, 16, 16)
    assert {"frequency", "masked", "corrected", "regularised"} <= names["fsc"].keys()
    assert (tmp_path / "map.mrc").is_file()


def test_examples_of_the_stores_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dcryo

    monkeypatch.chdir(tmp_path)
    dcryo.simulate("particles.zarr", SimulateConfig(box=16, particles=20, snr=5.0))
    dcryo.reconstruct("particles.zarr", "run.zarr")
    # A report beside the volumes, where `dcryo report` puts it, must not stand in a reader's way.
    (tmp_path / "run.zarr" / "report.html").write_text("<html></html>", encoding="utf-8")
    examples = blocks(page("stores.md"), "python")
    assert len(examples) == 2
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, "stores.md", "exec"), names)
    assert names["image"].shape == (20, 16, 16)
    assert set(names["run"].children) == {"full", "half1", "half2", "linear", "linear1", "linear2", "tables"}


def test_example_of_the_post_processing_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dcryo

    monkeypatch.chdir(tmp_path)
    dcryo.simulate("particles.zarr", SimulateConfig(box=16, particles=40, snr=5.0, pixel_size=5.0))
    dcryo.reconstruct("particles.zarr", "run.zarr")
    (example,) = blocks(page("postprocess.md"), "python")
    names: dict[str, Any] = {}
    exec(compile(example, "postprocess.md", "exec"), names)
    assert names["done"].result["bfactor"] == -80
    named = set(re.findall(r"`(postprocess[\w.]*)`", page("postprocess.md")))
    assert {path.name for path in (tmp_path / "post").iterdir()} | {"postprocess.md"} >= named


def test_arrays_of_a_particle_store() -> None:
    table = {code(row[0]): row[1:4] for row in rows(page("stores.md")) if len(row) == 5}
    assert table.pop("image")[:2] == ["float32 or float16", "y, x"]
    types = {"<f8": "float64", "<i4": "int32", "|i1": "int8", "<i8": "int64"}
    assert table == {
        name: [types[dtype], ", ".join(axes), unit] for name, (dtype, axes, unit) in COLUMN_LAYOUT.items()
    }


def test_columns_of_star_and_cs_files() -> None:
    text = page("conventions.md")
    named = set(re.findall(r"`(rln\w+|(?:ctf|blob|alignments3D|location)/\w+)`", text))
    handled = {*star_optics.OPTICS_COLUMNS, *star_optics.HARMLESS, *star_optics.REFUSED_IN_ROWS}
    handled |= {
        *star_optics.CTF_NEEDED,
        *cryosparc.CTF_NEEDED,
        *cryosparc.NOT_MODELLED,
        *cryosparc.GROUPED_BY,
    }
    assert handled <= named, f"not in docs/conventions.md: {sorted(handled - named)}"
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "dcryo" / "io").glob("*.py")
    ).replace("rlnOrigin{axis}{suffix}", "rlnOriginX rlnOriginXAngst")
    invented = {name for name in named if name not in source}
    assert not invented, f"in docs/conventions.md only: {sorted(invented)}"


def commands() -> list[tuple[str, str]]:
    """Every command line shown on a page, with the page's name."""
    found = []
    for path in PAGES:
        for block in blocks(path.read_text(encoding="utf-8"), ""):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.search(r"(?:^|&& )(dcryo [^#>&]*)", line):
                    found.append((path.name, match[1].replace("...", "").strip()))
    return found


@pytest.mark.parametrize(("name", "line"), commands())
def test_commands_that_are_shown_can_be_parsed(name: str, line: str) -> None:
    command, *arguments = shlex.split(line)[1:]
    module = importlib.import_module(f"dcryo.cli.{command}")
    command_parser(command, module).parse_args(arguments)


ROOMS = "cli|bench|methods|dataflow|operators|solvers|metrics|io|report"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = [ROOT / name for name in re.findall(r"`((?:dcryo|docs|tests)/[\w/.]*)`", text)]
    named += [ROOT / "dcryo" / name for name in re.findall(rf"`((?:{ROOMS})/\w+\.py)`", text)]
    named += [path.parent / name for name in re.findall(r"\]\(((?!https?:)[^)#]+)\)", text)]
    named += [
        folder / name
        for name in re.findall(r"`([\w-]+\.md)`", text)
        for folder in [ROOT if name == "README.md" else ROOT / "docs"]
    ]
    lost = [str(name.relative_to(ROOT)) for name in named if "NAME" not in name.name and not name.exists()]
    assert not lost, f"{path.name} names what is not there: {lost}"
