"""Cryo-EM reconstruction: particles in, map out.

Try it first, with nothing but this program (two minutes, two cores):

    dcryo demo

Then with your own data:

    dcryo ingest Refine3D/job012/run_data.star particles.zarr
    dcryo reconstruct particles.zarr run.zarr
    dcryo report run.zarr
    dcryo export run.zarr map.mrc

Any path may also be a URL (s3://, gs://, az://).  `dcryo COMMAND --help` explains a command with examples.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from dcryo import __version__
from dcryo.errors import DcryoError

COMMANDS = {
    "demo": "simulate particles, reconstruct them, write a report",
    "simulate": "make a particle store from a phantom, an atomic model or a map",
    "ingest": "read particles of RELION or cryoSPARC into a particle store",
    "info": "say what a store holds",
    "check": "verify every chunk and every value of a store",
    "reconstruct": "regularised map, half maps and FSC from a particle store",
    "refine": "poses and map together, from a rough map or rough poses",
    "postprocess": "mask, sharpened map, local and directional resolution from half maps",
    "fsc": "compare two maps by Fourier shell correlation",
    "export": "write MRC, STAR and FSC files from a store",
    "report": "write the HTML page of a run",
    "clean": "remove what a finished run no longer needs",
    "figure": "repeat an experiment of the thesis: numbers, picture, pass or fail",
    "bench": "time dcryo beside its peers: table, JSON, picture",
}
"""The commands and their one line of help; the module ``dcryo.cli.NAME`` is imported only when asked for."""

REMEDIES = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "raise the limit on the size of files, or write elsewhere",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "write elsewhere",
}
"""What to do about what the system refuses, where it is not the path that is wrong."""

BUG, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` on stderr and leave with exit code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def overview() -> Parser:
    """Parser of the bare command: help, and the version."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    parser = Parser(
        prog="dcryo",
        description=f"{__doc__}\ncommands:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="dcryo [--version] [--help] COMMAND ...",
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    return parser


def command_parser(name: str, module: ModuleType) -> Parser:
    """Parser of one command: its module's docstring is the help text."""
    parser = Parser(
        prog=f"dcryo {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    common = parser.add_argument_group("every command")
    common.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout and nothing else"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def one_thread_per_product() -> None:
    """Keep the BLAS behind numpy to one thread, unless the user has said otherwise.

    Our threads each work on a part of their own; matrix products that start threads of their own inside them
    are several times slower.  It must be said before numpy is loaded.
    """
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def few_arenas() -> bool:
    """Let glibc keep two heaps for all threads instead of eight per core; False where there is no glibc.

    Every heap keeps what its threads have freed, and streaming moves work from thread to thread: with many
    heaps the memory of a job grows with its length.  It must be said before there are threads.
    """
    arena_max = -8  # M_ARENA_MAX of malloc.h
    try:
        return bool(ctypes.CDLL(None).mallopt(arena_max, 2))
    except (AttributeError, OSError, TypeError):
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 our bug, 2 bad input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        known = arguments and arguments[0] in COMMANDS
        code = _run(arguments[0], arguments[1:]) if known else _no_command(arguments)
        sys.stdout.flush()
    except SystemExit as left:  # argparse leaves this way, after --help and after a complaint
        code = left.code if isinstance(left.code, int) else BUG
    except BrokenPipeError:
        # The reader of our output is gone (`dcryo info ... | head`): not an error.  Python would complain
        # once more when it closes stdout at exit, so give it something that it can close.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code


def entry() -> NoReturn:
    """The ``dcryo`` program: run, flush, and leave without tearing the interpreter down.

    The threads of the object store's runtime may still be about to hand something back to Python; one that
    finds the interpreter half torn down aborts the process, and a finished job would look like a crash.
    """
    few_arenas()
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _no_command(arguments: list[str]) -> int:
    parser = overview()
    if arguments and not arguments[0].startswith("-"):
        import difflib

        close = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "see dcryo --help"
        parser.exit(BAD_INPUT, f"dcryo: there is no command {arguments[0]!r} ({hint})\n")
    if parser.parse_args(arguments).version:
        print(f"dcryo {__version__}")
    else:
        parser.print_help()
    return 0


def _run(name: str, arguments: list[str]) -> int:
    debug = "--debug" in arguments
    one_thread_per_product()
    try:
        module = importlib.import_module(f"dcryo.cli.{name}")
        code: int = module.run(command_parser(name, module).parse_args(arguments))
        return code
    except DcryoError as error:
        return _complain(name, str(error), error.exit_code, debug)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A file or disk that does not do what was asked (permission, no space, is a directory): the
        # system's own words name it.
        if error.errno is None:
            return _bug(name, error, debug)
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = REMEDIES.get(error.errno, "check the path")
        return _complain(name, f"{where}{error.strerror}; {remedy}", BAD_INPUT, debug)
    except KeyboardInterrupt:
        # zarr's event loop was left in the middle of a write, and says so when Python ends.
        logging.getLogger("asyncio").disabled = True
        return _complain(name, "interrupted; run the same command again to finish", INTERRUPTED, debug)
    except Exception as error:
        return _bug(name, error, debug)


def _complain(name: str, sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"dcryo {name}: {sentence}", file=sys.stderr)
    return code


def _bug(name: str, error: Exception, debug: bool) -> int:
    detail = f"{type(error).__name__}: {error}".splitlines()[0]
    remedy = (
        "please report it with the traceback above" if debug else "run again with --debug for the traceback"
    )
    return _complain(name, f"this is a bug in dcryo ({detail}); {remedy}", BUG, debug)


if __name__ == "__main__":
    sys.exit(main())
