"""The front door: help without heavy imports, and for each kind of failure its exit code and one sentence."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import shlex
import subprocess
import sys
from types import ModuleType

import pytest

import dcryo
from dcryo.cli import main as front
from dcryo.cli.main import COMMANDS, command_parser, main
from dcryo.errors import InputError

HEAVY = ("numpy", "scipy", "zarr", "numba", "matplotlib", "xarray", "dask", "torch", "pandas", "rich")


def failing(error: BaseException) -> ModuleType:
    """A command that raises ``error``."""

    def run(args: argparse.Namespace) -> int:
        raise error

    module = ModuleType("failing", "Fail.")
    module.add_arguments = lambda parser: None  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    return module


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch):
    """Make ``dcryo info`` raise a given error."""

    def install(error: BaseException) -> None:
        monkeypatch.setitem(sys.modules, "dcryo.cli.info", failing(error))

    return install


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dcryo.cli.main import main; code = main(['--help']);"
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules}); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, loaded = done.stdout.partition("LOADED")
    assert set(loaded.split()).isdisjoint(HEAVY)
    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in COMMANDS)


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dcryo", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dcryo {dcryo.__version__}\n"


def test_no_argument_is_a_request_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "reconstruct" in capsys.readouterr().out


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recontruct", "a", "b"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "dcryo: there is no command 'recontruct' (did you mean reconstruct?)\n"


def test_bad_option_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["simulate", "out.zarr", "--box", "many"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "--box" in err
    assert "many" in err


def test_input_error_is_its_sentence(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(InputError("a.star: row 3 has no pixel size; give --pixel-size"))
    assert main(["info", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "dcryo info: a.star: row 3 has no pixel size; give --pixel-size\n"


def test_debug_shows_where(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(InputError("no"))
    assert main(["info", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_bug_is_called_ours(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(ZeroDivisionError("division by zero"))
    assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "bug in dcryo (ZeroDivisionError: division by zero)" in err
    assert "--debug" in err
    assert main(["info", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_system_refusal_names_the_file(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(PermissionError(errno.EACCES, "Permission denied", "/etc/out.mrc"))
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "dcryo info: /etc/out.mrc: Permission denied; check its permissions\n"
    fail_with(OSError(errno.ENOSPC, "No space left on device"))
    assert main(["info"]) == 2
    said = "No space left on device; free some space, or write elsewhere"
    assert capsys.readouterr().err == f"dcryo info: {said}\n"


def test_interruption(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt())
    assert main(["info"]) == 130
    assert capsys.readouterr().err.startswith("dcryo info: interrupted")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["fsc", "--help"]])
def test_reader_that_left_is_no_error(arguments: list[str]) -> None:
    # The reader of a pipe is closed before anything is written to it.
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dcryo", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_are_valid_commands(name: str) -> None:
    module = importlib.import_module(f"dcryo.cli.{name}")
    examples = re.findall(r"^    dcryo (.+)$", module.__doc__ or "", re.MULTILINE)
    assert examples
    for example in examples:
        command, *arguments = shlex.split(example)
        assert command == name
        command_parser(name, module).parse_args(arguments)


def test_first_lines_of_the_help_are_valid_commands() -> None:
    examples = re.findall(r"^    dcryo (.+)$", front.__doc__ or "", re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        command, *arguments = shlex.split(example)
        command_parser(command, importlib.import_module(f"dcryo.cli.{command}")).parse_args(arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: dcryo {name}")
    assert "--json" in text


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("reconstruct", "ReconstructConfig"),
        ("refine", "RefineConfig"),
        ("ingest", "IngestConfig"),
        ("simulate", "SimulateConfig"),
    ],
)
def test_every_setting_is_an_option(name: str, config: str) -> None:
    """A setting of the Python function that the command line lacks (or renames) is an oversight."""
    from dataclasses import fields

    parser = command_parser(name, importlib.import_module(f"dcryo.cli.{name}"))
    options = {action.dest for action in parser._actions}
    renamed = {"snr_definition": "snr_def"}
    settings = {renamed.get(field.name, field.name) for field in fields(getattr(dcryo, config))}
    assert settings <= options


def test_the_heap_is_not_split_among_threads() -> None:
    """Blocks of eight threads lie in at most two heaps; glibc alone gives every thread its own."""
    code = """
import ctypes, threading
from dcryo.cli.main import few_arenas
if not few_arenas():
    raise SystemExit(3)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
heaps, ready = set(), threading.Barrier(8)
def take():
    ready.wait()
    heaps.add(libc.malloc(1000) >> 26)  # a thread's heap is 64 MB, aligned
    ready.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(heaps))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("no glibc here")
    # the main heap may straddle one boundary of 64 MB
    assert int(done.stdout) <= 3, done.stderr
