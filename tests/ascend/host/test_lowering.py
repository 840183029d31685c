"""The lowering of functions: layouts of weights, views, refusals, and what the report counts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pangu_compile.codegen.ascend.host import StoredWeight, int8_bytes
from pangu_compile.codegen.ascend.host.emit import generate
from pangu_compile.codegen.ascend.host.products import int8_depth
from pangu_compile.codegen.ascend.host.values import Tensor, View, Weight
from pangu_compile.codegen.dims import c_dim
from pangu_compile.driver.bf16 import from_bf16, to_bf16
from pangu_compile.driver.options import make_options
from pangu_compile.driver.safetensors_file import Layout
from pangu_compile.driver.targets.ascend import Request, stored_pieces, weight_chains, weight_offsets
from pangu_compile.driver.targets.ascend_estimate import Traffic, _stored
from pangu_compile.driver.targets.ascend_launches import count_launches
from pangu_compile.ir import IRError, Module, Program, Role, parse_graph
from pangu_compile.ir.graph import StateInfo
from pangu_compile.ir.types import symbol
from pangu_compile.plan import PlannedWeight
from pangu_compile.report import chip

T = symbol("T")
FFN = """
func @step(%x: f32[T, 32], %gate: bf16[20, 32], %up: bf16[20, 32], %down: bf16[32, 20], %norm: f32[32]) {
  %a = rms_norm(%x, %norm) {eps=1e-05} : f32[T, 32]
  %b = dense_ffn(%a, %gate, %up, %down) : f32[T, 32]
  %c = residual(%x, %b, %norm) {block_eps=0.0, norm_eps=0.0, out_eps=1e-05, RESIDUAL} : f32[T, 32]
  return %c
}
""".replace("RESIDUAL", "results=('new_x',), slots=('x', 'out', 'out_norm')")


def module(text: str) -> Module:
    graph = parse_graph(text)
    roles = [Role("input" if v.name == "x" else "weight", v.name) for v in graph.params]
    program = Program(graph, roles, [Role("output", "y")], ("T",))
    weights = {v.name: v.type for v, r in zip(graph.params, roles, strict=True) if r.kind == "weight"}
    return Module({"step": program}, weights=weights, info={"role": "lm"})


def test_a_function_is_launches_and_vendor_calls() -> None:
    host = generate(module(FFN), "ascend910b", 64, activations="bf16")
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    ffn = ["launch_rms_norm", "launch_product", "launch_swiglu", "launch_product_1"]
    assert calls == ["upload_bf16", *ffn, "cast", "launch_residual", "download_f32"]
    launches = count_launches(host.plan, "program_step")
    assert (launches.kernels.total(), launches.vendor.total(), launches.total) == (5, 1, 6)
    text = host.model({w.planned.name: 0 for w in host.weights})
    assert "launch_product(d, PanguProductTiling{u32(T)}, m1, weight(0), " in text  # gate and up as one matrix
    assert "kDepth = 32, kColumns = 40" in host.files["kernels/product.cpp"]


def test_float32_activations_are_split_for_products() -> None:
    """Rows are split by the kernels that make them, never by a launch of their own."""
    host = generate(module(FFN), "ascend910b", 64)
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    ffn = ["launch_rms_norm", "launch_product", "launch_swiglu", "launch_product_1"]
    assert calls == ["upload_f32", *ffn, "launch_residual", "download_f32"] and host.plan["activations"] == "float32"
    types = {k.name: {a.name: a.dtype for a in k.arguments} for k in host.kernels}
    assert types["rms_norm"] == {"x": "float", "gamma": "float", "y": "split"}
    assert types["product"] == {"x": "split", "w": "bfloat16_t", "y": "float"} == types["product_1"]
    assert types["swiglu"] == {"x": "float", "y": "split"}


EXPERTS = """
func @step(%x: f32[T, 32], %router: f32[5, 32], %gate_up: bf16[5, 24, 32], %down: bf16[5, 32, 12], %norm: f32[32]) {
  %y = rms_norm(%x, %norm) {eps=1e-05} : f32[T, 32]
  %i, %w = moe_gate(%y, %router) {eps=1e-20, k=2, normalise=True, scale=1.0, SLOTS} : i64[T, 2], f32[T, 2]
  %f = moe_ffn(%y, %i, %w, %gate_up, %down) {results=('out',), slots=('x', 'index', 'weight', 'gate_up', 'down')} : f32[T, 32]
  return %f
}
""".replace("SLOTS", "results=('index', 'weight'), slots=('x', 'router')")


def test_experts_with_float32_activations() -> None:
    """Split rows are sorted as bf16 rows of twice the width; no vendor product of bf16; the router reads float32."""
    host = generate(module(EXPERTS), "ascend910b", 64)
    text = host.model({w.planned.name: 0 for w in host.weights})
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    experts = ["launch_product_experts", "launch_swiglu", "launch_product_experts_1", "finalize_routing"]
    gate = ["upload_f32", "launch_rms_norm", "matmul", "launch_moe_gate"]
    assert calls == [*gate, "launch_convert", "init_routing", *experts, "download_f32"]
    assert "{T, 64}" in text and "{(2 * T), 64}" in text and "matmul(d, f32(" in text and "matmul(d, bf16(" not in text


def int8(text: str, dtype: str) -> str:
    return re.sub(r"bf16(?=\[)", dtype, text)


@pytest.mark.parametrize(("dtype", "digits"), [("w8a24", 3), ("q8", 2), ("w8a8", 1)])
def test_int8_products_of_rows_in_digits(dtype: str, digits: int) -> None:
    """The vendor's product sees digits as rows, of groups that are as much longer; our kernels see tokens."""
    host = generate(module(int8(FFN, dtype)), "ascend910b", 64)
    text = host.model({w.planned.name: 0 for w in host.weights})
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    ffn = ["launch_rms_norm", "launch_quantise", "quant_matmul", "launch_dequantise", "launch_swiglu", "quant_matmul"]
    assert calls == ["upload_f32", *ffn, "launch_dequantise_1", "launch_residual", "download_f32"]
    rows = "T" if digits == 1 else f"({digits} * T)"
    assert f"{{{rows}, 32}}), int8(weight(0), {{40, 32}})" in text and f"none(), i32(m6, {{{rows}, 40}})" in text
    shapes = {k.name: {a.name: a.shape for a in k.arguments} for k in host.kernels}
    assert shapes["quantise"]["y"] == f"tokens, {digits * 32}" and shapes["swiglu"]["y"] == f"tokens, {digits * 20}"
    assert shapes["dequantise"] == {"x": f"tokens, {digits * 40}", "row_scale": "tokens", "scale": "1, 40", "y": "tokens, 40"}

    host = generate(module(int8(EXPERTS, dtype)), "ascend910b", 64)
    text = host.model({w.planned.name: 0 for w in host.weights})
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    assert calls.count("times") == (digits > 1) and calls.count("cast") == 1 and calls.count("grouped_sums") == 2
    assert f"{{({2 * digits} * T), 32}}), int8(" in text and "PanguDequantiseExpertsTiling{u32((2 * T))}" in text
    if digits > 1:
        with pytest.raises(IRError, match=f"of {8 * digits} bits need float32 activations"):
            generate(module(int8(FFN, dtype)), "ascend910b", 64, activations="bf16")
        return
    host = generate(module(int8(FFN, dtype)), "ascend910b", 64, activations="bf16")
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    assert calls[2:6] == ["dynamic_quant", "quant_matmul", "launch_swiglu", "quant_matmul"]


def test_int8_formats_do_not_mix() -> None:
    with pytest.raises(IRError, match="weights in q8 and in w8a8"):
        generate(module(FFN.replace("%gate: bf16", "%gate: q8").replace("%down: bf16", "%down: w8a8")), "ascend910b", 64)


@pytest.mark.parametrize(("digits", "flops"), [(0, 200.0), (1, 100.0), (2, 200.0), (3, 300.0)])
def test_work_is_counted_once_a_digit(digits: int, flops: float) -> None:
    """Int8 products run at twice the rate of 16 bits."""
    npu, work = chip("ascend910b"), _stored(Traffic("linear", 100.0, 0.0, 0.0, 0.0, digits), True)
    assert work.flops == flops
    assert work.seconds(npu, 1, 1) == flops / npu.matrix_flops / (2 if digits else 1)


def test_int8_sums_must_fit_int32() -> None:
    weights = parse_graph("func @f(%a: q8[2, 132104], %b: q8[2, 132105]) {\n  return %a\n}").params
    assert int8_depth(weights[0], 2) == int8_depth(weights[0], 3) == 132104 and int8_depth(weights[1], 1) == 132105
    with pytest.raises(IRError, match="%b: sums of 132105 int8 products do not fit int32"):
        int8_depth(weights[1], 3)


WINDOW = """
func @step(%x: f32[T, 2, 7], %latent: f32[T, 8], %ring: f32[6, 8], %conv_o: f32[3, 10], %start: i64[], WEIGHTS) {
  %a, %new_ring = swa_attention(%x, %latent, %ring, %start, %kv_b, %sinks) {ATTENTION} : f32[T, 10], f32[6, 8]
  %y, %new_conv = attention_output(%a, %conv, %conv_o, %start, %o) {OUTPUT} : f32[T, 32], f32[3, 10]
  return %y, %new_ring, %new_conv
}
""".replace("WEIGHTS", "%kv_b: bf16[18, 5], %sinks: f32[2, 8], %conv: f32[10, 1, 3], %o: bf16[32, 10]").replace(
    "ATTENTION",
    "nope=4, results=('out', 'new_ring'), scale=0.4, slots=('q', 'latent', 'ring', 'start', 'kv_b', 'sinks'), v=5, window=7",
).replace("OUTPUT", "results=('out', 'new_o_ring'), slots=('a', 'o_conv', 'o_ring', 'start', 'o_proj')")


CONVOLUTION = """
func @step(%x: f32[T, 10], %conv: f32[10, 1, 3], %start: i64[], %conv_o: f32[3, 10]) {
  %y, %new = mome_conv(%x, %conv, %start, %conv_o) {SLOTS} : f32[T, 10], f32[3, 10]
  return %y, %new
}
""".replace("SLOTS", "results=('y', 'new_ring'), slots=('x', 'weight', 'start', 'ring')")


def with_states(text: str, *names: str) -> Module:
    """The module of a function, of whose states `names` are in it."""
    graph = parse_graph(text)
    known = {"ring": StateInfo("layers.0.latent", "f32", 8, 6, 0), "conv_o": StateInfo("layers.0.conv_o", "f32", 10, 3, 0)}
    states = {name: known[name] for name in names}
    inputs = ("x", "latent", "start")
    roles = [
        Role("state", states[v.name].name) if v.name in states else Role("input" if v.name in inputs else "weight", v.name)
        for v in graph.params
    ]
    outputs = [Role("output", "y"), *(Role("state", s.name) for s in states.values())]
    weights = {v.name: v.type for v, r in zip(graph.params, roles, strict=True) if r.kind == "weight"}
    program = Program(graph, roles, outputs, ("T",))
    return Module({"step": program}, weights=weights, states={s.name: s for s in states.values()}, info={"role": "lm"})


@pytest.mark.parametrize(("activations", "dtype"), [("bf16", "bfloat16_t"), ("float32", "float")])
def test_a_convolution_alone(activations: str, dtype: str) -> None:
    """Rows, and the ring that remembers them, are of one type."""
    host = generate(with_states(CONVOLUTION, "conv_o"), "ascend910b", 64, activations=activations)
    (kernel,) = host.kernels
    assert {a.name: a.dtype for a in kernel.arguments} == {"x": dtype, "weight": "float", "ring": dtype, "y": dtype}


@pytest.mark.parametrize(("activations", "sinks", "bytes_"), [("bf16", "bf16", (16, 20)), ("float32", "split", (32, 40))])
def test_attention_and_its_states(activations: str, sinks: str, bytes_: tuple[int, int]) -> None:
    """Latent rows are bf16 or split, what convolutions remember bf16 or float32; a split row is twice as long in memory."""
    host = generate(with_states(WINDOW, "ring", "conv_o"), "ascend910b", 64, activations=activations)
    assert {w.planned.name: w.form for w in host.weights} == {"kv_b": "bf16", "sinks": sinks, "conv": "taps", "o": "bf16"}
    assert [s["row_bytes"] for s in host.values["states"]] == list(bytes_)
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"] if "load" not in s["call"]]
    rest = ["launch_ring_write", "launch_output_conv", "launch_product"]
    if activations == "bf16":
        assert calls == ["batch_matmul", "copy", "launch_swa_attention", "batch_matmul", *rest]
        return
    heads = ["launch_product_heads", "launch_query_rows", "launch_swa_attention", "launch_product_heads_1"]
    assert [c for c in calls if "convert" not in c] == [*heads, *rest]
    types = {k.name: {a.name: a.dtype for a in k.arguments} for k in host.kernels}
    assert types["output_conv"] == {"x": "float", "weight": "float", "ring": "float", "y": "split"}
    assert set(types["ring_write"].values()) == {"split"}


def test_split_weights_hold_what_bf16_leaves() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    weight = StoredWeight(PlannedWeight("sinks", "f32", (3, 5)), "split")
    request = Request(Module(), lambda name: values, None, make_options(target="ascend910b"), 64, {})
    (stored,) = stored_pieces(weight, request)
    high, low = from_bf16(stored[:, :5]), from_bf16(stored[:, 5:])
    assert stored.nbytes == weight.nbytes and (high == from_bf16(to_bf16(values))).all()
    assert (np.abs(high + low - values) <= 2.0**-17 * np.abs(values)).all()


STREAM = """
func @step(%i: i64[T], %table: f32[30, 32], %norm: f32[32]) {
  %e = take(%table, %i) : f32[T, 32]
  %x = reshape(%e) {shape=(<T>, 1, 32)} : f32[T, 1, 32]
  %n = rms_norm(%e, %norm) {eps=1e-05} : f32[T, 32]
  return %x, %n
}
"""


@pytest.mark.parametrize("activations", ["float32", "bf16"])
def test_embeddings_become_float32_streams(activations: str) -> None:
    """A layer whose first call had bf16 streams would round those of all others."""
    graph = parse_graph(STREAM)
    roles = [Role("input", "i"), Role("weight", "table"), Role("weight", "norm")]
    program = Program(graph, roles, [Role("output", "x"), Role("output", "n")], ("T",))
    weights = {v.name: v.type for v in graph.params[1:]}
    streams = Module({"step": program}, weights=weights, info={"role": "lm"})
    host = generate(streams, "ascend910b", 64, activations=activations)
    calls = [s["call"] for s in host.plan["functions"]["program_step"]["steps"]]
    assert calls[:4] == ["upload_i32", "take_rows", "cast", "launch_rms_norm"] and calls[4] == "download_f32"


def test_weights_that_are_read_together_lie_together() -> None:
    host = generate(module(FFN), "ascend910b", 64)
    forms = {w.planned.name: (w.form, w.behind) for w in host.weights}
    assert forms == {"norm": ("f32", None), "gate": ("bf16", None), "up": ("bf16", "gate"), "down": ("bf16", None)}
    chains = weight_chains(host.weights)
    layout = Layout(("+".join(w.planned.name for w in c), "U8", (sum(w.nbytes for w in c),)) for c in chains)
    at = weight_offsets(chains, layout)
    assert at["up"] == at["gate"] + 20 * 32 * 2 and at["gate"] % 4096 == 0


def test_taps_and_int8_bytes() -> None:
    kernel = np.arange(12, dtype=np.float32).reshape(4, 1, 3)
    weight = StoredWeight(PlannedWeight("conv", "f32", (4, 1, 3)), "taps")
    request = Request(Module(), lambda name: kernel, None, make_options(target="ascend910b"), 64, {})
    assert (np.concatenate(list(stored_pieces(weight, request))) == kernel[:, 0, :].T).all()
    pair = [StoredWeight(PlannedWeight(n, "f32", (3, 21)), "int8 joined") for n in ("a", "b")]
    assert int8_bytes(pair) == 128 + 4 * 6  # 126 bytes of rows, rounded up, and six scales


def test_refusals_are_one_line() -> None:
    bad = FFN.replace("rms_norm(%x, %norm) {eps=1e-05}", "layer_norm(%x, %norm, %norm) {eps=1e-05}")
    with pytest.raises(IRError, match="no lowering of layer_norm"):
        generate(module(bad), "ascend910b", 64)
    with pytest.raises(IRError, match="wanted as"):
        weight = Weight("weight(0)", (4, 4), "bf16")
        weight.stored("bf16"), weight.stored("f32")


def test_views() -> None:
    view = View(Tensor("m0", "bf16"), (3, T, 8))
    assert str(view.transposed) == "bf16(m0, {3, 8, T}, {(8 * T), 1, 8})"
    assert Tensor("m0", "bf16").at(4).text == "at(m0, 8)" and c_dim(T + 1) == "(1 + T)"


def test_routed_experts_saturate() -> None:
    """One token reads its own experts; many read all, and never more."""
    experts = Traffic("moe_ffn", 0.0, 10.0, 0.0, 0.0, 0, (8, 2, 800.0))
    assert experts.bytes(1, 1) == pytest.approx(210.0) and 800 < experts.bytes(1000, 1000) <= 810.0
    window, chosen = (Traffic(op, 0.0, 0.0, 5.0, 0.0, 0) for op in ("swa_attention", "dsa_attention"))
    assert window.bytes(4, 1) == 5.0 and chosen.bytes(4, 1) == 20.0
    assert experts.seconds(chip("ascend910b"), 1, 1) == pytest.approx(210.0 / chip("ascend910b").bytes_per_second)
