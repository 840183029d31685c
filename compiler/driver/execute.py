"""Runs artifacts for the command line: checks that the machine fits, generates, measures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import UserError

from .artifact import Artifact
from .doctor import missing_features
from .options import ASCEND_TARGETS
from .targets.ascend_run import open_ascend
from .targets.program import ProgramModel

if TYPE_CHECKING:
    from pangu_compile.runtime import Model


def open_model(out: Path, threads: int | None, simulate: bool = False) -> tuple[Artifact, Model | ProgramModel]:
    """The artifact, checked, and its model.

    Raises:
        UserError: damaged, of another version, or built for a CPU that this is not.
    """
    from pangu_compile.runtime import Model

    artifact = Artifact.open(out, check=False)  # the runtime compares the sums when it loads
    if artifact.manifest.get("target") == "torch_npu":
        artifact.check()
        return artifact, ProgramModel(out, threads)
    if artifact.manifest.get("target") in ASCEND_TARGETS:
        return artifact, open_ascend(artifact, threads, simulate)
    if simulate:
        raise UserError(f"--simulate is for Ascend artifacts; {out} was built for {artifact.manifest.get('target')}")
    missing = missing_features(artifact)
    if missing:
        raise UserError(f"{out} was built for a CPU with {' '.join(missing)}, which this machine lacks; build it again")
    return artifact, Model(out, threads=threads)


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """One measurement, the best of its repetitions."""

    prompt_tokens: int
    new_tokens: int
    threads: int | None
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    speculative_tokens_per_second: float | None
    speculation: dict[str, Any] | None


def bench(
    model: Model | ProgramModel, artifact: Artifact, prompt_tokens: int, new_tokens: int, threads: int | None, repeats: int = 3,
    stage: Callable[[str], None] = lambda _: None,
) -> BenchResult:  # fmt: skip
    """Prefill, decode and speculative decode of random tokens."""
    context = int(artifact.manifest["max_context"])
    if prompt_tokens < 1 or new_tokens < 1 or prompt_tokens + new_tokens > context:
        raise UserError(
            f"{prompt_tokens} prompt and {new_tokens} new tokens do not fit: at least 1 each, {context} together"
        )
    prompt = [int(t) for t in np.random.default_rng(0).integers(0, artifact.manifest["vocab_size"], prompt_tokens)]
    prefill, decode = [], []
    for _ in range(repeats):
        stage("prefill and decode")
        with model.session(speculate=False) as session:
            begin = time.perf_counter()
            logits = session.prefill(prompt)
            prefill.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for _ in range(new_tokens):
                logits = session.decode(int(np.argmax(logits)))
            decode.append(time.perf_counter() - begin)
    speed, stats = _speculative(model, artifact, prompt, new_tokens, repeats, stage)
    return BenchResult(
        prompt_tokens, new_tokens, threads, prompt_tokens / min(prefill), new_tokens / min(decode), speed, stats
    )


def _speculative(
    model: Model | ProgramModel, artifact: Artifact, prompt: Sequence[int], new_tokens: int, repeats: int,
    stage: Callable[[str], None],
) -> tuple[float | None, dict[str, Any] | None]:
    if not artifact.manifest.get("num_drafts"):
        return None, None
    from pangu_compile.runtime import stats_record

    best: tuple[float, dict[str, Any]] | None = None
    for _ in range(repeats):
        stage("speculation")
        with model.session() as session:
            record = dict(stats_record(session.generate(prompt, max_new_tokens=new_tokens).stats))
        speed = record["tokens_per_second"] or 0.0
        if best is None or speed > best[0]:
            best = (speed, record)
    assert best is not None
    return best
