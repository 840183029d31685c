"""A small hand-made model in the shape that the passes leave: two layers of one function, one draft head."""

# ruff: noqa: E501 (the IR's text form has one operator a line)
from __future__ import annotations

from typing import Any

import pytest

from pangu_compile.ir import Graph, Module, Program, Role, StateInfo, parse_graph, verify_module
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.report import Chip, Compiled, Recorder, View

H, E, K, F, C, R, V = 8, 4, 2, 6, 5, 3, 11

LAYER = f"""
func @layer_0(%x: f32[T, {H}], %cache: f32[S, {C}], %qw: f32[9, {H}], %w: f32[{C}, {H}], %router: f32[{E}, {H}], %gu: f32[{E}, {2 * F}, {H}], %down: f32[{E}, {H}, {F}]) {{
  %lat = linear(%x, %w) : f32[T, {C}]
  %new = concat(%cache, %lat) {{axis=0}} : f32[S + T, {C}]
  %i, %g = moe_gate(%x, %router) {{eps=1e-20, k={K}, normalise=True, results=('index', 'weight'), scale=1.0, slots=('x', 'router')}} : i64[T, {K}], f32[T, {K}]
  %y = moe_ffn(%x, %i, %g, %gu, %down) {{results=('out',), slots=('x', 'index', 'weight', 'gate_up', 'down')}} : f32[T, {H}]
  return %y, %new
}}
"""
STEP = f"""
func @step(%tokens: i64[T], %start: i64[], %rows: i64[M], %s0: f32[S, {C}], %s1: f32[S, {C}], %emb: f32[{V}, {H}], %head: f32[{V}, {H}], %a0: f32[9, {H}], %a1: f32[{C}, {H}], %a2: f32[{E}, {H}], %a3: f32[{E}, {2 * F}, {H}], %a4: f32[{E}, {H}, {F}], %b0: f32[9, {H}], %b1: f32[{C}, {H}], %b2: f32[{E}, {H}], %b3: f32[{E}, {2 * F}, {H}], %b4: f32[{E}, {H}, {F}]) {{
  %x = take(%emb, %tokens) : f32[T, {H}]
  %y, %n0 = call(%x, %s0, %a0, %a1, %a2, %a3, %a4) {{function='layer_0'}} : f32[T, {H}], f32[S + T, {C}]
  %z, %n1 = call(%y, %s1, %b0, %b1, %b2, %b3, %b4) {{function='layer_0'}} : f32[T, {H}], f32[S + T, {C}]
  %p = softmax(%z) : f32[T, {H}]
  %r = reshape(%p) {{shape=(T*1, {H})}} : f32[T, {H}]
  %q = take(%r, %rows) : f32[M, {H}]
  %l = linear(%q, %head) : f32[M, {V}]
  return %l, %n0, %n1
}}
""".replace("(T*1, ", "(<T>, ")
DRAFT = f"""
func @draft_1(%tokens: i64[T], %emb: f32[{V}, {H}], %d0: f32[{H}, {H}]) {{
  %x = take(%emb, %tokens) : f32[T, {H}]
  %y = linear(%x, %d0) : f32[T, {H}]
  return %y
}}
"""
NAMES = {"0": "self_attn.q_proj.weight", "1": "self_attn.kv_a_proj_with_mqa.weight", "2": "mlp.gate.weight",
         "3": "mlp.experts.gate_up_proj", "4": "mlp.experts.down_proj"}  # fmt: skip
EMBED, HEAD, MTP = "model.embed_tokens.weight", "lm_head.weight", "model.layers.2.eh_proj.weight"


def _role(name: str) -> Role:
    if name in ("tokens", "start", "rows"):
        return Role("input", name)
    if name in ("s0", "s1"):
        return Role("state", f"layers.{name[1]}.latent")
    fixed = {"emb": EMBED, "head": HEAD, "d0": MTP}
    layer = {"a": 0, "b": 1}.get(name[0])
    return Role("weight", fixed.get(name) or f"model.layers.{layer}.{NAMES[name[1]]}")


def _program(graph: Graph, outputs: list[Role], dims: tuple[str, ...]) -> Program:
    return Program(graph, [_role(p.name) for p in graph.params], outputs, dims)


def make_module() -> Module:
    """Two base layers (dense attention cache, experts), their embedding and head, and one draft program."""
    step, draft = parse_graph(STEP), parse_graph(DRAFT)
    outputs = [Role("output", "logits"), Role("state", "layers.0.latent"), Role("state", "layers.1.latent")]
    module = Module(functions={"layer_0": parse_graph(LAYER)})
    module.programs["step"] = _program(step, outputs, ("T", "S", "M"))
    module.programs["draft_1"] = _program(draft, [Role("output", "logits")], ("T",))
    for program in module.programs.values():
        for role, value in zip(program.params, program.graph.params, strict=True):
            if role.kind == "weight":
                module.weights[role.key] = value.type
    for layer in (0, 1):
        module.states[f"layers.{layer}.latent"] = StateInfo(f"layers.{layer}.latent", "f32", C, None, 0)
    verify_module(module)
    return module


CONFIG = OpenPanguConfig(
    vocab_size=V, hidden_size=H, num_hidden_layers=2, num_attention_heads=1, kv_lora_rank=C - 2, qk_nope_head_dim=7,
    qk_rope_head_dim=2, v_head_dim=1, intermediate_size=4, n_routed_experts=E, num_experts_per_tok=K, moe_intermediate_size=F,
    max_position_embeddings=4096, num_nextn_predict_layers=1,
)  # fmt: skip


def plan_record() -> dict[str, Any]:
    """A plan of two frames: `layer_0` with two values that share no time, called by `step`."""
    layer = {
        "params": [], "frame_bytes": 256, "largest_live_bytes": 256,
        "kernels": [
            {"kind": "fused", "op": "linear", "reads": ["%x in[0]"], "writes": ["%lat frame[0] f32[T, 5]"]},
            {"kind": "append", "op": "concat", "reads": ["%lat frame[0]"], "writes": ["%new state[1] f32[S + T, 5]"]},
            {"kind": "fused", "op": "moe_ffn", "reads": ["%x in[0]"], "writes": ["%y out[0] f32[T, 8]"], "workspace": "frame[64:256]"},
        ],
    }  # fmt: skip
    step = {
        "params": [], "frame_bytes": 512, "largest_live_bytes": 448, "dims": ["T", "S", "M"], "outputs": [], "arena_bytes": 512,
        "kernels": [
            {"kind": "call", "op": "call", "function": "layer_0", "reads": [], "writes": ["%y frame[256] f32[T, 8]"],
             "workspace": "frame[0:256]"},
            {"kind": "fused", "op": "linear", "reads": ["%y frame[256]"], "writes": ["%l out[0] f32[M, 11]"]},
        ],
    }  # fmt: skip
    return {
        "max_context": 64, "max_chunk": 4, "sizes": {"M": 4, "S": 64, "T": 4}, "states": [], "weights": [],
        "functions": {"layer_0": layer}, "programs": {"step": step},
    }  # fmt: skip


CHIP = Chip("cpu", "test chip", 1000.0, 500.0, 100.0, 4000, ("made up",))


def trunk_shapes(module: Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(int(d) for d in t.shape) for n, t in module.weights.items() if n != MTP}


@pytest.fixture
def module() -> Module:
    return make_module()


@pytest.fixture
def compiled(module: Module) -> Compiled:
    """With the history of one pass that fused the gate of layer_0."""
    recorder = Recorder()
    before = make_module()
    layer = before.functions["layer_0"]
    layer.nodes = [n for n in layer.nodes if n.op != "moe_ffn"] + layer.nodes[:1] * 3
    recorder.record("traced", 0.0, before)
    module.info["provenance"] = [{"pass": "fuse_moe", "function": "layer_0", "op": "moe_ffn", "consumed": {"linear": 3}, "loc": "x"}]
    recorder.record("fuse_moe", 0.25, module)
    return Compiled(CONFIG, module, plan_record(), trunk_shapes(module), recorder)


@pytest.fixture
def view() -> View:
    return View(16, CHIP, (0.5,))
