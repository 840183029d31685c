"""The MTP rules on what tracing writes: they fire, keep away from what others read, and keep the meaning."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from pangu_compile.ir import IRError, Module, print_graph, run_graph
from pangu_compile.models.layers import RMSNorm
from pangu_compile.models.speculate import accept
from pangu_compile.passes import PASSES, Pass, run_passes
from pangu_compile.trace import trace_module

from .cases import module_of, ops

STEPS = tuple(
    Pass(p.name, p.run) for p in PASSES if p.name in ("canonicalise", "simplify_views", "fuse_layers", "fuse_mtp", "clean_layout")
)
NORM = """\
  %v0 = mul(%x, %x) : f32[4, 6]
  %v1 = reduce_sum(%v0) {axes=(1,)} : f32[4, 1]
  %v2 = constant() {dtype='f32', value=0.16666666666666666} : f32[]
  %v3 = mul(%v1, %v2) : f32[4, 1]
  %v4 = constant() {dtype='f32', value=1e-05} : f32[]
  %v5 = add(%v3, %v4) : f32[4, 1]
  %v6 = rsqrt(%v5) : f32[4, 1]
  %v7 = mul(%x, %v6) : f32[4, 6]
  %v8 = mul(%v7, %gamma) : f32[4, 6]
"""
HEAD = """\
  %v9 = transpose(%w) {perm=(1, 0)} : f32[6, 2]
  %v10 = matmul(%v8, %v9) : f32[4, 2]
  %v11 = argmax(%v10) : i64[4]
"""
ACCEPT = """\
  %v12 = iota() {dtype='i64', size=3} : i64[3]
  %v13 = slice(%v11) {axis=0, start=0, stop=3} : i64[3]
  %v14 = eq(%v13, %drafts) : bool[3]
  %v15 = constant() {dtype='i64', value=3} : i64[]
  %v16 = where(%v14, %v15, %v12) : i64[3]
  %v17 = reduce_min(%v16) {axes=(0,)} : i64[1]
  %v18 = reshape(%v17) {shape=()} : i64[]
  %v19 = iota() {dtype='i64', size=4} : i64[4]
  %v20 = le(%v19, %v18) : bool[4]
  %v21 = constant() {dtype='i64', value=-1} : i64[]
  %v22 = where(%v20, %v11, %v21) : i64[4]
  %v23 = add(%start, %v18) : i64[]
  %v24 = constant() {dtype='i64', value=1} : i64[]
  %v25 = add(%v23, %v24) : i64[]
"""
PARAMS = "%x: f32[4, 6], %drafts: i64[3], %start: i64[], %w: f32[2, 6], %gamma: f32[6]"
WHOLE = f"func @f({PARAMS}) {{\n{NORM}{HEAD}{ACCEPT}  return %v18, %v22, %v25\n}}\n"
TOKENS = f"func @f({PARAMS}) {{\n{NORM}{HEAD}  return %v11\n}}\n"


def fused(text: str) -> Module:
    """After the passes, each of which is validated."""
    return run_passes(module_of(text), validate=True, passes=STEPS)


class Tail(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = RMSNorm(6, 1e-5), torch.nn.Parameter(torch.zeros(2, 6))

    def forward(self, x: torch.Tensor, drafts: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, ...]:
        own = torch.argmax(torch.matmul(self.norm(x), self.head.t()), -1)
        return accept(own, drafts, start)


def test_the_case_is_what_tracing_gives() -> None:
    graph = trace_module(Tail(), [torch.zeros(4, 6), torch.zeros(3).long(), torch.tensor(5)]).programs["forward"].graph
    graph.name = "f"
    for param, name in zip(graph.params, ("x", "drafts", "start", "w", "gamma"), strict=True):
        param.name = name
    for node in graph.nodes:
        node.loc = ""
    assert print_graph(graph) == WHOLE


def test_verification_is_one_operator() -> None:
    module = fused(WHOLE)
    (node,) = module.programs["f"].graph.nodes
    assert node.op == "mtp_verify" and node.attrs["slots"] == ("x", "gamma", "w", "drafts", "start")
    assert node.attrs["eps"] == 1e-5 and node.attrs["results"] == ("accepted", "tokens", "length")
    assert node.outputs == module.programs["f"].graph.outputs


def test_the_norm_is_optional() -> None:
    bare = WHOLE.replace(NORM, "").replace("%v8", "%x").replace(", %gamma: f32[6]", "")
    (node,) = fused(bare).programs["f"].graph.nodes
    assert node.op == "mtp_verify" and node.attrs["slots"] == ("x", "w", "drafts", "start")


def test_a_token_without_its_logits() -> None:
    assert ops(fused(TOKENS)) == ["lm_head_argmax"]
    bare = TOKENS.replace(NORM, "").replace("%v8", "%x")
    (node,) = fused(bare).programs["f"].graph.nodes
    assert node.op == "lm_head_argmax" and node.attrs["slots"] == ("x", "w")


def test_a_norm_that_others_read_stays() -> None:
    assert ops(fused(TOKENS.replace("return %v11", "return %v11, %v8"))) == ["rms_norm", "lm_head_argmax"]


def test_logits_that_others_read_stay() -> None:
    for text in (TOKENS, WHOLE):
        left = ops(fused(text.replace("return ", "return %v10, ")))
        assert left[:3] == ["rms_norm", "linear", "argmax"] and not {"mtp_verify", "lm_head_argmax"} & set(left)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return %v18", "return %v11, %v18"),  # the tokens themselves are wanted: they would be computed twice
        ("value=3} : i64[]", "value=2} : i64[]"),  # at most two would be accepted
        ("value=-1}", "value=0}"),
        ("value=1} : i64[]", "value=2} : i64[]"),
        ("start=0, stop=3", "start=1, stop=4"),  # compares with the token after
        ("%v20 = le(", "%v20 = lt("),  # no bonus token
        ("%v14 = eq(", "%v14 = ne("),
        ("%v17 = reduce_min(", "%v17 = reduce_max("),
        ("where(%v20, %v11, %v21)", "where(%v20, %v21, %v11)"),
        ("where(%v14, %v15, %v12)", "where(%v14, %v12, %v15)"),
    ],
)
def test_anything_else_is_left_alone(old: str, new: str) -> None:
    assert WHOLE.count(old) == 1
    left = ops(fused(WHOLE.replace(old, new)))
    assert "mtp_verify" not in left and "lm_head_argmax" in left


def test_heads_that_are_computed_are_left_alone() -> None:
    """Only a stored matrix is read row by row; one that is computed has to be whole first."""
    doubled = "  %double = add(%w, %w) : f32[2, 6]\n  %v9 = transpose(%double) {perm=(1, 0)} : f32[6, 2]"
    left = ops(fused(re.sub(r"^  %v9 = .*$", doubled, TOKENS, flags=re.M)))
    assert "lm_head_argmax" not in left and "matmul" in left


def test_every_number_of_accepted_drafts() -> None:
    """The fused graph and the traced one agree on random rows; a vocabulary of two makes all four verdicts common."""
    before, after = module_of(WHOLE).programs["f"].graph, fused(WHOLE).programs["f"].graph
    rng, seen = np.random.default_rng(0), set()
    for start in range(60):
        drafts = rng.integers(0, 2, 3)
        arrays = [rng.standard_normal((4, 6)), drafts, np.asarray(start), rng.standard_normal((2, 6)), rng.random(6) + 0.5]
        expected, got = run_graph(before, arrays, {}), run_graph(after, arrays, {})
        for was, now in zip(expected, got, strict=True):
            np.testing.assert_array_equal(was, now)
        seen.add(int(got[0]))
    assert seen == {0, 1, 2, 3}


def test_a_broken_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation names the pass of a rule that keeps one draft too many."""
    from pangu_compile.ir.ops import mtp

    real = mtp._finish
    monkeypatch.setattr(mtp, "_finish", lambda drafts, accepted, own, start: real(drafts, accepted + 1, own, start))
    with pytest.raises(IRError, match="pass fuse_mtp changed f's output"):
        fused(WHOLE)
