"""How a build tells what it is doing; the command line draws bars, a library user may pass an object of their own."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of long work."""

    def stage(self, name: str, total: int) -> None:
        """A new stage begins; `total` steps will be reported (bytes for weights, files for compiling)."""

    def advance(self, steps: int) -> None:
        """`steps` more of the current stage are done."""


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, steps: int) -> None:
        pass
