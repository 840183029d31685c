"""Counting operators: calls multiply, chains split, views and constants run nothing."""

from __future__ import annotations

from collections import Counter

from pangu_compile.ir import Module
from pangu_compile.report.counts import FUSED, executed, fused, launched, primitives_left, programs_of


def test_calls_multiply(module: Module) -> None:
    counts = executed(module, module.programs["step"].graph)
    assert counts == Counter(linear=3, concat=2, moe_gate=2, moe_ffn=2, take=2, softmax=1, reshape=1)
    assert launched(counts) == sum(counts.values()) - 1  # the reshape
    assert executed(module, module.functions["layer_0"])["moe_ffn"] == 1


def test_calls_inside_functions_multiply_too(module: Module) -> None:
    inner = module.functions["layer_0"]
    outer = module.programs["step"].graph
    module.functions = {"layer_0": inner, "twice": outer}
    calls = [n for n in outer.nodes if n.op == "call"]
    program = module.programs["step"]
    program.graph = type(outer)("step")
    program.graph.nodes = [type(calls[0])("call", [], {"function": "twice"}) for _ in range(2)]
    assert executed(module, program.graph)["moe_ffn"] == 4


def test_a_chain_counts_as_both() -> None:
    counts = fused(Counter(mhc_post_pre=3, mhc_pre=1, mhc_post=1, dsa_attention=2, softmax=9))
    assert counts["mhc_pre"] == 4 and counts["mhc_post"] == 4 and counts["dsa_attention"] == 2
    assert tuple(counts) == FUSED and counts["moe_ffn"] == 0


def test_primitives_left_and_drafts(module: Module) -> None:
    left = primitives_left(executed(module, module.programs["step"].graph))
    assert left == {"softmax": 1, "topk": 0, "sort": 0, "put_rows": 0, "take_along": 0}
    assert programs_of(module, ["draft_1"]) == Counter(take=1, linear=1)
