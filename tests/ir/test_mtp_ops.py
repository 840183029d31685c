"""Operators of multi-token prediction: against brute force, against the distribution they promise, and against the runtime."""

from __future__ import annotations

import ctypes as C
import itertools
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pangu_compile.ir import IRError, Value, make_node, opdef, parse_graph, print_graph, tensor
from pangu_compile.ir.ops.mtp import VERDICT, distribution, draw
from pangu_compile.ir.types import DType

CORE = Path(__file__).resolve().parents[2] / "runtime/core"
VOCAB, DRAFTS = 4, 2
SETTINGS = [(1.0, 0, 1.0), (0.7, 3, 1.0), (1.3, 0, 0.8), (1.0, 3, 0.7)]


def evaluate(op: str, operands: dict[str, Any], **attrs: Any) -> dict[str, np.ndarray]:
    """Results by name of one application."""
    record = opdef(op)
    assert record.signature is not None
    results = record.signature.results
    arrays = [np.asarray(x) for x in operands.values()]
    given = {"slots": tuple(operands), "results": results, **attrs}
    return dict(zip(results, record.evaluate(arrays, given, {}), strict=True))


def sampling(settings: tuple[float, int, float]) -> dict[str, Any]:
    temperature, top_k, top_p = settings
    return {"temperature": np.float32(temperature), "top_k": top_k, "top_p": np.float32(top_p)}


def test_equal_logits_choose_the_lowest_token() -> None:
    w = np.array([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    got = evaluate("lm_head_argmax", {"x": np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), "w": w}, eps=0.0)
    assert got["token"].tolist() == [1, 0, 3]


def test_the_norm_counts() -> None:
    """gamma turns the order of two tokens round; eps keeps a row of zeros finite."""
    x, w = np.array([[1.0, 2.0], [0.0, 0.0]]), np.eye(2)
    assert evaluate("lm_head_argmax", {"x": x, "w": w}, eps=0.0)["token"].tolist() == [1, 0]
    assert evaluate("lm_head_argmax", {"x": x, "gamma": np.array([3.0, 1.0]), "w": w}, eps=1e-5)["token"].tolist() == [0, 0]


@pytest.mark.parametrize("drafts", range(1, 4))
def test_verification_by_brute_force(drafts: int) -> None:
    """Every combination of the trunk's tokens and drafts over a vocabulary of two."""
    w = np.eye(2)
    for own in itertools.product((0, 1), repeat=drafts + 1):
        for guesses in itertools.product((0, 1), repeat=drafts):
            accepted = next((i for i in range(drafts) if own[i] != guesses[i]), drafts)
            got = evaluate("mtp_verify", {"x": w[list(own)], "w": w, "drafts": guesses, "start": 40}, eps=0.0)
            assert got["accepted"] == accepted and got["length"] == 41 + accepted
            assert got["tokens"].tolist() == [*guesses[:accepted], own[accepted], *[-1] * (drafts - accepted)]


def test_sampling_without_temperature_is_greedy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits, drafts = rng.standard_normal((3, VOCAB)), rng.integers(0, VOCAB, DRAFTS)
        common = {"logits": logits, **sampling((0.0, 0, 1.0))}
        token = evaluate("sample_token", {**common, "uniform": rng.random(3)})["token"]
        assert token.tolist() == logits.argmax(-1).tolist()
        operands = {"logits": logits, "draft_probs": np.eye(VOCAB)[drafts], "drafts": drafts, "uniform": rng.random(3)}
        got = evaluate("mtp_verify_sampled", {**operands, **sampling((0.0, 0, 1.0)), "start": 7})
        expected = evaluate("mtp_verify", {"x": logits, "w": np.eye(VOCAB), "drafts": drafts, "start": 7}, eps=0.0)
        assert all(np.array_equal(got[name], expected[name]) for name in VERDICT)


@cache
def context_logits(seed: int, prefix: tuple[int, ...], spread: float) -> np.ndarray:
    """A language model over four tokens: logits that depend on all tokens before."""
    return np.random.default_rng([seed, len(prefix), *prefix]).standard_normal(VOCAB) * spread


def speculative_tokens(rng: np.random.Generator, settings: tuple[float, int, float]) -> tuple[tuple[int, ...], int]:
    """Two drafts by another model, one verification; what is missing of three tokens is drawn from the trunk."""
    options = sampling(settings)
    drafts: list[int] = []
    probs = []
    for _ in range(DRAFTS):
        row = context_logits(9, tuple(drafts), 1.0)[None]
        made = evaluate("sample_token", {"logits": row, **options, "uniform": rng.random(1)})
        drafts.append(int(made["token"][0]))
        probs.append(made["probs"][0])
    rows = np.stack([context_logits(1, tuple(drafts[:i]), 1.0) for i in range(DRAFTS + 1)])
    operands = {"logits": rows, "draft_probs": np.stack(probs), "drafts": drafts, "uniform": rng.random(DRAFTS + 1)}
    got = evaluate("mtp_verify_sampled", {**operands, **options, "start": 0})
    tokens = [int(t) for t in got["tokens"] if t >= 0]
    assert len(tokens) == got["accepted"] + 1
    while len(tokens) < DRAFTS + 1:
        p = distribution(context_logits(1, tuple(tokens), 1.0), *settings)
        tokens.append(draw(p, rng.random()))
    return tuple(tokens), int(got["accepted"])


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_distribution_is_the_trunks(settings: tuple[float, int, float]) -> None:
    """Chi-square of three tokens against the exact probabilities; filtered tokens never appear."""
    rng, count = np.random.default_rng(5), 6000
    seen: dict[tuple[int, ...], int] = {}
    verdicts = set()
    for _ in range(count):
        tokens, accepted = speculative_tokens(rng, settings)
        seen[tokens] = seen.get(tokens, 0) + 1
        verdicts.add(accepted)
    statistic, freedom = 0.0, -1
    for tokens in itertools.product(range(VOCAB), repeat=DRAFTS + 1):
        rows = [distribution(context_logits(1, tokens[:i], 1.0), *settings)[t] for i, t in enumerate(tokens)]
        expected = count * float(np.prod(rows))
        if expected == 0:
            assert tokens not in seen
            continue
        statistic += (seen.get(tokens, 0) - expected) ** 2 / expected
        freedom += 1
    assert verdicts == {0, 1, 2}
    assert statistic < freedom + 4.5 * np.sqrt(2 * freedom), (statistic, freedom)


SHIM = """
#include "pangu_sampling.h"
#include "sampler.h"
extern "C" void distribution(const float *x, int64_t n, float t, int64_t k, float p, double *out) {
  const std::vector<double> got = pangu_core::Filter{t, k, p}.distribution(x, n);
  std::copy(got.begin(), got.end(), out);
}
extern "C" void draws(const double *w, int64_t n, uint64_t seed, int64_t count, double *uniform, int64_t *token) {
  pangu_core::Random random(seed);
  for (int64_t i = 0; i < count; ++i) token[i] = pangu_sampling::draw(w, n, uniform[i] = random.uniform());
}
"""


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> C.CDLL:
    """The runtime's sampler as a library."""
    folder = tmp_path_factory.mktemp("sampler")
    (folder / "shim.cpp").write_text(SHIM)
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-I", str(CORE), "shim.cpp", str(CORE / "sampler.cpp"), "-o", "s.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = C.CDLL(str(folder / "s.so"))
    library.distribution.argtypes = [C.c_void_p, C.c_int64, C.c_float, C.c_int64, C.c_float, C.c_void_p]
    library.draws.argtypes = [C.c_void_p, C.c_int64, C.c_uint64, C.c_int64, C.c_void_p, C.c_void_p]
    return library


@pytest.mark.parametrize("settings", [*SETTINGS, (0.5, 1, 1.0), (2.0, 50, 0.95), (1.0, 0, 1e-6)])
def test_the_runtime_draws_the_same_tokens(sampler: C.CDLL, settings: tuple[float, int, float]) -> None:
    """Same kept tokens, probabilities to the last bits of exp, and the same token for the same uniform number."""
    rng = np.random.default_rng(3)
    temperature, top_k, top_p = settings
    for n in (1, 7, 300):
        logits = np.ascontiguousarray(np.round(rng.standard_normal(n) * 3, 1), np.float32)  # with ties
        theirs, uniform, token = np.empty(n), np.empty(200), np.empty(200, np.int64)
        sampler.distribution(logits.ctypes.data, n, temperature, top_k, top_p, theirs.ctypes.data)
        ours = distribution(logits, float(np.float32(temperature)), top_k, float(np.float32(top_p)))
        assert ((ours > 0) == (theirs > 0)).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=0)
        sampler.draws(theirs.ctypes.data, n, n, 200, uniform.ctypes.data, token.ctypes.data)
        assert [draw(theirs, u) for u in uniform] == token.tolist()


def test_cost_counts_the_heads_weights_once() -> None:
    f32, i64 = DType.f32, DType.i64
    types = [tensor(f32, 3, 8), tensor(f32, 8), tensor(DType.q8, 100, 8), tensor(i64, 2), tensor(i64)]
    node = make_node("mtp_verify", [Value(f"p{i}", t) for i, t in enumerate(types)],
                     {"slots": ("x", "gamma", "w", "drafts", "start"), "results": VERDICT, "eps": 1e-5})  # fmt: skip
    cost = opdef("mtp_verify").cost(types, [v.type for v in node.outputs], node.attrs)
    assert cost.flops == 2 * 3 * 8 * 100
    assert cost.bytes == types[2].nbytes + 4 * (3 * 8 + 8) + 8 * (2 + 1 + 1 + 3 + 1)  # no logits


TEXT = """\
func @f(%x: f32[3, 8], %w: f32[5, 8], %d: i64[2], %s: i64[]) {
  %v0, %v1, %v2 = mtp_verify(%x, %w, %d, %s) {eps=0.0, results=('accepted', 'tokens', 'length'), \
slots=('x', 'w', 'drafts', 'start')} : i64[], i64[3], i64[]
  return %v0, %v1, %v2
}
"""


def test_text_round_trips() -> None:
    assert print_graph(parse_graph(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%d: i64[2]", "%d: i64[3]", "for drafts"),
        ("%d: i64[2]", "%d: f32[2]", "drafts"),
        ("%s: i64[]", "%s: i64[1]", "start"),
        ("%w: f32[5, 8]", "%w: f32[5, 7]", "weight"),
        ("%x: f32[3, 8]", "%x: i64[3, 8]", "hidden rows"),
        ("slots=('x', 'w', 'drafts', 'start')", "slots=('x', 'drafts', 'w', 'start')", "in that order"),
        ("results=('accepted', 'tokens', 'length')", "results=('accepted', 'tokens')", "lack"),
    ],
)
def test_ill_typed_verification_is_refused(old: str, new: str, message: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(IRError, match=message):
        parse_graph(TEXT.replace(old, new))
