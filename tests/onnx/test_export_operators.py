"""Every operator of the IR in onnxruntime: primitive ones one by one, fused ones as ONNX functions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pangu_compile.ir import IRError, all_opdefs, parse_graph, run_graph
from pangu_compile.ir.decompose import decomposable
from pangu_compile.onnx import DOMAIN, export_onnx
from pangu_compile.onnx.emitters import EMITTERS

from ..ir.fused_cases import all_cases
from .running import module_of, run_model

FLOAT_TOLERANCE = 2e-5  # of the largest element: float32 against float64

UNARY = (
    "exp", "sqrt", "rsqrt", "log", "sigmoid", "sin", "cos", "tanh", "reciprocal", "erf", "silu", "round", "floor", "neg",
    "abs", "relu",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "remainder", "pow")
COMPARE = ["eq", "ne", "lt", "le", "gt", "ge"]
OTHER = [
    "func @f(%a: i64[T], %b: i64[]) {\n  %r = remainder(%a, %b) : i64[T]\n  return %r\n}",
    "func @f(%a: i64[T], %b: i64[]) {\n  %r = floor_divide(%a, %b) : i64[T]\n  return %r\n}",
    "func @f(%a: i64[T]) {\n  %r = relu(%a) : i64[T]\n  return %r\n}",
    "func @f(%a: bool[T], %b: bool[T]) {\n  %c = logical_and(%a, %b) : bool[T]\n  %d = logical_or(%a, %c) : bool[T]\n"
    "  %e = logical_not(%b) : bool[T]\n  %g = eq(%d, %e) : bool[T]\n  return %c, %d, %e, %g\n}",
    "func @f(%a: bool[T, 1], %b: f32[T, 4], %c: f32[4]) {\n  %r = where(%a, %b, %c) : f32[T, 4]\n  return %r\n}",
    "func @f(%a: f32[T, 4]) {\n  %r = cast(%a) {dtype='i64'} : i64[T, 4]\n  %s = cast(%r) {dtype='f64'} : f64[T, 4]\n"
    "  return %r, %s\n}",
    "func @f(%a: f32[T, 4]) {\n  %c = constant() {dtype='f32', value=2.5} : f32[]\n  %r = mul(%a, %c) : f32[T, 4]\n"
    "  return %r, %c\n}",
    "func @f(%a: f32[T, 4], %b: f32[S + T, 2]) {\n  %i = iota() {dtype='i64', size=<S + 2*T>} : i64[S + 2*T]\n"
    "  %j = iota() {dtype='f32', size=4} : f32[4]\n  %s = size() {value=<S*T + S - 3>} : i64[]\n"
    "  %m = size() {value=<Min(6, S + T)>} : i64[]\n  return %i, %j, %s, %m\n}",
    "func @f(%a: f32[T, 6]) {\n  %r = reshape(%a) {shape=(<T>, 2, 3)} : f32[T, 2, 3]\n"
    "  %s = reshape(%r) {shape=(<6*T>,)} : f32[6*T]\n  return %r, %s\n}",
    "func @f(%a: f32[T, S, 2]) {\n  %r = reshape(%a) {shape=(<2*T>, <S>)} : f32[2*T, S]\n  return %r\n}",
    "func @f(%a: f32[T, 1]) {\n  %r = broadcast(%a) {shape=(3, <T>, 4)} : f32[3, T, 4]\n  return %r\n}",
    "func @f(%a: f32[T, 3, S]) {\n  %r = transpose(%a) {perm=(2, 0, 1)} : f32[S, T, 3]\n  return %r\n}",
    "func @f(%a: f32[S + T, 4]) {\n  %r = slice(%a) {axis=0, start=1, stop=<S + 1>} : f32[S, 4]\n"
    "  %s = slice(%a) {axis=1, start=1, stop=3} : f32[S + T, 2]\n  return %r, %s\n}".replace("%a: f32[S + T, 4]",
                                                                                         "%a: f32[S + T, 4], %b: f32[T]"),
    "func @f(%a: f32[T, 2], %b: f32[S, 2]) {\n  %r = concat(%a, %b) {axis=0} : f32[S + T, 2]\n  return %r\n}",
    "func @f(%a: f32[4, 3], %b: i64[T, 2]) {\n  %r = take(%a, %b) : f32[T, 2, 3]\n  return %r\n}",
    "func @f(%a: f32[T, 5], %b: i64[T, 3]) {\n  %r = take_along(%a, %b) : f32[T, 3]\n  return %r\n}",
    "func @f(%a: f32[4, 3], %b: i64[T], %c: f32[T, 3]) {\n  %r = put_rows(%a, %b, %c) : f32[4, 3]\n  return %r\n}",
    "func @f(%a: i64[S], %b: i64[T], %c: i64[T]) {\n  %r = put_rows(%a, %b, %c) : i64[S]\n  return %r\n}",
    "func @f(%a: f32[T, 5]) {\n  %v, %i = sort(%a) {descending=True} : f32[T, 5], i64[T, 5]\n"
    "  %w, %j = sort(%a) {descending=False} : f32[T, 5], i64[T, 5]\n  return %v, %i, %w, %j\n}",
    "func @f(%a: f32[T, 9]) {\n  %r = cumsum(%a) : f32[T, 9]\n  return %r\n}",
    "func @f(%a: f32[T, 9]) {\n  %v, %i = topk(%a) {k=4} : f32[T, 4], i64[T, 4]\n  %x = argmax(%a) : i64[T]\n"
    "  return %v, %i, %x\n}",
    "func @f(%a: f32[T, 3, 4]) {\n  %s = reduce_sum(%a) {axes=(1,)} : f32[T, 1, 4]\n"
    "  %m = reduce_max(%a) {axes=(1, 2)} : f32[T, 1, 1]\n  %n = reduce_min(%a) {axes=(0,)} : f32[1, 3, 4]\n"
    "  return %s, %m, %n\n}",
    "func @f(%a: i64[T, 3]) {\n  %s = reduce_sum(%a) {axes=(1,)} : i64[T, 1]\n  %m = reduce_max(%a) {axes=(1,)} : i64[T, 1]\n"
    "  %n = reduce_min(%a) {axes=(0,)} : i64[1, 3]\n  return %s, %m, %n\n}",
    "func @f(%a: f32[T, 3, 4]) {\n  %r = softmax(%a) : f32[T, 3, 4]\n  return %r\n}",
    "func @f(%a: f32[T, 3, 4], %b: f32[4, 2]) {\n  %r = matmul(%a, %b) : f32[T, 3, 2]\n  return %r\n}",
]  # fmt: skip


def texts() -> list[str]:
    out = [f"func @f(%a: f32[T, 5]) {{\n  %r = {name}(%a) : f32[T, 5]\n  return %r\n}}" for name in UNARY]
    for name in BINARY:
        out.append(f"func @f(%a: f32[T, 5], %b: f32[5]) {{\n  %r = {name}(%a, %b) : f32[T, 5]\n  return %r\n}}")
    for name in COMPARE:
        for t in ("f32", "i64"):
            out.append(f"func @f(%a: {t}[T, 5], %b: {t}[5]) {{\n  %r = {name}(%a, %b) : bool[T, 5]\n  return %r\n}}")
    return out + OTHER


def operators(text: str) -> set[str]:
    return {node.op for node in parse_graph(text).nodes}


def test_every_primitive_operator_has_a_form_and_a_test() -> None:
    primitive = set(all_opdefs()) - set(decomposable())
    assert primitive == set(EMITTERS)
    assert primitive == set().union(*map(operators, texts()))


def random_arrays(text: str, env: dict[str, int], rng: np.random.Generator) -> list[np.ndarray]:
    positive = operators(text) & {"log", "sqrt", "rsqrt", "pow"}
    arrays = []
    for v in parse_graph(text).params:
        shape = tuple(d if isinstance(d, int) else int(d.subs({s: env[s.name] for s in d.free_symbols})) for d in v.type.shape)
        if v.type.dtype.value == "bool":
            arrays.append(rng.random(shape) < 0.5)
        elif v.type.dtype.value == "i64":
            signed = operators(text) & {"remainder", "floor_divide", "relu", "reduce_sum"}
            low = -7 if signed and len(shape) else 2 if signed else 0
            arrays.append(np.asarray(rng.integers(low, 3 if not signed else 8, shape), np.int64))
        else:
            # Multiples of 1/4: exact in float32, and full of equal elements.
            values = np.round(rng.standard_normal(shape) * 8) / 4
            arrays.append((np.abs(values) + 0.25 if positive else np.where(values == 0, 0.25, values)).astype(np.float32))
    return arrays


def assert_close(got: list[np.ndarray], expected: list[np.ndarray], what: str) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape, what
        if b.dtype.kind == "f":
            scale = max(float(np.abs(b).max(initial=0.0)), 1e-6)
            assert float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) <= FLOAT_TOLERANCE * scale, what
        else:
            np.testing.assert_array_equal(a, b, what)


@pytest.mark.parametrize("text", texts(), ids=lambda text: "_".join(sorted(operators(text))))
def test_primitive_operator(text: str) -> None:
    graph = parse_graph(text)
    model = export_onnx(module_of(graph), "main")
    for seed, (tokens, rows) in enumerate([(6, 5), (1, 9), (11, 3)]):
        env = {"T": tokens, "S": rows}
        arrays = random_arrays(text, env, np.random.default_rng(seed))
        expected = run_graph(graph, [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays], env)
        assert_close(run_model(model, graph, arrays), expected, text)


def float32_values(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The same numbers in both runs: float64 arrays that float32 holds exactly."""
    return [a.astype(np.float32).astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]


@pytest.mark.parametrize("op", decomposable())
def test_fused_operator_as_a_function(op: str) -> None:
    rng = np.random.default_rng(5)
    for case in [c for c in all_cases(11) if c.op == op]:
        graph, node = case.node()
        model = export_onnx(module_of(graph), "main")
        assert [n.op_type for n in model.graph.node] == [op] and model.graph.node[0].domain == DOMAIN
        assert [f.name for f in model.functions] == [op]
        assert len(model.graph.node[0].input) == len(node.inputs)
        for tokens, rows, start in ((6, 0, 0), (1, 9, 9), (9, 17, 130)):
            env = {"T": tokens, "S": rows}
            arrays = float32_values(case.arrays(env, rng, start))
            assert_close(run_model(model, graph, arrays), run_graph(graph, arrays, env, wide=True), str(case))


@pytest.mark.parametrize("op", ["dsa_attention", "moe_gate"])
def test_ties_take_the_lowest_index(op: str) -> None:
    for seed in range(4):
        for case in [c for c in all_cases(seed) if c.op == op]:
            if "index_scale" in case.attrs:  # a power of two: what is equal in float64 is equal in float32
                case = dataclasses.replace(case, attrs={**case.attrs, "index_scale": 0.5})
            graph, _ = case.node()
            arrays = case.arrays({"T": 7, "S": 60}, np.random.default_rng(seed), 60, ties=True)
            expected = run_graph(graph, arrays, {"T": 7, "S": 60})
            assert_close(run_model(export_onnx(module_of(graph), "main"), graph, arrays), expected, str(case))


@pytest.mark.parametrize("width", [5, 100, 1000, 20_000])
@pytest.mark.parametrize("k", [1, 4, 64])
def test_selection_among_thousands_of_equals(width: int, k: int) -> None:
    k = min(k, width)
    text = f"func @f(%a: f32[T, {width}]) {{\n  %v, %i = topk(%a) {{k={k}}} : f32[T, {k}], i64[T, {k}]\n" \
           f"  %w, %j = sort(%a) {{descending=True}} : f32[T, {width}], i64[T, {width}]\n" \
           f"  %u, %l = sort(%a) {{descending=False}} : f32[T, {width}], i64[T, {width}]\n" \
           "  %x = argmax(%a) : i64[T]\n  return %i, %j, %l, %x\n}"  # fmt: skip
    graph = parse_graph(text)
    a = np.random.default_rng(width).integers(0, 3, (4, width)).astype(np.float32)
    a[1], a[2] = 0.0, -np.inf
    a[3, ::2] = -0.0
    model = export_onnx(module_of(graph), "main")
    for got, expected in zip(run_model(model, graph, [a]), run_graph(graph, [a], {"T": 4}), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_one_function_serves_what_differs_only_in_the_names_of_sizes() -> None:
    graph = parse_graph(
        "func @f(%a: f32[T, 4], %b: f32[S, 4], %c: f32[T, 4], %g: f32[4]) {\n"
        "  %x = rms_norm(%a, %g) {eps=1e-05} : f32[T, 4]\n  %y = rms_norm(%b, %g) {eps=1e-05} : f32[S, 4]\n"
        "  %z = rms_norm(%c, %g) {eps=1e-06} : f32[T, 4]\n  return %x, %y, %z\n}"
    )
    model = export_onnx(module_of(graph), "main")
    assert [n.op_type for n in model.graph.node] == ["rms_norm", "rms_norm", "rms_norm_2"]
    assert [list(f.input) for f in model.functions] == [["x", "gamma"], ["x", "gamma"]]
    arrays = [np.random.default_rng(0).standard_normal(s) for s in ((3, 4), (5, 4), (3, 4), (4,))]
    arrays = float32_values(arrays)
    assert_close(run_model(model, graph, arrays), run_graph(graph, arrays, {"T": 3, "S": 5}), "rms_norm")


def test_an_unknown_program_and_a_size_from_nowhere_are_named() -> None:
    graph = parse_graph("func @f(%a: f32[S, 2]) {\n  %r = iota() {dtype='i64', size=<T>} : i64[T]\n  return %r\n}")
    with pytest.raises(IRError, match="size T follows from no operand's shape"):
        export_onnx(module_of(graph), "main")
    with pytest.raises(IRError, match="no program 'step'; the module has main"):
        export_onnx(module_of(graph))
