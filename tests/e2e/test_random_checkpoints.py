"""Random checkpoints over the whole configuration space: compiled float32 against the torch reference in float64.

For every seed one build serves all checks: logits whatever the chunks, decoding after a prefill, the same greedy tokens,
and speculation on and off. The models are random, so nearly all drafts are rejected: the hard case for rollback.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import pangu_compile
from pangu_compile.models.loading import load_reference
from pangu_compile.models.random_checkpoint import random_config, write_random_checkpoint
from pangu_compile.runtime import Model, Session

torch.set_num_threads(1)

SEEDS = range(40)
TOLERANCE = 2e-4  # of the largest |logit|
PROMPT = 130
GENERATED = 500


def build(folder: Path, seed: int) -> Path:
    config = dataclasses.replace(random_config(seed), max_position_embeddings=1024)
    write_random_checkpoint(
        folder / "checkpoint", config, seed=seed, dtype=("bf16", "f32", "f16")[seed % 3], stacked_experts=seed % 2 == 0,
        shards=1 + seed % 3, bias_in_gate=seed % 4 == 1, copies=seed % 5 == 2, mhc_f32=seed % 7 == 3,
    )  # fmt: skip
    out = folder / "model.pangu"
    pangu_compile.build(folder / "checkpoint", out, max_context=700, opt_level=1, jobs=1)
    return out


def pieces(total: int, seed: int) -> list[list[int]]:
    """Ways to cut a prompt: whole, 64s, 7s, ones, and two random cuts."""
    rng = np.random.default_rng(seed)
    ways = [[total], *([size] * (total // size) + ([total % size] if total % size else []) for size in (64, 7, 1))]
    for _ in range(2):
        cuts = sorted({*rng.integers(1, total, 4).tolist(), 0, total})
        ways.append([b - a for a, b in itertools.pairwise(cuts)])
    return ways


def run_pieces(session: Session, tokens: list[int], sizes: list[int]) -> np.ndarray:
    rows, at = [], 0
    for size in sizes:
        part = tokens[at : at + size]
        rows.append(session.prefill(part, all_logits=True) if size > 1 else session.decode(part[0])[None])
        at += size
    return np.concatenate(rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_compiled_equals_reference(seed, tmp_path):
    out = build(tmp_path, seed)
    reference = load_reference(tmp_path / "checkpoint", dtype=torch.float64)
    tokens = np.random.default_rng(seed + 1000).integers(0, reference.config.vocab_size, PROMPT).tolist()
    with torch.no_grad():
        expected = reference(torch.tensor([tokens]))[0].numpy()
    scale = float(np.abs(expected).max())
    with Model(out, threads=1 + seed % 2) as model:
        for sizes in pieces(PROMPT, seed):
            with model.session() as session:
                got = run_pieces(session, tokens, sizes)
            assert np.abs(got - expected).max() <= TOLERANCE * scale, sizes
            assert (got.argmax(-1) == expected.argmax(-1)).all(), sizes
        if model.num_drafts:
            check_speculation(model, tokens[: 3 + seed])


def check_speculation(model: Model, prompt: list[int]) -> None:
    results = []
    for drafts in (0, model.num_drafts, 1):
        with model.session(speculate=drafts > 0) as session:
            results.append(session.generate(prompt, max_new_tokens=GENERATED, speculate=drafts > 0, drafts=drafts or None))
    plain, drafted, fewer = results
    assert len(plain.tokens) == GENERATED and plain.tokens == drafted.tokens == fewer.tokens
    assert plain.stats.steps == GENERATED - 1 and sum(plain.stats.drafted) == 0
    assert drafted.stats.drafted[0] >= drafted.stats.steps - model.num_drafts
