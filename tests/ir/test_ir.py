"""The IR: text form, verifier, operator records, interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.ir import (
    DType,
    IRError,
    Module,
    OpDef,
    Value,
    all_opdefs,
    dim,
    make_node,
    new_graph,
    parse_graph,
    print_graph,
    run_graph,
    symbol,
    tensor,
    verify_graph,
)
from pangu_compile.ir.opdef import define
from pangu_compile.ir.types import same_dim

T, S = symbol("T"), symbol("S")

TEXT = """\
func @layer(%x: f32[T, 4], %w: f32[6, 4], %i: i64[T]) {
  %v0 = transpose(%w) {perm=(1, 0)} : f32[4, 6]
  %v1 = matmul(%x, %v0) : f32[T, 6]
  %v2 = constant() {dtype='f32', value=-inf} : f32[]
  %v3 = iota() {dtype='i64', size=<S + T>} : i64[S + T]
  %v4, %v5 = topk(%v1) {k=2} : f32[T, 2], i64[T, 2]
  %v6 = reshape(%v4) {shape=(<2*T>,)} : f32[2*T]  // model.layers.0
  %v7 = take(%w, %v5) : f32[T, 2, 4]
  %v8 = reduce_sum(%v7) {axes=(1,)} : f32[T, 1, 4]
  return %v8, %v6, %v3
}
"""


def test_text_round_trips():
    graph = parse_graph(TEXT)
    verify_graph(graph)
    assert print_graph(graph) == TEXT


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("f32[T, 6]\n", "f32[T, 5]\n", "inferred"),
        ("matmul(%x, %v0)", "matmul(%x, %w)", "inner sizes"),
        ("matmul(%x, %v0)", "matmul(%x, %nope)", "not defined"),
        ("transpose(%w)", "transposed(%w)", "unknown operator"),
        ("perm=(1, 0)", "perm=(1, 1)", "not a permutation"),
        ("take(%w, %v5)", "take(%w, %v4)", "indices must be i64"),
        ("<2*T>", "<3*T>", "changes the number of elements"),
        ("axes=(1,)", "axes=(3,)", "axes"),
        ("%v6 =", "%v4 =", "again"),
        ("k=2}", "k=7}", "topk of 7"),
    ],
)
def test_wrong_text_is_refused(old, new, message):
    assert TEXT.count(old) >= 1
    with pytest.raises(IRError, match=message):
        parse_graph(TEXT.replace(old, new, 1))


def test_verifier_denies():
    graph = parse_graph(TEXT)
    graph.nodes[1], graph.nodes[0] = graph.nodes[0], graph.nodes[1]
    with pytest.raises(IRError, match="before it is defined"):
        verify_graph(graph)
    graph = parse_graph(TEXT)
    graph.nodes[0].attrs["extra"] = 1
    with pytest.raises(IRError, match="attributes"):
        verify_graph(graph)
    graph = parse_graph(TEXT)
    graph.nodes[1].output.type = tensor(DType.f64, T, 6)
    with pytest.raises(IRError, match="inferred"):
        verify_graph(graph)
    graph = parse_graph(TEXT)
    graph.outputs.append(Value("ghost", tensor(DType.f32)))
    with pytest.raises(IRError, match="not defined"):
        verify_graph(graph)


def test_calls_are_checked():
    callee = parse_graph(TEXT)
    caller, build = new_graph("caller")
    caller.params = [Value("a", tensor(DType.f32, T, 4))]
    node = make_node("neg", caller.params)
    node.op, node.attrs = "call", {"function": "layer"}
    build.nodes.append(node)
    caller.outputs = node.outputs
    module = Module(functions={"layer": callee})
    with pytest.raises(IRError, match="1 operands for 3 parameters"):
        verify_graph(caller, module)
    with pytest.raises(IRError, match="unknown function"):
        verify_graph(caller, Module())


def test_duplicate_operator_is_refused():
    record = next(iter(all_opdefs().values()))
    with pytest.raises(IRError, match="defined twice"):
        define(OpDef(record.name, 1, record.infer, record.evaluate, {}))


def test_interpreter_runs_the_text():
    graph = parse_graph(TEXT)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 4)), rng.standard_normal((6, 4))
    summed, values, counted = run_graph(graph, [x, w, np.zeros(3, np.int64)], {"T": 3, "S": 2})
    scores = x @ w.T
    order = np.argsort(-scores, 1, kind="stable")[:, :2]
    np.testing.assert_allclose(values.reshape(3, 2), np.take_along_axis(scores, order, 1))
    np.testing.assert_allclose(summed[:, 0], w[order].sum(1))
    assert counted.tolist() == [0, 1, 2, 3, 4]


def test_selection_ties_take_the_lowest_index():
    for text, expected in (("topk(%x) {k=3}", [1, 3, 0]), ("sort(%x) {descending=True}", [1, 3, 0, 2, 4])):
        types = f"f32[1, {len(expected)}], i64[1, {len(expected)}]"
        graph = parse_graph(f"func @f(%x: f32[1, 5]) {{\n  %a, %b = {text} : {types}\n  return %b\n}}")
        (got,) = run_graph(graph, [np.array([[0.0, 1.0, 0.0, 1.0, 0.0]])], {})
        assert got.tolist() == [expected]


def test_dimensions_compare_by_value():
    assert same_dim(dim((S + T) * 2), dim(2 * T + 2 * S))
    assert dim(T - T + 3) == 3 and isinstance(dim(T - T + 3), int)


def test_every_operator_has_a_complete_record():
    for name, record in all_opdefs().items():
        assert record.name == name and callable(record.infer) and callable(record.evaluate)
        assert 0 < record.tolerance < 1e-2
        known = record.signature
        for result, slot in record.updates.items():
            assert known is not None and result in known.results and slot in known.slots
