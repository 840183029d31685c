"""The slim runtime of a compiled model. Imports numpy and nothing of ours or torch's."""

from .binding import Model, Result, Sampling, Session, Stats, stats_record
from .errors import ArtifactError, ContextFullError, InputError, PanguRuntimeError

__all__ = [
    "ArtifactError", "ContextFullError", "InputError", "Model", "PanguRuntimeError", "Result", "Sampling", "Session",
    "Stats", "stats_record",
]  # fmt: skip
