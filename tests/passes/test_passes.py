"""Each pass: fires where it should, keeps away where it must, and keeps the meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pangu_compile.ir import IRError, Module, Program, Role, parse_graph, print_graph, print_module, verify_module
from pangu_compile.passes import PASSES, Pass, run_passes
from pangu_compile.passes.canonicalise import canonicalise
from pangu_compile.passes.experts import fuse_expert_linear
from pangu_compile.passes.fold import fold_weights
from pangu_compile.passes.outline import outline
from pangu_compile.passes.reroll import reroll
from pangu_compile.passes.select import sort_to_topk
from pangu_compile.passes.validate import compare, snapshot
from pangu_compile.trace import trace_module


def module_of(text: str, weights: tuple[str, ...] = ()) -> Module:
    graph = parse_graph(text)
    roles = [Role("weight" if p.name in weights else "input", p.name) for p in graph.params]
    types = {p.name: p.type for p in graph.params if p.name in weights}
    outputs = [Role("output", f"out{i}") for i in range(len(graph.outputs))]
    return Module(programs={"f": Program(graph, roles, outputs, ("T",))}, weights=types)


def ops(module: Module, program: str = "f") -> list[str]:
    return [n.op for n in module.programs[program].graph.nodes]


def run(module: Module, rewrite) -> Module:
    before = snapshot(module)
    rewrite(module)
    for graph in module.graphs():
        graph.rename()
    verify_module(module)
    compare(rewrite.__name__, before, module)
    return module


def test_canonicalise_shares_simplifies_and_drops():
    module = module_of(
        """func @f(%x: f32[T, 4]) {
  %a = exp(%x) : f32[T, 4]
  %b = exp(%x) : f32[T, 4]
  %c = add(%a, %b) : f32[T, 4]
  %d = transpose(%c) {perm=(1, 0)} : f32[4, T]
  %e = transpose(%d) {perm=(1, 0)} : f32[T, 4]
  %g = reshape(%e) {shape=(<T>, 2, 2)} : f32[T, 2, 2]
  %h = reshape(%g) {shape=(<T>, 4)} : f32[T, 4]
  %u = neg(%x) : f32[T, 4]
  return %h
}"""
    )
    assert ops(run(module, canonicalise)) == ["exp", "add"]


def test_canonicalise_keeps_real_transposes():
    text = "func @f(%x: f32[T, 4]) {\n  %d = transpose(%x) {perm=(1, 0)} : f32[4, T]\n  return %d\n}"
    assert ops(run(module_of(text), canonicalise)) == ["transpose"]


SORT = """func @f(%x: f32[T, 9]) {
  %v, %i = sort(%x) {descending=True} : f32[T, 9], i64[T, 9]
  %a = slice(%i) {axis=1, start=0, stop=3} : i64[T, 3]
  %b = slice(%v) {axis=1, start=0, stop=3} : f32[T, 3]
  return %a, %b
}"""


def test_sort_becomes_topk():
    assert ops(run(module_of(SORT), sort_to_topk)) == ["topk"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("descending=True", "descending=False"),
        ("return %a, %b", "return %a, %i"),
        (
            "%b = slice(%v) {axis=1, start=0, stop=3} : f32[T, 3]",
            "%b = slice(%v) {axis=1, start=0, stop=4} : f32[T, 4]",
        ),
        ("start=0, stop=3} : i64", "start=1, stop=4} : i64"),
    ],
)
def test_sort_stays_where_more_is_read(old, new):
    assert SORT.count(old) == 1
    assert "sort" in ops(run(module_of(SORT.replace(old, new)), sort_to_topk))


EXPERTS = """func @f(%x: f32[T, 6], %i: i64[T, 2], %w: f32[5, 7, 6]) {
  %g = take(%w, %i) : f32[T, 2, 7, 6]
  %r = reshape(%g) {shape=(<2*T>, 7, 6)} : f32[2*T, 7, 6]
  %a = reshape(%x) {shape=(<T>, 1, 6, 1)} : f32[T, 1, 6, 1]
  %b = broadcast(%a) {shape=(<T>, 2, 6, 1)} : f32[T, 2, 6, 1]
  %c = reshape(%b) {shape=(<2*T>, 6, 1)} : f32[2*T, 6, 1]
  %m = matmul(%r, %c) : f32[2*T, 7, 1]
  return %m
}"""


def test_gathered_experts_are_fused():
    module = run(module_of(EXPERTS, ("w",)), fuse_expert_linear)
    fused = [n for n in module.programs["f"].graph.nodes if n.op == "expert_linear"]
    assert len(fused) == 1 and "take" not in ops(module)
    assert fused[0].inputs[0].type.rank == 2  # one row serves both experts: it is not repeated


def test_experts_stay_where_the_gather_is_not_theirs():
    text = EXPERTS.replace(
        "%i: i64[T, 2], %w: f32[5, 7, 6]) {", "%i: i64[T, 2], %w0: f32[5, 7, 6]) {\n  %w = neg(%w0) : f32[5, 7, 6]"
    )
    assert "expert_linear" not in ops(run(module_of(text, ("w0",)), fuse_expert_linear))


def test_experts_keep_a_gather_that_is_read_again():
    text = EXPERTS.replace("return %m", "return %m, %g")
    module = run(module_of(text, ("w",)), fuse_expert_linear)
    assert "take" in ops(module) and "expert_linear" in ops(module)


FOLD = """func @f(%x: f32[T, 6], %w: f32[4, 6], %g: f32[6]) {
  %a = mul(%w, %g) : f32[4, 6]
  %b = transpose(%a) {perm=(1, 0)} : f32[6, 4]
  %m = matmul(%x, %b) : f32[T, 4]
  return %m
}"""


def test_weight_arithmetic_is_folded():
    module = run(module_of(FOLD, ("w", "g")), fold_weights)
    assert "mul" not in ops(module) and len(module.folded) == 1
    (folded,) = module.folded.values()
    assert folded.sources == ["w", "g"]


def test_folding_keeps_away_from_inputs_and_views():
    assert "mul" in ops(run(module_of(FOLD, ("w",)), fold_weights))
    view = FOLD.replace("%a = mul(%w, %g) : f32[4, 6]", "%a = reshape(%w) {shape=(4, 6)} : f32[4, 6]")
    assert not run(module_of(view, ("w", "g")), fold_weights).folded


class Layer(nn.Module):
    def __init__(self, width: int, extra: bool = False):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.sigmoid(self.a(x)) * self.b(x)
        return torch.softmax(x + y, -1) if self.extra else x + y


class Stack(nn.Module):
    def __init__(self, kinds: list[bool]):
        super().__init__()
        self.layers = nn.ModuleList([Layer(8, kind) for kind in kinds])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize(("kinds", "functions"), [([False] * 5, 1), ([False, True, False, True], 2)])
def test_equal_layers_share_one_function(kinds, functions):
    module = trace_module(Stack(kinds), [torch.zeros(6, 8)], [{0: "T"}])
    run(module, outline)
    assert len(module.functions) == functions
    assert ops(module, "forward") == ["call"] * len(kinds)


def test_table_refuses_a_pass_before_what_it_requires():
    with pytest.raises(IRError, match="requires"):
        run_passes(module_of(SORT), passes=(Pass("x", sort_to_topk, frozenset({"canonical"})),))


def test_a_wrong_rewrite_is_caught_and_named():
    def smallest_instead(module: Module) -> None:
        sort_to_topk(module)
        graph = module.programs["f"].graph
        graph.rename()
        text = print_graph(graph)
        assert text.count("topk(%x)") == 1
        module.programs["f"].graph = parse_graph(
            text.replace("%v0, %v1 = topk(%x)", "%n = neg(%x) : f32[T, 9]\n  %v0, %v1 = topk(%n)")
        )

    module = module_of(SORT)
    module.programs["f"].graph.rename()
    with pytest.raises(IRError, match="pass broken changed f's output"):
        run_passes(module, validate=True, passes=(Pass("broken", smallest_instead),))


def test_dump_writes_every_stage(tmp_path):
    run_passes(module_of(SORT), dump_dir=tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names[0] == "00-traced.ir" and names[-1].startswith(f"{len(PASSES):02d}-")
    assert "topk" in (tmp_path / "03-sort_to_topk.ir").read_text()


def test_module_text_names_functions():
    module = trace_module(Stack([False, False]), [torch.zeros(6, 8)], [{0: "T"}])
    run_passes(module)
    assert "func @block_0" in print_module(module) and "call(" in print_module(module)
    assert np.isfinite(snapshot(module).outputs["forward"][0]).all()


class Rounds(nn.Module):
    """x -> x / (sum(x) + eps), n times, over alternate axes; `skip` leaves one round out of step."""

    def __init__(self, rounds: int, skip: bool = False):
        super().__init__()
        self.rounds, self.skip = rounds, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.exp(x)
        for i in range(self.rounds):
            x = x / (x.sum(-1, keepdim=True) + (0.1 * i if self.skip else 1e-6))
            x = x / (x.sum(-2, keepdim=True) + 1e-6)
        return x


def test_unrolled_rounds_become_calls():
    module = run(run(trace_module(Rounds(9), [torch.rand(6, 4, 4)], [{0: "T"}]), canonicalise), reroll)
    assert ops(module, "forward").count("call") >= 8 and len(module.functions) == 1
    assert ops(module, "forward").count("reduce_sum") <= 2


@pytest.mark.parametrize("net", [Rounds(2), Rounds(9, skip=True)])
def test_too_few_or_differing_rounds_stay(net):
    module = run(run(trace_module(net, [torch.rand(6, 4, 4)], [{0: "T"}]), canonicalise), reroll)
    assert "call" not in ops(module, "forward")
