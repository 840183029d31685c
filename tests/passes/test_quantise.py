"""quantise_weights: which weights change their type, which must not, and that the graph still means the same."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.driver.packing import pack, unpack
from pangu_compile.ir import DType, Folded, IRError, Module, Program, Role, parse_graph, run_graph, verify_module
from pangu_compile.passes.quantise import quantise_weights
from pangu_compile.passes.validate import compare, snapshot

FFN = """func @f(%x: f32[T, 64], %g: f32[96, 64], %u: f32[96, 64], %d: f32[64, 96], %h: f32[40, 64]) {
  %a = dense_ffn(%x, %g, %u, %d) : f32[T, 64]
  %b = linear(%a, %h) : f32[T, 40]
  return %b
}"""
MOE = """func @f(%x: f32[T, 32], %router: f32[4, 32], %gu: f32[4, 64, 32], %down: f32[4, 32, 32]) {
  %index, %weight = moe_gate(%x, %router) {eps=1e-20, k=2, normalise=True, results=('index', 'weight'), scale=1.0, slots=('x', 'router')} : i64[T, 2], f32[T, 2]
  %b = moe_ffn(%x, %index, %weight, %gu, %down) {results=('out',), slots=('x', 'index', 'weight', 'gate_up', 'down')} : f32[T, 32]
  return %b
}"""  # noqa: E501
DENSE = """func @f(%q: f32[T, 2, 48], %cache: f32[S + T, 64], %kv_b: f32[96, 32], %o: f32[40, 64]) {
  %a = dense_attention(%q, %cache, %kv_b) {expand_from=0, nope=16, results=('out',), scale=0.1, slots=('q', 'cache', 'kv_b'), v=32} : f32[T, 64]
  %b = attention_output(%a, %o) {results=('out',), slots=('a', 'o_proj')} : f32[T, 40]
  return %b
}"""  # noqa: E501
FORMATS = {"bf16": "bf16", "int8": "q8i", "int4": "q4"}


def module_of(text: str, *functions: str, weights: str) -> Module:
    graph, names = parse_graph(text), weights.split()
    roles = [Role("weight" if p.name in names else "input", p.name) for p in graph.params]
    outputs = [Role("output", f"out{i}") for i in range(len(graph.outputs))]
    types = {p.name: p.type for p in graph.params if p.name in names}
    module = Module(programs={"f": Program(graph, roles, outputs, ("T", "S"))}, weights=types)
    module.functions = {g.name: g for g in map(parse_graph, functions)}
    return module


def run(module: Module, weight_format: str) -> dict[str, str]:
    """Types after the pass, which must verify and mean the same."""
    before = snapshot(module)
    changed = quantise_weights(module, weight_format)
    verify_module(module)
    compare("quantise_weights", before, module)
    types = {name: type_.dtype.value for name, type_ in module.weights.items()}
    assert changed == {name: DType(t) for name, t in types.items() if t != "f32"}
    for program in module.programs.values():
        for role, value in zip(program.params, program.graph.params, strict=True):
            assert role.kind != "weight" or value.type == module.weights[role.key]
    return types


@pytest.mark.parametrize("weight_format", FORMATS)
def test_matrices_of_fused_operators_change(weight_format: str) -> None:
    stored = FORMATS[weight_format]
    assert run(module_of(FFN, weights="g u d h"), weight_format) == dict.fromkeys("gudh", stored)
    types = run(module_of(MOE, weights="router gu down"), weight_format)
    assert types == {"router": "bf16", "gu": stored, "down": stored}


def test_f32_changes_nothing() -> None:
    assert quantise_weights(module_of(FFN, weights="g u d h"), "f32") == {}
    with pytest.raises(IRError, match="'int2' is not one of"):
        quantise_weights(module_of(FFN, weights="g u d h"), "int2")


def test_kv_b_stays_at_eight_bits() -> None:
    assert run(module_of(DENSE, weights="kv_b o"), "int4") == {"kv_b": "q8", "o": "q4"}
    assert run(module_of(DENSE, weights="kv_b o"), "int8") == {"kv_b": "q8", "o": "q8i"}
    assert run(module_of(DENSE, weights="kv_b o"), "bf16") == {"kv_b": "bf16", "o": "bf16"}


def test_bf16_is_compressed_where_all_weights_of_one_kind_can_be() -> None:
    """Not kv_b, which is read transposed as well, and not rows so short that padding costs more than it saves."""
    calls = module_of(CALLS.replace("64", "256"), BLOCK.replace("64", "256"), weights="a b")
    assert quantise_weights(calls, "bf16", lambda name: name == "a") == {"a": DType.bf16, "b": DType.bf16}
    calls = module_of(CALLS.replace("64", "256"), BLOCK.replace("64", "256"), weights="a b")
    assert quantise_weights(calls, "bf16", lambda name: True) == {"a": DType.bf16c, "b": DType.bf16c}
    short = module_of(CALLS, BLOCK, weights="a b")
    assert quantise_weights(short, "bf16", lambda name: True) == {"a": DType.bf16, "b": DType.bf16}
    dense = module_of(DENSE.replace("[S + T, 64]", "[S + T, 288]").replace("[96, 32]", "[96, 256]"), weights="kv_b o")
    assert quantise_weights(dense, "bf16", lambda name: True) == {"kv_b": DType.bf16, "o": DType.bf16}


@pytest.mark.parametrize(
    "use", ["%c = exp(%h) : f32[40, 64]\n  return %b, %c", "return %b, %h", "%c = take(%h, %i) : f32[T, 64]\n  return %b, %c"]
)
def test_a_weight_with_another_reader_stays(use: str) -> None:
    text = FFN.replace("return %b", use).replace("%h: f32[40, 64])", "%h: f32[40, 64], %i: i64[T])")
    assert run(module_of(text, weights="g u d h"), "int8") == {"g": "q8i", "u": "q8i", "d": "q8i", "h": "f32"}


def test_inputs_stay() -> None:
    assert run(module_of(FFN, weights="g u d"), "int8") == dict.fromkeys("gud", "q8i")


def test_rows_that_make_no_eights_or_fours_lie_one_by_one() -> None:
    types = run(module_of(FFN.replace("40", "44"), weights="g u d h"), "int8")
    assert types == {"g": "q8i", "u": "q8i", "d": "q8i", "h": "q8"}
    for rows, stored in ((42, DType.bf16), (44, DType.bf16c)):
        wide = module_of(FFN.replace("64", "256").replace("40", str(rows)), weights="g u d h")
        assert quantise_weights(wide, "bf16", lambda name: True)["h"] is stored


@pytest.mark.parametrize(("weight_format", "stored"), [("w8a8", "w8a8"), ("w8a16", "q8"), ("w8a24", "w8a24")])
def test_formats_of_ascend_keep_what_ascend_keeps(weight_format: str, stored: str) -> None:
    """kv_b, the products of a program's results and of the indexer are bf16, a router float32."""
    assert run(module_of(DENSE, weights="kv_b o"), weight_format) == {"kv_b": "bf16", "o": stored}
    assert run(module_of(MOE, weights="router gu down"), weight_format) == {"router": "f32", "gu": stored, "down": stored}
    assert run(module_of(FFN, weights="g u d h"), weight_format) == {"g": stored, "u": stored, "d": stored, "h": "bf16"}


def test_rows_shorter_than_a_group_stay() -> None:
    module = module_of(FFN.replace("64", "16"), weights="g u d h")
    assert run(module, "int4") == {"g": "f32", "u": "f32", "d": "q4", "h": "f32"}


def test_a_folded_weight_stays() -> None:
    module = module_of(FFN, weights="g u d h")
    sources = parse_graph("func @fold(%h: f32[40, 64]) {\n  %a = exp(%h) : f32[40, 64]\n  return %a\n}")
    module.folded["h"] = Folded(sources, ["source"])
    assert quantise_weights(module, "int8") == dict.fromkeys("gud", DType.q8i)


CALLS = """func @f(%x: f32[T, 64], %a: f32[64, 64], %b: f32[64, 64]) {
  %y = call(%x, %a) {dims=(('T', <T>),), function='block'} : f32[T, 64]
  %z = call(%y, %b) {dims=(('T', <T>),), function='block'} : f32[T, 64]
  return %z
}"""
BLOCK = """func @block(%p: f32[T, 64], %w: f32[64, 64]) {
  %v = linear(%p, %w) : f32[T, 64]
  return %v
}"""


def calling(text: str) -> Module:
    return module_of(text, BLOCK, weights="a b")


def test_types_go_through_calls() -> None:
    module = calling(CALLS)
    assert run(module, "int4") == {"a": "q4", "b": "q4"}
    assert module.functions["block"].params[1].type.dtype is DType.q4


@pytest.mark.parametrize(
    "text",
    [
        CALLS.replace("return %z", "%o = exp(%b) : f32[64, 64]\n  return %z, %o"),  # %b must stay, so the block's w must
        CALLS.replace("%z = call(%y, %b)", "%e = exp(%b) : f32[64, 64]\n  %z = call(%y, %e)"),  # no weight at all
    ],
)
def test_one_call_with_something_else_keeps_the_function_as_it_is(text: str) -> None:
    assert run(calling(text), "int4") == {"a": "f32", "b": "f32"}


@pytest.mark.parametrize(("weight_format", "error"), [("bf16", 0.01), ("int8", 0.02), ("int4", 0.2)])
def test_the_stored_numbers_give_nearly_the_same_result(weight_format: str, error: float) -> None:
    module = module_of(FFN, weights="g u d h")
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(tuple(7 if not isinstance(d, int) else d for d in p.type.shape)) / 8
              for p in module.programs["f"].graph.params]  # fmt: skip
    exact = run_graph(module.programs["f"].graph, arrays, {"T": 7})[0]
    changed = quantise_weights(module, weight_format)
    stored = [
        unpack(changed[r.key].value, pack(changed[r.key].value, a.astype(np.float32)), a.shape) if r.key in changed else a
        for r, a in zip(module.programs["f"].params, arrays, strict=True)
    ]
    near = run_graph(module.programs["f"].graph, stored, {"T": 7})[0]
    assert 0 < np.linalg.norm(near - exact) <= error * np.linalg.norm(exact)
