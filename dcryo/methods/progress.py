"""How a method tells its caller how far it is: three calls, no opinion about who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of a method; the command line draws it, a notebook may do otherwise."""

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage of ``total`` units (None: not known); the stage before it is over."""

    def advance(self, count: int = 1) -> None:
        """``count`` more units of the current stage are done."""

    def message(self, text: str) -> None:
        """One sentence worth the user's attention."""


class Silent:
    """A progress that nobody watches: the default."""

    def start(self, stage: str, total: int | None) -> None:
        """Ignore the stage."""

    def advance(self, count: int = 1) -> None:
        """Ignore the units."""

    def message(self, text: str) -> None:
        """Ignore the sentence."""
