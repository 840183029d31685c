"""Costs of a decode step, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from pangu_compile.ir import Module, parse_graph
from pangu_compile.report.cost import by_operator, node_work, program_work, total_work

from .conftest import CHIP, C, E, F, H, K, V

DECODE = {"T": 1, "S": 16, "M": 1}


def test_only_chosen_experts_are_read(module: Module) -> None:
    node = next(n for n in module.functions["layer_0"].nodes if n.op == "moe_ffn")
    expert = 2 * F * H + H * F
    work = node_work(node, DECODE)
    assert work.flops == 2 * K * expert
    assert work.bytes == K * expert * 4 + (H + H) * 4 + K * (8 + 4)
    many = node_work(node, {**DECODE, "T": 100})
    assert many.bytes == E * expert * 4 + 100 * (2 * H * 4 + K * 12)


def test_step_is_the_sum_of_its_calls(module: Module) -> None:
    work = program_work(module, module.programs["step"], DECODE)
    ops = {t.op: t for t in by_operator(work, CHIP.seconds)}
    assert ops["moe_ffn"].count == 2 and ops["linear"].count == 3
    head, lat = V * H * 4 + (H + V) * 4, C * H * 4 + (H + C) * 4
    assert ops["linear"].bytes == head + 2 * lat
    assert ops["linear"].flops == 2 * (V * H + 2 * C * H)
    assert ops["take"].bytes == 2 * (2 * H * 4 + 8)
    total = total_work(work)
    assert total.bytes == sum(t.bytes for t in ops.values()) and total.flops == sum(t.flops for t in ops.values())
    assert [t.bytes for t in ops.values()] == sorted((t.bytes for t in ops.values()), reverse=True)
    assert "reshape" not in ops


def test_time_is_the_longer_of_flops_and_bytes(module: Module) -> None:
    (total,) = [t for t in by_operator(program_work(module, module.programs["draft_1"], DECODE), CHIP.seconds) if t.op == "linear"]
    assert total.seconds == pytest.approx(max(total.flops / 1000, total.bytes / 100))


def test_callee_sizes_follow_the_call(module: Module) -> None:
    """A call that binds T binds it for its callee alone."""
    calls = [n for n in module.programs["step"].graph.nodes if n.op == "call"]
    plain = total_work(program_work(module, module.programs["step"], DECODE)).flops
    calls[0].attrs["dims"] = (("T", 2),)
    once = total_work(program_work(module, module.programs["step"], DECODE)).flops
    layer = 2 * C * H + 2 * E * H + 2 * K * (3 * F * H) + C  # the append counts its elements
    assert once - plain == layer


UPDATE = """
func @f(%u: f32[T, 6], %wq: f32[4, 6], %wk: f32[4, 6], %g: f32[4], %wp: f32[1, 6], %table: f32[T, 2], %cache: f32[S, 4]) {
  %iq, %iw, %new = index_prologue(%u, %u, %wq, %wk, %g, %wp, %table, %cache) {heads=1, k_eps=1e-06, results=('iq', 'iw', 'new_cache'), scale=1.0, slots=('u', 'qr', 'wq_b', 'wk', 'k_gamma', 'weights_proj', 'table', 'cache')} : f32[T, 1, 4], f32[T, 1], f32[S + T, 4]
  return %iq, %new
}
"""  # noqa: E501


def test_states_and_weights_are_no_activations() -> None:
    graph = parse_graph(UPDATE)
    (node,) = graph.nodes
    kept = frozenset(p for p in graph.params if p.name not in ("u", "table"))
    work = node_work(node, {"T": 1, "S": 1000}, kept)
    assert work.activations == (6 + 6 + 2 + 4 + 1) * 4
    assert node_work(node, {"T": 1, "S": 1000}).activations == work.bytes  # nothing kept: all of it, at most
