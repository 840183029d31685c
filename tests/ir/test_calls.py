"""Calls whose callee runs at other sizes than the caller: the `dims` attribute."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.ir import (
    DType,
    Graph,
    IRError,
    Module,
    Program,
    Role,
    dim,
    inline_calls,
    parse_graph,
    print_graph,
    run_graph,
    symbol,
    tensor,
    verify_graph,
    verify_module,
)
from pangu_compile.ir.types import unify

T, S = symbol("T"), symbol("S")

INNER = """\
func @inner(%x: f32[T, 3], %c: f32[S, 3]) {
  %v0 = concat(%c, %x) {axis=0} : f32[S + T, 3]
  %v1 = size() {value=<S + T>} : i64[]
  return %v0, %v1
}
"""
MIDDLE = """\
func @middle(%x: f32[T, 3], %c: f32[S, 3]) {
  %v0, %v1 = call(%x, %c) {function='inner'} : f32[S + T, 3], i64[]
  %v2 = slice(%v0) {axis=0, start=<S>, stop=<S + T>} : f32[T, 3]
  return %v2, %v1
}
"""
OUTER = """\
func @outer(%x: f32[T, 3], %c: f32[S, 3]) {
  %v0 = slice(%x) {axis=0, start=0, stop=1} : f32[1, 3]
  %v1, %v2 = call(%v0, %c) {dims=(('T', 1),), function='inner'} : f32[S + 1, 3], i64[]
  %v3, %v4 = call(%x, %v1) {dims=(('T', <T>), ('S', <S + 1>)), function='middle'} : f32[T, 3], i64[]
  return %v1, %v2, %v3, %v4
}
"""


def module() -> Module:
    graphs = [parse_graph(text) for text in (INNER, MIDDLE, OUTER)]
    return Module(functions={g.name: g for g in graphs})


def run(module: Module, graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return run_graph(graph, [rng.random((4, 3)), rng.random((6, 3))], {"T": 4, "S": 6}, module)


def test_text_round_trips():
    graph = parse_graph(OUTER)
    verify_graph(graph, module())
    assert print_graph(graph) == OUTER
    assert graph.nodes[1].dims == {"T": 1} and graph.nodes[2].dims == {"T": T, "S": S + 1}


def test_sizes_inside():
    m = module()
    verify_module(m)
    joined, count, rows, whole = run(m, m.functions["outer"])
    assert joined.shape == (7, 3) and count == 7 and rows.shape == (4, 3) and whole == 11


@pytest.mark.parametrize("names", [{"inner"}, {"middle"}, {"inner", "middle"}])
def test_inlining_keeps_the_sizes(names):
    m = module()
    expected = run(m, m.functions["outer"])
    outer = m.functions["outer"]
    for _ in range(2):  # what was inlined may call again
        inline_calls(outer, m.functions, names)
    verify_module(m)
    for was, now in zip(expected, run(m, outer), strict=True):
        np.testing.assert_array_equal(was, now)
    called = {n.attrs["function"] for n in outer.nodes if n.op == "call"}
    assert called == {"inner", "middle"} - names or called == {"inner"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("('T', 1)", "('T', 2)", "operand"),
        ("dims=(('T', 1),), ", "", "operand"),
        ("f32[S + 1, 3], i64[]", "f32[S + T, 3], i64[]", "inferred"),
        ("(('T', 1),)", "(('T', 1), ('T', 1))", "pairs"),
        ("(('T', 1),)", "('T', 1)", "pairs"),
        ("dims=(('T', 1),)", "sizes=(('T', 1),)", "expected function"),
    ],
)
def test_wrong_sizes_are_refused(old, new, message):
    assert OUTER.count(old) == 1
    with pytest.raises(IRError, match=message):
        verify_graph(parse_graph(OUTER.replace(old, new)), module())


def test_unify():
    f32 = DType.f32
    params = [tensor(f32, T, 3), tensor(f32, S, 3)]
    assert unify(params, [tensor(f32, T + 1, 3), tensor(f32, S - T, 3)]) == {"T": dim(T + 1), "S": dim(S - T)}
    assert unify(params, [tensor(f32, 4, 3), tensor(f32, S, 3)]) == {"T": 4, "S": S}
    assert unify(params, [tensor(f32, T, 4), tensor(f32, S, 3)]) is None
    assert unify([tensor(f32, T, T)], [tensor(f32, 4, 5)]) is None
    assert unify([tensor(f32, T)], [tensor(DType.i64, 4)]) is None


def test_a_program_passes_its_own_sizes():
    """Sizes of a call are expressions in the program's symbols; states may have derived sizes too."""
    text = """\
func @p(%x: f32[T, 3], %c: f32[-T + S, 3]) {
  %v0, %v1 = call(%x, %c) {dims=(('S', <-T + S>),), function='inner'} : f32[S, 3], i64[]
  return %v0, %v1
}
"""
    m = module()
    graph = parse_graph(text)
    m.programs["p"] = Program(
        graph, [Role("input", "x"), Role("input", "c")], [Role("output", "y"), Role("output", "n")], ("T", "S")
    )
    verify_module(m)
    y, n = run_graph(graph, [np.ones((2, 3)), np.zeros((5, 3))], {"T": 2, "S": 7}, m)
    assert y.sum() == 6 and n == 7
