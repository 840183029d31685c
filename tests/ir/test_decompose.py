"""Decompositions: every fused operator has one, and it computes what the operator's numpy semantics say."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.ir import Graph, IRError, Module, Program, Role, Value, all_opdefs, run_graph, verify_graph, verify_module
from pangu_compile.ir.builder import Builder
from pangu_compile.ir.decompose import decomposable, decompose, decompose_graph, decompose_node
from pangu_compile.ir.decompose.table import plain

from .fused_cases import F32, Case, T, all_cases, f32

TOLERANCE = 1e-12
SEEDS = range(6)
# (tokens of the call, rows cached, position of the first token): a prompt's start, a decode step, a chunk past the window.
CALLS = ((6, 0, 0), (1, 9, 9), (2, 5, 1), (9, 17, 130))


def assert_same(case: Case, got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
        else:
            assert np.isfinite(b).all()
            scale = max(float(np.abs(b).max(initial=0.0)), 1e-300)
            assert float(np.abs(a - b).max(initial=0.0)) <= TOLERANCE * scale, str(case)


def test_every_fused_operator_has_a_decomposition_and_cases() -> None:
    fused = {name for name, op in all_opdefs().items() if op.kind == "fused"} | {"expert_linear"}
    assert fused == set(decomposable())
    assert fused == {case.op for case in all_cases(0)}


@pytest.mark.parametrize("op", decomposable())
@pytest.mark.parametrize("seed", SEEDS)
def test_decomposition_computes_the_same(op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in all_cases(seed):
        if case.op != op:
            continue
        graph, _ = case.node()
        lowered = decompose_graph(graph)
        verify_graph(lowered)
        kinds = {node.op: all_opdefs()[node.op].kind for node in lowered.nodes}
        assert not {"fused"} & set(kinds.values()) and not set(kinds) & set(decomposable())
        for tokens, rows, start in CALLS:
            env = {"T": tokens, "S": rows}
            arrays = case.arrays(env, rng, start)
            got, expected = (run_graph(g, arrays, env, wide=True) for g in (lowered, graph))
            assert_same(case, got, expected)


@pytest.mark.parametrize("op", ["dsa_attention", "moe_gate"])
@pytest.mark.parametrize("seed", SEEDS)
def test_equal_scores_choose_the_lowest_index(op: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in (c for c in all_cases(seed) if c.op == op):
        graph, _ = case.node()
        env = {"T": 7, "S": 30}
        arrays = case.arrays(env, rng, 30, ties=True)
        assert_same(case, run_graph(decompose_graph(graph), arrays, env), run_graph(graph, arrays, env))


def test_only_the_results_of_the_node_are_computed() -> None:
    case = next(c for c in all_cases(0) if c.op == "mla_prologue" and "cache" not in c.operands)
    graph, node = case.node()
    lowered = decompose_graph(graph)
    assert [v.type for v in lowered.outputs] == [v.type for v in node.outputs]
    used = lowered.uses()
    assert all(any(used[v] for v in n.outputs) for n in lowered.nodes)


def test_module_keeps_its_tables_and_the_original() -> None:
    case = next(c for c in all_cases(0) if c.op == "linear")
    graph, _ = case.node()
    roles = [Role("input", "x"), Role("weight", "w")]
    module = Module(programs={"p": Program(graph, roles, [Role("output", "y")], ("T",))}, weights={"w": case.operands["w"]})
    lowered = decompose(module)
    verify_module(lowered)
    assert [n.op for n in lowered.programs["p"].graph.nodes] == ["transpose", "matmul"]
    assert [n.op for n in graph.nodes] == ["linear"] and lowered.weights == module.weights
    kept = decompose(module, ["rms_norm"])
    assert [n.op for n in kept.programs["p"].graph.nodes] == ["linear"]


def test_a_second_decomposition_and_unknown_operators_are_refused() -> None:
    with pytest.raises(IRError, match="decomposed twice"):
        plain("linear")(lambda e, attrs, x, w: x)
    with pytest.raises(IRError, match="unknown operator"):
        plain("no_such_operator")(lambda e, attrs, x: x)
    graph = Graph("f")
    graph.params = [Value("x", f32(T))]
    neg = Builder(graph.nodes)("neg", graph.params[0]).producer
    assert neg is not None and F32 is neg.output.type.dtype
    with pytest.raises(IRError, match="'neg' has no decomposition"):
        decompose_node(Builder([]), neg, graph.params)
