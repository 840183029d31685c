"""Compares a compiled artifact with the torch reference in float64, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import UserError

from .artifact import Artifact
from .build import load_config
from .checkpoint import Checkpoint
from .progress import Progress, Silent

if TYPE_CHECKING:
    from pangu_compile.runtime import Model

LIMIT = 2e-4  # of the largest |logit|
CHUNKS = (1, 7, 64)
DEFAULT_TOKENS = 64
SPECULATED = 32


@dataclass(frozen=True)
class Difference:
    """One way of running against the reference, over all its tokens."""

    mode: str
    max_difference: float
    ratio: float
    greedy_agreement: float
    agrees: bool


@dataclass
class Report:
    """The outcome of `verify_artifact`."""

    tokens: int
    largest_logit: float
    differences: list[Difference] = field(default_factory=list)
    speculation_identical: bool | None = None

    @property
    def passed(self) -> bool:
        return all(d.agrees for d in self.differences) and self.speculation_identical is not False

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "tokens": self.tokens,
            "limit": LIMIT,
            "largest_logit": self.largest_logit,
            "max_difference": max(d.max_difference for d in self.differences),
            "ratio": max(d.ratio for d in self.differences),
            "greedy_agreement": min(d.greedy_agreement for d in self.differences),
            "modes": [vars(d) for d in self.differences],
            "speculation_identical": self.speculation_identical,
        }


def compare(mode: str, compiled: np.ndarray, reference: np.ndarray) -> Difference:
    """Both [tokens, vocab]. Another greedy token is accepted only where the reference's own lead is below the limit."""
    scale = float(np.abs(reference).max()) or 1.0
    worst = float(np.abs(compiled.astype(np.float64) - reference).max())
    rows = np.arange(len(reference))
    best, chosen = reference.argmax(-1), compiled.argmax(-1)
    lead = reference[rows, best] - reference[rows, chosen]
    finite = bool(np.isfinite(compiled).all())
    agrees = finite and worst <= LIMIT * scale and bool((lead <= 2 * LIMIT * scale).all())
    return Difference(mode, worst, worst / scale, float((best == chosen).mean()), agrees)


def reference_logits(checkpoint: Checkpoint, tokens: Sequence[int]) -> np.ndarray:
    """Logits [tokens, vocab] of the torch reference in float64."""
    import torch

    from pangu_compile.models.loading import load_reference

    model = load_reference(checkpoint.folder, dtype=torch.float64)
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([list(tokens)]))[0].numpy()
    return logits


def compiled_logits(model: Model, tokens: Sequence[int], pieces: Sequence[int]) -> np.ndarray:
    """Logits [tokens, vocab]: prefill in `pieces` (their sizes), then decode what is left one by one."""
    rows: list[np.ndarray] = []
    at = 0
    with model.session() as session:
        for size in pieces:
            rows += list(session.prefill(tokens[at : at + size], all_logits=True))
            at += size
        rows += [session.decode(int(token)) for token in tokens[at:]]
    return np.stack(rows)


def verify_artifact(
    out: str | Path,
    against: str | Path,
    tokens: int | Sequence[int] = DEFAULT_TOKENS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run the artifact and the reference on the same tokens (a count: that many random ones, always the same).

    Raises:
        UserError: the artifact is damaged or was built from another configuration, or the tokens do not fit.
    """
    from pangu_compile.runtime import Model

    bar = progress or Silent()
    artifact = Artifact.open(out)
    checkpoint = Checkpoint.open(against)
    config = load_config(checkpoint)
    if artifact.manifest.get("config") != config.to_dict():
        raise UserError(f"{out} was not built from {against}: their config.json differ")
    prompt = _prompt(tokens, config.vocab_size, int(artifact.manifest["max_context"]))
    bar.stage("reference", 1)
    reference = reference_logits(checkpoint, prompt)
    bar.advance(1)
    report = Report(len(prompt), float(np.abs(reference).max()))
    with Model(out, threads=threads, verify=False) as model:
        for mode, pieces in _modes(len(prompt)):
            bar.stage(mode, 1)
            report.differences.append(compare(mode, compiled_logits(model, prompt, pieces), reference))
            bar.advance(1)
        if artifact.manifest.get("num_drafts"):
            bar.stage("speculation", 1)
            report.speculation_identical = _speculation(model, prompt, int(artifact.manifest["max_context"]))
            bar.advance(1)
    return report


def _prompt(tokens: int | Sequence[int], vocab: int, context: int) -> list[int]:
    if isinstance(tokens, int):
        if tokens < 1:
            raise UserError(f"tokens must be at least 1, not {tokens}")
        count = min(tokens, context)
        return [int(t) for t in np.random.default_rng(0).integers(0, vocab, count)]
    prompt = [int(t) for t in tokens]
    if not prompt or len(prompt) > context:
        raise UserError(f"{len(prompt)} tokens do not fit: the artifact takes 1 to {context}")
    wrong = next((t for t in prompt if not 0 <= t < vocab), None)
    if wrong is not None:
        raise UserError(f"token {wrong} is outside the vocabulary of {vocab}")
    return prompt


def _modes(count: int) -> list[tuple[str, list[int]]]:
    """Ways to split `count` tokens; what the pieces leave is decoded."""
    modes = [("prefill", [count])]
    if count > 1:
        half = count // 2
        modes.append(("prefill+decode", [half]))
        modes += [(f"chunks of {c}", _split(count, c)) for c in CHUNKS if c < count]
    return modes


def _split(count: int, size: int) -> list[int]:
    return [min(size, count - at) for at in range(0, count, size)]


def _speculation(model: Model, prompt: Sequence[int], context: int) -> bool | None:
    """Are the greedy tokens with and without drafts the same? None where the context leaves no room."""
    start = list(prompt[: max(1, min(len(prompt), context - SPECULATED - 8))])
    room = min(SPECULATED, context - len(start))
    if room < 2:
        return None
    runs = []
    for speculate in (False, True):
        with model.session() as session:
            runs.append(session.generate(start, max_new_tokens=room, speculate=speculate).tokens)
    return runs[0] == runs[1]
