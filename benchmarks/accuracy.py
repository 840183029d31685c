"""Accuracy of the weight formats on a trained checkpoint: bits per byte and KL divergence against float32 weights.

python benchmarks/accuracy.py [--checkpoint DIR] [--text FILE] [--artifacts DIR] [--formats f32,bf16,int8,int4]

Builds one artifact a format (kept in --artifacts and used again), reads the text in windows of 1024 tokens that overlap
by half, and prints one JSON object a format. KL is the mean over tokens of KL(f32 || format) in nats; `same_token` is
how often the most likely token is the same.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import pangu_compile
from pangu_compile.models.train.evaluate import windows
from pangu_compile.models.train.tokenizer import bos_id
from pangu_compile.runtime import Model

ROOT = Path(__file__).resolve().parents[1]


def log_probabilities(artifact: Path, rows: list[tuple[list[int], int]], threads: int) -> list[np.ndarray]:
    """For each window: log p [scored tokens, vocabulary] of the tokens from `first` on."""
    found = []
    with Model(artifact, threads=threads) as model:
        for tokens, first in rows:
            with model.session(speculate=False) as session:
                logits = np.asarray(session.prefill(tokens, all_logits=True), np.float64)[first - 1 : -1]
            logits -= logits.max(-1, keepdims=True)
            found.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return found


def measure(artifact: Path, rows: list[tuple[list[int], int]], nbytes: int, threads: int,
            reference: list[np.ndarray] | None) -> tuple[dict[str, float], list[np.ndarray]]:  # fmt: skip
    """Figures of one artifact, and its log probabilities."""
    logp = log_probabilities(artifact, rows, threads)
    nats = -sum(float(np.take_along_axis(p, np.array(t[f:])[:, None], -1).sum()) for p, (t, f) in zip(logp, rows, strict=True))
    figures = {"bits_per_byte": nats / math.log(2) / nbytes, "weights_bytes": (artifact / "weights.safetensors").stat().st_size}
    if reference is not None:
        count = sum(len(p) for p in logp)
        pairs = list(zip(reference, logp, strict=True))
        figures["kl_nats"] = sum(float((np.exp(p) * (p - q)).sum()) for p, q in pairs) / count
        figures["same_token"] = sum(int((p.argmax(-1) == q.argmax(-1)).sum()) for p, q in pairs) / count
    return figures, logp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "models/openpangu-2.0-tiny")
    parser.add_argument("--text", type=Path, default=ROOT / "tests/data/held_out.txt")
    parser.add_argument("--artifacts", type=Path, help="folder of FORMAT.pangu; those that are missing are built")
    parser.add_argument("--formats", default="f32,bf16,int8,int4", help="the first is the reference")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    folder = options.artifacts or Path(tempfile.mkdtemp(prefix="pangu-accuracy-"))
    tokenizer = Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))
    text = options.text.read_text()
    rows = windows(tokenizer.encode(text).ids, bos_id(tokenizer))
    reference, base = None, 0.0
    for weights in options.formats.split(","):
        artifact = folder / f"{weights}.pangu"
        if not artifact.exists():
            pangu_compile.build(options.checkpoint, artifact, weights=weights, max_context=1024)
        figures, logp = measure(artifact, rows, len(text.encode()), options.threads, reference)
        if reference is None:
            reference, base = logp, figures["bits_per_byte"]
        figures["bits_per_byte_change"] = figures["bits_per_byte"] / base - 1
        print(json.dumps({"weights": weights, **{k: round(v, 6) for k, v in figures.items()}}), flush=True)


if __name__ == "__main__":
    main()
