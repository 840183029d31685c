"""Measures an artifact: prefill, decode, speculation, and how near decoding comes to a plain read of memory."""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pangu_compile.errors import UserError

from .artifact import WEIGHTS, Artifact
from .targets.program import ProgramModel

if TYPE_CHECKING:
    from pangu_compile.runtime import Model, Stats

READ_BYTES = 1 << 30  # of the weights, at most, that one plain read passes over
Stage = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Speculation:
    """Greedy generation with drafts. drafts: at most so many in a step; None: as many as the runtime chooses.

    acceptance: by depth, None where no draft of that depth was made; drafted: how often one was, in `steps` steps.
    """

    drafts: int | None
    tokens_per_second: float
    acceptance: Sequence[float | None]
    drafted: Sequence[int]
    steps: int


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """One measurement, medians of its repetitions. Bytes of a decode step are those of the weights that it reads.

    random_prompt: the tokens were drawn at random, so that the acceptance of drafts means nothing.
    read_gigabytes_per_second: a plain read of the weight file by as many threads, in the same run; None, as is all that
    follows from it, for targets that do not read their weights from this machine's memory.
    """

    prompt_tokens: int
    new_tokens: int
    threads: int
    random_prompt: bool
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    step_bytes: int | None
    decode_gigabytes_per_second: float | None
    read_gigabytes_per_second: float | None
    share_of_read: float | None
    speculation: Sequence[Speculation]


def step_bytes(manifest: Mapping[str, Any]) -> int:
    """Bytes of weights that one decode step of the trunk reads: of the routed experts those that are chosen."""
    config = manifest["config"]
    layers, chosen = config["num_hidden_layers"], config.get("num_experts_per_tok") or 0
    total = 0
    for name, tensor in manifest["tensors"].items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if name.startswith("model.embed_tokens") or (layer is not None and int(layer[1]) >= layers):
            continue
        routed = ".mlp.experts." in name
        total += tensor["nbytes"] * chosen // config["n_routed_experts"] if routed else tensor["nbytes"]
    return total


def plain_read(file: Path, threads: int, least_seconds: float = 0.2) -> float:
    """Bytes a second at which `threads` threads add up the words of a file in memory: the best pass after the first."""
    words = np.memmap(file, np.uint64, "r", shape=(min(file.stat().st_size, READ_BYTES) // 8,))
    parts = np.array_split(words, threads)
    best, spent = float("inf"), 0.0
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.add.reduce, parts))
        while spent < least_seconds or best == float("inf"):
            begin = time.perf_counter()
            list(pool.map(np.add.reduce, parts))
            seconds = time.perf_counter() - begin
            best, spent = min(best, seconds), spent + seconds
    return words.nbytes / best


def bench(
    model: Model | ProgramModel, artifact: Artifact, prompt: Sequence[int] | int, new_tokens: int, repeats: int = 3,
    stage: Stage = lambda _: None,
) -> BenchResult:  # fmt: skip
    """Prefill, decode and speculative decode of a prompt, or of that many random tokens.

    Raises:
        UserError: an empty prompt, or more tokens than the artifact's context holds.
    """
    manifest = artifact.manifest
    context, count = int(manifest["max_context"]), prompt if isinstance(prompt, int) else len(prompt)
    if count < 1 or new_tokens < 2 or count + new_tokens > context:
        raise UserError(f"{count} prompt and {new_tokens} new tokens do not fit: at least 1 and 2, {context} together")
    ids = prompt if not isinstance(prompt, int) else np.random.default_rng(0).integers(0, manifest["vocab_size"], prompt)
    tokens, threads = [int(t) for t in ids], int(getattr(model, "threads", 1))
    heads = int(manifest.get("num_drafts") or 0)
    kinds: list[int | None] = [0, *range(1, heads + 1), *([None] if heads else [])]
    runs: dict[int | None, list[Stats]] = {kind: [] for kind in kinds}
    reads = []
    for _ in range(repeats):
        for kind in kinds:
            stage("prefill and decode" if kind == 0 else "speculation")
            with model.session(speculate=kind != 0) as session:
                runs[kind].append(session.generate(tokens, new_tokens, speculate=kind != 0, drafts=kind or None).stats)
        if manifest["target"] == "cpu":
            stage("plain read")
            reads.append(plain_read(artifact.path / WEIGHTS, threads))
    rate = _rate(runs[0])
    return BenchResult(
        count, new_tokens, threads, isinstance(prompt, int), count / statistics.median(r.prefill_seconds for r in runs[0]), rate,
        *_traffic(manifest, rate, reads), [_speculation(kind, runs[kind]) for kind in kinds if kind != 0],
    )  # fmt: skip


def _rate(runs: Sequence[Stats]) -> float:
    """Tokens a second; the first one is the prompt's."""
    return (runs[0].new_tokens - 1) / statistics.median(r.decode_seconds for r in runs)


def _speculation(drafts: int | None, runs: Sequence[Stats]) -> Speculation:
    from pangu_compile.runtime import stats_record

    last = stats_record(runs[-1])
    return Speculation(drafts, _rate(runs), last["acceptance"], last["drafted"], last["steps"])


Traffic = tuple[int | None, float | None, float | None, float | None]


def _traffic(manifest: Mapping[str, Any], rate: float, reads: Sequence[float]) -> Traffic:
    """Bytes of a step, bytes a second, a plain read's, and their ratio."""
    if not reads:
        return None, None, None, None
    nbytes, read = step_bytes(manifest), statistics.median(reads)
    return nbytes, nbytes * rate / 1e9, read / 1e9, nbytes * rate / read
