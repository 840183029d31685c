"""Compares a compiled artifact with the torch reference in float64, token by token.

The reference has the weights that the artifact stores: those that are rounded or quantised there are so here, and what is left to
differ is arithmetic. How much may differ depends on the accuracy that activations have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import UserError

from .artifact import Artifact
from .build import load_config
from .checkpoint import Checkpoint
from .execute import open_model
from .options import ASCEND_TARGETS
from .packing import pack, unpack
from .progress import Progress, Silent

if TYPE_CHECKING:
    from pangu_compile.models.reference import OpenPanguForCausalLM
    from pangu_compile.runtime import Model

    from .targets.program import ProgramModel

LIMIT = 2e-4  # of the largest |logit|, where activations have float32's accuracy
CHUNKS = (1, 7, 64)
DEFAULT_TOKENS, SIMULATED_TOKENS = 64, 16
SPECULATED = 32
STORED = {"BF16": "bf16", "U8": "q8"}  # safetensors' dtypes, where the manifest names no format


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal: on a `share` of the tokens all logits differ by no more than `limit` of the largest |logit|.

    drafts_exact: may speculation change no token? why: what the limit is for.
    """

    limit: float
    share: float
    drafts_exact: bool
    why: str

    def __str__(self) -> str:
        where = "every token" if self.share == 1 else f"{self.share:.0%} of the tokens"
        return f"limit {self.limit:.0e} of it on {where} ({self.why})"


EXACT = Tolerance(LIMIT, 1.0, True, "activations of float32's accuracy")
# Routers and indexers whose scores nearly tie choose otherwise than in float64, and a few rows differ by tens of percent.
ROUGH = "near ties of routers and indexers may fall the other way"
SIXTEEN = Tolerance(2e-3, 0.9, True, f"activations of 16 bits for int8 weights; {ROUGH}")
EIGHT = Tolerance(0.06, 0.5, True, f"activations of 8 bits; {ROUGH}")
NARROW = Tolerance(0.06, 0.5, True, f"activations in bf16; {ROUGH}")


def tolerance(manifest: Mapping[str, Any]) -> Tolerance:
    """The tolerance for an artifact's formats."""
    weights, options = str(manifest.get("weights", "f32")), manifest.get("options", {})
    narrow = options.get("activations", "float32") == "bf16"
    if weights in ("w8a8", "int4") or (weights == "int8" and narrow):
        return EIGHT
    if narrow:
        # torch rounds a row of a product otherwise in another batch; our kernels do not.
        return replace(NARROW, drafts_exact=manifest.get("target") != "torch_npu")
    sixteen = weights == "w8a16" or (weights == "int8" and manifest.get("target") not in ASCEND_TARGETS)  # of 24 there
    return SIXTEEN if sixteen else EXACT


@dataclass(frozen=True)
class Difference:
    """One way of running against the reference, over all its tokens. within: the share of them inside the limit."""

    mode: str
    max_difference: float
    ratio: float
    within: float
    greedy_agreement: float
    agrees: bool


@dataclass
class Report:
    """The outcome of `verify_artifact`. simulated: what ran stands in for a device; the words for it, or empty."""

    tokens: int
    largest_logit: float
    tolerance: Tolerance = EXACT
    simulated: str = ""
    differences: list[Difference] = field(default_factory=list)
    speculation_identical: bool | None = None

    @property
    def passed(self) -> bool:
        drafts = self.speculation_identical is not False or not self.tolerance.drafts_exact
        return all(d.agrees for d in self.differences) and drafts

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "tokens": self.tokens,
            "limit": self.tolerance.limit,
            "share_within": self.tolerance.share,
            "limit_for": self.tolerance.why,
            "simulated": bool(self.simulated),
            "largest_logit": self.largest_logit,
            "max_difference": max(d.max_difference for d in self.differences),
            "ratio": max(d.ratio for d in self.differences),
            "greedy_agreement": min(d.greedy_agreement for d in self.differences),
            "modes": [vars(d) for d in self.differences],
            "speculation_identical": self.speculation_identical,
        }


def compare(mode: str, compiled: np.ndarray, reference: np.ndarray, tolerance: Tolerance = EXACT) -> Difference:
    """Both [tokens, vocab]. Another greedy token is accepted only where the reference's own lead is below the limit."""
    scale = float(np.abs(reference).max()) or 1.0
    rows = np.arange(len(reference))
    difference = np.abs(compiled.astype(np.float64) - reference).max(-1)
    best, chosen = reference.argmax(-1), compiled.argmax(-1)
    lead = reference[rows, best] - reference[rows, chosen]
    limit = tolerance.limit * scale
    within = float(((difference <= limit) & (lead <= 2 * limit)).mean())
    agrees = bool(np.isfinite(compiled).all()) and within >= tolerance.share
    worst = float(difference.max())
    return Difference(mode, worst, worst / scale, within, float((best == chosen).mean()), agrees)


def stored_formats(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Packing format (see `packing`) of every parameter whose values an artifact changes: rounds, or quantises."""
    from pangu_compile.ir import DType

    formats: dict[str, str] = {}
    for name, entry in manifest["tensors"].items():
        stored = entry.get("format")
        layout = DType(stored).layout if stored is not None else STORED.get(entry["dtype"], "f32")
        layout = DType(layout).plain.value
        if layout not in ("f32", "f64", "i64", "i32", "bool"):
            formats.update(dict.fromkeys(name.split("+"), layout))  # weights that lie together have one entry
    return formats


def round_weights(model: OpenPanguForCausalLM, manifest: Mapping[str, Any]) -> None:
    """Give the reference the values that the artifact's formats hold. What is folded at build time, and split, is not rounded."""
    import torch

    state = model.state_dict()
    for name, layout in stored_formats(manifest).items():
        if name not in state:
            continue
        values = state[name].numpy().astype(np.float32)
        state[name].copy_(torch.from_numpy(unpack(layout, pack(layout, values), values.shape)))


def reference_logits(checkpoint: Checkpoint, tokens: Sequence[int], manifest: Mapping[str, Any]) -> np.ndarray:
    """Logits [tokens, vocab] of the torch reference in float64 with the values that the artifact stores."""
    import torch

    from pangu_compile.models.loading import load_reference

    model = load_reference(checkpoint.folder, dtype=torch.float64)
    round_weights(model, manifest)
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([list(tokens)]))[0].numpy()
    return logits


def compiled_logits(model: Model | ProgramModel, tokens: Sequence[int], pieces: Sequence[int]) -> np.ndarray:
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
    tokens: int | Sequence[int] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    simulate: bool = False,
) -> Report:
    """Run the artifact and the reference on the same tokens (a count: that many random ones, always the same).

    Args:
        tokens: None: DEFAULT_TOKENS, or SIMULATED_TOKENS where that is done on Ascend's simulator.
        simulate: run an Ascend artifact on the simulator.
    Raises:
        UserError: the artifact is damaged or was built from another configuration, the tokens do not fit, or an Ascend artifact
            has no built library beside it and is not to be simulated.
    """
    bar = progress or Silent()
    artifact = Artifact.open(out, check=False)  # opening the model checks the sums
    checkpoint = Checkpoint.open(against)
    config = load_config(checkpoint)
    if artifact.manifest.get("config") != config.to_dict():
        raise UserError(f"{out} was not built from {against}: their config.json differ")
    if tokens is None:
        tokens = SIMULATED_TOKENS if simulate else DEFAULT_TOKENS
    prompt = _prompt(tokens, config.vocab_size, int(artifact.manifest["max_context"]))
    _, opened = open_model(Path(out), threads, simulate)
    with opened as model:
        bar.stage("reference", 1)
        reference = reference_logits(checkpoint, prompt, artifact.manifest)
        bar.advance(1)
        simulated = str(getattr(model, "simulated_note", "")) if getattr(model, "simulated", False) else ""
        report = Report(len(prompt), float(np.abs(reference).max()), tolerance(artifact.manifest), simulated)
        for mode, pieces in _modes(len(prompt)):
            bar.stage(mode, 1)
            report.differences.append(compare(mode, compiled_logits(model, prompt, pieces), reference, report.tolerance))
            bar.advance(1)
        if artifact.manifest.get("num_drafts"):
            bar.stage("speculation", 1)
            count = min(SPECULATED, len(prompt)) if simulate else SPECULATED
            report.speculation_identical = _speculation(model, prompt, int(artifact.manifest["max_context"]), count)
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


def _speculation(model: Model | ProgramModel, prompt: Sequence[int], context: int, count: int) -> bool | None:
    """Are `count` greedy tokens with and without drafts the same? None where the context leaves no room."""
    start = list(prompt[: max(1, min(len(prompt), context - count - 8))])
    room = min(count, context - len(start))
    if room < 2:
        return None
    runs = []
    for speculate in (False, True):
        with model.session() as session:
            drafts = model.num_drafts if speculate else None  # all of them, however slow
            runs.append(session.generate(start, max_new_tokens=room, speculate=speculate, drafts=drafts).tokens)
    return runs[0] == runs[1]
