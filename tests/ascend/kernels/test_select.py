"""Routing, argmax, draft verification and the indexer on the simulator: exact choices, lowest index among equals."""

from __future__ import annotations

import catalogue
import numpy as np
import pytest
from kernel_harness import Library, from_bf16, from_split, to_bf16, to_split

from pangu_compile.ir.ops.attention import _causal, index_scores
from pangu_compile.ir.ops.norm import sigmoid

MODES = ("random", "equal", "coarse", "large")


def scores(rng: np.random.Generator, mode: str, *shape: int) -> np.ndarray:
    values = {
        "random": rng.normal(size=shape),
        "equal": np.full(shape, 0.5),
        "coarse": rng.integers(-2, 3, size=shape) * 1.0,
        "large": rng.choice([-1e4, 1e4, 0], size=shape),
    }
    return values[mode].astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", catalogue.TOKENS)
@pytest.mark.parametrize("name", list(catalogue.GATE))
def test_routing(library: Library, name: str, tokens: int, mode: str) -> None:
    rng, s = np.random.default_rng(tokens), catalogue.GATE[name]
    logits = scores(rng, mode, tokens, s["experts"])
    bias = (rng.integers(-2, 3, size=s["experts"]) * 0.25).astype(np.float32)
    exact = sigmoid(logits.astype(np.float64))
    biased = exact + (bias if s["bias"] else 0)
    got = library.run(name, {"tokens": tokens}, logits=logits, **({"bias": bias} if s["bias"] else {}))
    index = got["index"].reshape(tokens, s["k"])
    if mode == "random":  # float32 may exchange scores that float64 tells apart by a hair
        chosen = np.take_along_axis(biased, index, -1)
        assert np.abs(chosen + np.sort(-biased, -1)[:, : s["k"]]).max() < 1e-6
    else:
        assert (index == np.argsort(-biased.astype(np.float32), -1, kind="stable")[:, : s["k"]]).all()
    weight = np.take_along_axis(exact, index, -1)
    weight = weight / (weight.sum(-1, keepdims=True) + s["eps"]) if s["normalise"] else weight
    assert np.allclose(got["weight"].reshape(weight.shape), weight * s["scale"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1, 3, 70])
@pytest.mark.parametrize("name", list(catalogue.ARGMAX))
def test_argmax(library: Library, name: str, tokens: int, mode: str) -> None:
    s = catalogue.ARGMAX[name]
    tokens = min(tokens, 3) if s["columns"] > 1000 else tokens
    logits = scores(np.random.default_rng(tokens), mode, tokens, s["columns"])
    values = from_bf16(to_bf16(logits)) if s.get("dtype") else logits
    got = library.run(name, {"tokens": tokens}, logits=to_bf16(logits) if s.get("dtype") else logits)["index"]
    assert (got == values.argmax(-1)).all()


def test_argmax_at_both_ends(library: Library) -> None:
    logits = np.zeros((2, 9000), np.float32)
    logits[0, 8999] = logits[1, 0] = 1
    assert library.run("argmax_9000", {"tokens": 2}, logits=logits)["index"].tolist() == [8999, 0]


@pytest.mark.parametrize("sequences", [1, 3, 70])
@pytest.mark.parametrize("name", list(catalogue.VERIFY))
def test_verification_accepts_the_longest_prefix(library: Library, name: str, sequences: int) -> None:
    rng, k = np.random.default_rng(sequences), catalogue.VERIFY[name]["drafts"]
    drafts = rng.integers(151_540, 151_543, size=(sequences, k)).astype(np.int32)
    own = rng.integers(151_540, 151_543, size=(sequences, k + 1)).astype(np.int32)
    own[0, :k] = drafts[0]
    got = library.run(name, {"sequences": sequences}, drafts=drafts, tokens=own)["result"].reshape(sequences, 2)
    accepted = np.cumprod(drafts == own[:, :k], -1).sum(-1)
    assert (got[:, 0] == accepted).all() and (got[:, 1] == own[np.arange(sequences), accepted]).all()


@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (1, 500), (5, 63), (70, 0), (3, 128)])
@pytest.mark.parametrize("name", list(catalogue.INDEX_SCORE))
def test_index_scores(library: Library, name: str, tokens: int, start: int) -> None:
    rng, s = np.random.default_rng(tokens), catalogue.INDEX_SCORE[name]
    to_rows, from_rows = (to_split, from_split) if s.get("row_type") == "split" else (to_bf16, from_bf16)
    iq, keys = (to_rows(rng.normal(size=size)) for size in ((tokens, s["heads"], s["channels"]), (start + tokens, s["channels"])))
    weight = rng.normal(size=(tokens, s["heads"])).astype(np.float32)
    stored = weight if "weight_type" in s else to_bf16(weight)
    used = weight if "weight_type" in s else from_bf16(stored)
    got = library.run(name, {"tokens": tokens, "start": start}, cores=20, iq=iq, keys=keys, weight=stored)["scores"]
    want = index_scores(from_rows(iq), used.astype(np.float64), from_rows(keys), s["scale"])
    causal = _causal(tokens, start + tokens)
    assert np.abs(got.reshape(want.shape) - want)[causal].max() <= 1e-5 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("tokens", "start"), [(1, 0), (1, 3000), (2, 9000), (5, 63), (70, 10)])
@pytest.mark.parametrize("name", list(catalogue.TOPK))
def test_topk_is_exact(library: Library, name: str, tokens: int, start: int, mode: str) -> None:
    top = catalogue.TOPK[name]["top"]
    tokens = min(tokens, 5) if top > 1000 else tokens
    causal = _causal(tokens, start + tokens)
    values = np.where(causal, scores(np.random.default_rng(start), mode, tokens, start + tokens), np.float32(2e4))
    got = library.run(name, {"tokens": tokens, "start": start}, scores=values)["index"].reshape(tokens, top)
    order = np.argsort(-np.where(causal, values, -np.inf), -1, kind="stable")
    for t in range(tokens):
        count = min(top, start + t + 1)
        assert (got[t, :count] == order[t, :count]).all()
