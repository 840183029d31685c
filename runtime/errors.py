"""Errors of the runtime: one line each, with the C status and the command line's exit status."""

from __future__ import annotations


class PanguRuntimeError(Exception):
    """A failure of the compiled runtime. `status`: the C status code; `exit_status`: 2 for bad input, 1 otherwise."""

    status = 9
    exit_status = 1

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        if status is not None:
            self.status = status


class InputError(PanguRuntimeError):
    """A bad argument (PANGU_BAD_ARGUMENT) or a token outside the vocabulary (PANGU_BAD_TOKEN)."""

    status = 1
    exit_status = 2


class ArtifactError(PanguRuntimeError):
    """Not an artifact, one of another format version, a corrupt one, or one that cannot be read."""

    status = 2
    exit_status = 2


class ContextFullError(PanguRuntimeError):
    """The context has no room. After `generate`, `tokens` holds what was generated before it filled."""

    status = 7
    exit_status = 2

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message, status)
        self.tokens: list[int] = []


def error_for(status: int, message: str) -> PanguRuntimeError:
    """The exception of a C status."""
    kinds: dict[int, type[PanguRuntimeError]] = {
        1: InputError, 2: ArtifactError, 3: ArtifactError, 4: ArtifactError, 5: ArtifactError, 6: InputError,
        7: ContextFullError,
    }  # fmt: skip
    return kinds.get(status, PanguRuntimeError)(message, status)
