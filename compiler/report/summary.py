"""Everything that a report shows, as one JSON-ready record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pangu_compile.ir import Module

from .arena import arena_table
from .cost import OperatorTotal, Work, by_operator, program_work, total_work
from .counts import draft_programs, executed, fused, launched, primitives_left, programs_of
from .graphs import layer_functions, layer_graphs
from .minimum import Minimum, decode_minimum, stored_as
from .recorder import Recorder
from .roofline import Chip
from .speculation import curve, expected_tokens, source_of
from .storage import cache_table, contexts, weight_table

if TYPE_CHECKING:
    from pangu_compile.models.config import OpenPanguConfig

PREFILL = 512  # tokens of the prefill call that is costed
ASSUMPTIONS = (
    "Times are lower bounds: every operator takes the longer of its flops at peak and its bytes at full bandwidth; "
    "launches, synchronisation and transfers between chips cost nothing.",
    "Bytes count every operand read once and every result written once, activations included, in the formats that the "
    "weights and states are stored in.",
    "With several chips the model is assumed to be split evenly among them; the times are those of one chip that does "
    "all the work.",
    "Speculation: the trunk runs once on the last token and all drafts (each token with experts of its own), each MTP "
    "head once; acceptance of one draft does not depend on the others.",
)


@dataclass(frozen=True)
class Compiled:
    """A compiled model: its configuration, optimised module, plan record (plan.json) and the history of its passes.

    plan: None where memory is not laid out by this project's planner for CPUs (targets with plans of their own).
    trunk_shapes: shapes of the base model's parameters by canonical name, from the configuration.
    """

    config: OpenPanguConfig
    module: Module
    plan: Mapping[str, Any] | None
    trunk_shapes: Mapping[str, tuple[int, ...]]
    recorder: Recorder = field(default_factory=Recorder)


@dataclass(frozen=True)
class View:
    """What is looked at: rows cached at decode, the chip, and the acceptance rate of each draft head."""

    context: int
    chip: Chip
    acceptance: Sequence[float] = ()


def model_summary(compiled: Compiled, view: View) -> dict[str, Any]:
    """Counts, costs, storage, time and graphs of a compiled model."""
    config, module = compiled.config, compiled.module
    env = {"T": 1, "S": view.context, "M": 1}
    counts = executed(module, module.programs["step"].graph)
    work = program_work(module, module.programs["step"], env)
    least = decode_minimum(config, compiled.trunk_shapes, module.states, stored_as(module), view.context)
    caches = cache_table(config, module.states, contexts(config.max_position_embeddings))
    weights = weight_table(module, config.num_hidden_layers)
    operators = by_operator(work, view.chip.seconds)
    return {
        "config": config.to_dict(),
        "layers": layer_table(config, module),
        "fused": fused(counts),
        "mtp": fused(programs_of(module, draft_programs(module))),
        "primitives_left": primitives_left(counts),
        "decode": _decode(compiled, view, launched(counts), total_work(work), least),
        "operators": _operator_table(operators, view.chip),
        "prefill": _prefill(compiled, view),
        "time": _time(compiled, view, sum(t.seconds for t in operators), weights, caches),
        "parameters": {"total": sum(k["parameters"] for k in weights["by_kind"]), "active": least.parameters},
        "weights_by_kind": weights["by_kind"],
        "weights_by_dtype": weights["by_dtype"],
        "caches": caches,
        "arena": _arena(compiled),
        "passes": compiled.recorder.history(),
        "graphs": [{**g, "history": compiled.recorder.lineage(g["function"])} for g in layer_graphs(module, env)],
        "assumptions": list(ASSUMPTIONS),
    }  # fmt: skip


def _arena(compiled: Compiled) -> dict[str, Any] | None:
    limits = {name: p.limits for name, p in compiled.module.programs.items()}
    return arena_table(compiled.plan, limits) if compiled.plan is not None else None


def _operator_table(operators: Sequence[OperatorTotal], chip: Chip) -> list[dict[str, Any]]:
    return [
        {"op": t.op, "count": t.count, "flops": t.flops, "bytes": t.bytes, "intensity": round(t.intensity, 4),
         "seconds": t.seconds, "bound": _bound(t.flops, t.bytes, chip)}
        for t in operators
    ]  # fmt: skip


def _prefill(compiled: Compiled, view: View) -> dict[str, Any]:
    """The operators of one call on PREFILL tokens with `context` rows cached."""
    tokens = min(PREFILL, view.context)
    env = {"T": tokens, "S": view.context, "M": 1}
    operators = by_operator(program_work(compiled.module, compiled.module.programs["step"], env), view.chip.seconds)
    seconds = sum(t.seconds for t in operators)
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds if seconds else None,
            "operators": _operator_table(operators, view.chip)}  # fmt: skip


def layer_table(config: OpenPanguConfig, module: Module | None = None) -> list[dict[str, Any]]:
    """Attention and FFN kinds of every base and MTP layer, and the outlined function that computes it."""
    owner = {layer: name for name, layers in layer_functions(module).items() for layer in layers} if module else {}
    return [_layer(config, index, owner) for index in range(config.num_layers)]


def _layer(config: OpenPanguConfig, index: int, owner: Mapping[str, str]) -> dict[str, Any]:
    kind = config.attention_kind(index)
    layer: dict[str, Any] = {"index": index, "attention": kind, "ffn": "moe" if config.is_moe(index) else "dense"}
    if kind == "swa":
        layer["window"] = config.window(index)
    if kind == "dsa":
        layer["index_topk"] = config.index_topk
    layer["block_post_norm"] = index in config.block_post_layernorm_idx
    head = index - config.num_hidden_layers + 1
    if head > 0:
        layer["mtp_head"] = head
    function = owner.get(f"mtp.{head}" if head > 0 else str(index))
    if function is not None:
        layer["function"] = function
    return layer


def _decode(compiled: Compiled, view: View, after: int, work: Work, least: Minimum) -> dict[str, Any]:
    layers = compiled.config.num_hidden_layers
    before = compiled.recorder.launched_before()
    return {
        "context": view.context,
        "operators_per_layer_before": round(before / layers, 2),
        "operators_per_layer_after": round(after / layers, 2),
        "operators_before": before,
        "operators_after": after,
        "flops_per_token": work.flops,
        "bytes_per_token": work.bytes,
        "bytes_minimum": least.total,
        "ratio": round(work.bytes / least.total, 6),
        "bytes_activations": work.activations,
        "bytes_minimum_weights": least.weights,
        "bytes_minimum_caches": least.caches,
    }


def _bound(flops: int, moved: int, chip: Chip) -> str:
    return "compute" if flops > moved * chip.ridge else "memory"


def _time(
    compiled: Compiled, view: View, step: float, weights: Mapping[str, Any], caches: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    chip, module = view.chip, compiled.module
    heads = len(draft_programs(module))
    resident = sum(k["bytes"] for k in weights["by_kind"]) + caches["bytes_fixed"] + caches["bytes_per_token"] * view.context
    record: dict[str, Any] = {
        "chip": chip.to_json(),
        "step_seconds": step,
        "tokens_per_second": 1 / step if step else None,
        "resident_bytes": resident,
        "chips_needed": max(1, math.ceil(resident / chip.memory_bytes)) if chip.memory_bytes else None,
    }
    if heads:
        record["speculation"] = _speculation(module, view, heads)
    return record


def _speculation(module: Module, view: View, heads: int) -> dict[str, Any]:
    """One speculative step: every head drafts a token, then the trunk reads the last token and the drafts at once."""
    rates = list(view.acceptance)[:heads]
    tokens = len(rates) + 1

    def seconds(name: str, rows: int) -> float:
        env = {"T": rows, "S": view.context, "M": rows}
        return sum(view.chip.seconds(a.node.op, a.work) for a in program_work(module, module.programs[name], env))

    drafts = sum(seconds(name, 1) for name in draft_programs(module)[: len(rates)])
    verify, expected = seconds("step", tokens), expected_tokens(rates)
    return {
        "heads": heads, "acceptance": rates, "source": source_of(rates),
        "expected_tokens_per_step": round(expected, 4), "verify_tokens": tokens,
        "verify_seconds": verify, "draft_seconds": drafts,
        "tokens_per_second": expected / (verify + drafts) if verify + drafts else None,
        "curve": [[a, round(e, 4)] for a, e in curve(heads)],
    }  # fmt: skip
