"""Who is compared with dcryo: how each one is found, and how it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcryo import __version__
from dcryo.errors import InputError

OURS = "dcryo"


@dataclass(frozen=True)
class Peer:
    """A library by its module and distribution, or a program by its name; ``install`` is what to do."""

    title: str
    install: str
    module: str = ""
    distribution: str = ""
    program: str = ""

    def version(self) -> str | None:
        """Its version, None where it is not installed."""
        if self.program:
            return _program_version(self.program) if shutil.which(self.program) else None
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return importlib.metadata.version(self.distribution or self.module)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"


PEERS: dict[str, Peer] = {
    "scipy": Peer("FFTs of scipy.fft", "pip install scipy", module="scipy"),
    "ducc0": Peer("FFTs and nonuniform FFTs", 'pip install "dcryo[bench]"', module="ducc0"),
    "finufft": Peer("nonuniform FFTs", 'pip install "dcryo[bench]"', module="finufft"),
    "torch-projectors": Peer(
        "projectors by interpolation, of Warp",
        "pip install torch wheel setuptools pybind11 && pip install --no-build-isolation --no-binary "
        "torch-projectors torch-projectors",
        module="torch_projectors",
        distribution="torch-projectors",
    ),
    "aspire": Peer("MeanEstimator of ASPIRE", 'pip install "dcryo[bench]"', module="aspire"),
    "relion": Peer(
        "relion_reconstruct of RELION",
        "install RELION, and put relion_reconstruct on the PATH",
        program="relion_reconstruct",
    ),
}
"""Every peer by the name that ``--peers`` takes."""


def _program_version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    words = [line.split(":")[-1].strip() for line in said.splitlines() if line.strip()]
    return words[0] if words else "unknown"


def versions() -> dict[str, str | None]:
    """Versions of all peers by name; None for those that are not installed."""
    return {name: peer.version() for name, peer in PEERS.items()}


def choose(asked: Sequence[str], installed: Iterable[str]) -> tuple[str, ...]:
    """The peers that ``--peers`` means: names, ``auto`` for all that are installed, ``none``.

    Raises
    ------
    InputError
        For a name that is not known, or a peer that is not installed.
    """
    there = tuple(installed)
    if list(asked) == ["auto"]:
        return there
    if list(asked) == ["none"]:
        return ()
    for name in asked:
        if name not in PEERS:
            raise InputError(f"--peers {name}: not known; give auto, none, or some of {', '.join(PEERS)}")
        if name not in there:
            raise InputError(f"--peers {name}: it is not installed here; {PEERS[name].install}")
    return tuple(dict.fromkeys(asked))


def version_of(name: str) -> str | None:
    """The version of a peer, or ours."""
    return __version__ if name == OURS else PEERS[name].version()
