"""`inspect --target ascend910b`: launches, bytes and estimated times of decode steps, from the host program and the cost model.

A lower bound with a launch gap: nothing here was measured on a device. Every assumption is in the record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pangu_compile.ir import Graph, Module, Node, Program, Value, evaluate_dim, opdef
from pangu_compile.report.cost import concrete
from pangu_compile.report.roofline import MATRIX, Chip
from pangu_compile.report.speculation import expected_tokens

from .ascend_launches import Plan, launch_record

if TYPE_CHECKING:
    from pangu_compile.models.config import OpenPanguConfig

BATCHES = (1, 8, 32, 128)
CONTEXTS = (4096, 32768, 524288)
LAUNCH_SECONDS = 4e-6
USABLE_MEMORY = 0.9
PUBLISHED = (
    "Published, for orientation and of another model: Pangu Pro MoE (72B, 16B active) decodes 1148 tokens/s per card on an"
    " 800I A2, 1528 with speculation."
)
# Cube products for one of float32 rows, which are split: high and low parts by weights, or both parts of two such rows but for the
# product of their low parts. Int8 rows are as many as they have digits.
SPLIT_PRODUCTS = {
    **dict.fromkeys(("linear", "mla_prologue", "index_prologue", "attention_output", "moe_ffn", "dense_ffn", "lm_head_argmax"), 2),
    **dict.fromkeys(("swa_attention", "dsa_attention", "dense_attention"), 3),
}
STORAGE = {
    "float32": "Caches and activations keep float32's accuracy in 4 bytes an element, twice those of bf16, and products of them"
    " run two or three times; they are read and written for every sequence, and nothing stays in L2.",
    "bf16": "Caches and activations are bf16 (residual streams float32) and are read and written for every sequence; nothing"
    " stays in L2.",
}
ASSUMPTIONS = (
    f"Each launch adds {LAUNCH_SECONDS * 1e6:.0f} us between the end of one kernel and the start of the next; a vendor operator"
    " counts as one launch.",
    "An operator takes the longer of its flops at peak and its bytes at full bandwidth; int8 products run at twice the 16-bit"
    " peak, once for each digit of their rows.",
    "Batches are an estimate only: the generated host program runs one sequence a session, so a batch of more than one assumes"
    " a serving layer that joins sequences into one call.",
    "Weights are read once a step; of E experts, k a token, tokens that choose independently and evenly read"
    " E (1 - (1 - k/E)^tokens).",
    "The model and the caches of all sequences are split evenly over as few cards as hold them in"
    f" {USABLE_MEMORY:.0%} of their memory; transfers between cards cost nothing, launches are not split.",
    "With MTP the trunk runs on the last token and all drafts of every sequence, and each head once; acceptance of one draft does"
    " not depend on the others.",
)


@dataclass(frozen=True)
class Traffic:
    """One operator on one token of one sequence. experts: (count, chosen, bytes of all), where it has routed ones.

    streams: what of the activations is residual streams.
    """

    op: str
    flops: float
    weights: float
    caches: float
    activations: float
    digits: int  # of int8 rows, by int8 weights; 0: neither is int8
    experts: tuple[int, int, float] | None = None
    streams: float = 0.0

    def bytes(self, tokens: int, sequences: int) -> float:
        """`tokens` in all, of `sequences`: a window, or a whole cache, is read once a sequence, chosen rows once a token."""
        routed = 0.0
        if self.experts is not None:
            count, chosen, size = self.experts
            routed = size * (1 - (1 - chosen / count) ** tokens)
        reads = tokens if self.op == "dsa_attention" else sequences
        return self.weights + routed + self.caches * reads + self.activations * tokens

    def seconds(self, chip: Chip, tokens: int, sequences: int) -> float:
        peak = (chip.matrix_flops * (2 if self.digits else 1)) if self.op in MATRIX else chip.vector_flops
        return max(self.flops * tokens / peak, self.bytes(tokens, sequences) / chip.bytes_per_second)


def traffic(module: Module, program: Program, context: int, wide: bool) -> list[Traffic]:
    """Every operator of a program on one token. wide: activations and caches keep float32's accuracy."""
    kinds = {v: r.kind for v, r in zip(program.graph.params, program.params, strict=True)}
    found = _walk(module, program.graph, {"T": 1, "S": context, "M": 1}, kinds)
    return [_stored(t, wide) for t in found if t.flops or t.weights or t.caches or t.activations]


def _stored(t: Traffic, wide: bool) -> Traffic:
    """On the device: the IR has float32 everywhere. Streams are float32 in any case."""
    if wide:
        return replace(t, flops=t.flops * (t.digits or SPLIT_PRODUCTS.get(t.op, 1)))
    return replace(t, caches=t.caches / 2, activations=(t.activations + t.streams) / 2)


def _walk(module: Module, graph: Graph, env: Mapping[str, int], kinds: dict[Value, str]) -> Iterator[Traffic]:
    for node in graph.nodes:
        if node.op == "call":
            callee = module.functions[node.attrs["function"]]
            inner = {**env, **{name: evaluate_dim(d, env) for name, d in node.dims.items()}}
            yield from _walk(module, callee, inner, {p: kinds.get(v, "") for p, v in zip(callee.params, node.inputs, strict=True)})
            continue
        kinds |= _updated(node, kinds)
        yield _operator(node, env, kinds)


def _updated(node: Node, kinds: Mapping[Value, str]) -> dict[Value, str]:
    """Results that are states again."""
    updates = opdef(node.op).updates
    operand = dict(zip(node.attrs.get("slots", ()), node.inputs, strict=False))
    found = {}
    for name, value in zip(node.attrs.get("results", ()), node.outputs, strict=False):
        old = operand.get(updates.get(name, ""))
        if old is not None and kinds.get(old) == "state":
            found[value] = "state"
    return found


def _operator(node: Node, env: Mapping[str, int], kinds: Mapping[Value, str]) -> Traffic:
    from pangu_compile.codegen.ascend.host import DIGITS

    types = {v: concrete(v.type, env) for v in (*node.inputs, *node.outputs)}
    cost = opdef(node.op).cost([types[v] for v in node.inputs], [types[v] for v in node.outputs], node.attrs)
    flops, moved = float(evaluate_dim(cost.flops, env)), float(evaluate_dim(cost.bytes, env))
    slots = dict(zip(node.attrs.get("slots", ()), node.inputs, strict=False))
    matrices = [v for v in node.inputs if kinds.get(v) in ("weight", "constant")]
    fresh = [v for v in (*node.inputs, *node.outputs) if not kinds.get(v) and types[v].rank > 0]
    activations = float(sum(int(types[v].nbytes) for v in fresh))
    experts, weights = None, float(sum(int(types[v].nbytes) for v in matrices))
    if node.op == "moe_ffn":
        stacked = [types[slots[n]] for n in ("gate_up", "down")]
        size = float(sum(int(t.nbytes) for t in stacked))
        experts = int(stacked[0].shape[0]), int(types[slots["index"]].shape[1]), size
        weights, caches = weights - size, 0.0
    elif node.op == "take":
        weights, caches = 0.0, 0.0
    elif opdef(node.op).kind == "view":
        return Traffic(node.op, 0, 0, 0, 0, 0)
    else:
        caches = max(0.0, moved - weights - activations)
    streams = float(sum(int(types[v].nbytes) for v in fresh if types[v].rank == 3 and node.op.startswith("mhc")))
    digits = max((DIGITS.get(types[v].dtype.value, 0) for v in matrices), default=0)
    return Traffic(node.op, flops, weights, caches, activations, digits, experts, streams)


def _step(
    chip: Chip, trunk: Sequence[Traffic], heads: Sequence[Sequence[Traffic]], batch: int, launches: int, cards: int
) -> float:  # fmt: skip
    """Seconds of one step of `batch` sequences, with the heads' drafts where there are heads."""
    tokens = batch * (len(heads) + 1)
    work = sum(t.seconds(chip, tokens, batch) for t in trunk)
    work += sum(t.seconds(chip, batch, batch) for head in heads for t in head)
    return work / cards + LAUNCH_SECONDS * launches


def _cards(chip: Chip, weights: float, caches: float, batch: int) -> int:
    memory = (chip.memory_bytes or 1) * USABLE_MEMORY
    return max(1, math.ceil((weights + caches * batch) / memory))


def cache_bytes(module: Module, context: int, wide: bool) -> int:
    """Bytes of one sequence's states on the device."""
    return sum((4 if wide else 2) * s.width * (s.rows if s.rows is not None else context) for s in module.states.values())


def estimate(
    module: Module, plan: Plan, config: OpenPanguConfig, chip: Chip, acceptance: Sequence[float], minimum: int, context: int
) -> dict[str, Any]:
    """The record `ascend` of `inspect --json`.

    Args:
        plan: of the host program (plan.json).
        minimum: bytes that a step at `context` cannot avoid, in the device's formats.
    """
    wide = plan["activations"] == "float32"
    heads = [name for name in (f"draft_{i}" for i in range(1, len(acceptance) + 1)) if name in module.programs]
    launches = launch_record(plan, config.num_hidden_layers, heads)
    own, drafted_launches = launches["step"], launches["step"] + sum(launches["drafts"].values())
    weights = float(sum(int(t.nbytes) for t in module.weights.values()))
    rows = []
    for rows_cached in [c for c in CONTEXTS if c <= config.max_position_embeddings] or [context]:
        trunk = traffic(module, module.programs["step"], rows_cached, wide)
        extra = [traffic(module, module.programs[name], rows_cached, wide) for name in heads]
        for batch in BATCHES:
            cards = _cards(chip, weights, cache_bytes(module, rows_cached, wide), batch)
            plain = _step(chip, trunk, [], batch, own, cards)
            row: dict[str, Any] = {
                "context": rows_cached, "batch": batch, "cards": cards, "seconds": plain,
                "hbm_bytes": sum(t.bytes(batch, batch) for t in trunk), "tokens_per_second_per_card": batch / plain / cards,
            }  # fmt: skip
            if heads:
                drafted = _step(chip, trunk, extra, batch, drafted_launches, cards)
                row |= {
                    "seconds_with_mtp": drafted, "tokens_per_step_with_mtp": expected_tokens(acceptance),
                    "tokens_per_second_per_card_with_mtp": batch * expected_tokens(acceptance) / drafted / cards,
                }  # fmt: skip
            rows.append(row)
    assumptions = [*ASSUMPTIONS, STORAGE[plan["activations"]], *chip.derivation, PUBLISHED]
    one = sum(t.bytes(1, 1) for t in traffic(module, module.programs["step"], context, wide))
    return {
        "target": chip.target, "chip": chip.name,
        "activations": plan["activations"], "launches": launches,
        "bytes_per_token": {"context": context, "moved": one, "minimum": minimum, "ratio": one / minimum},
        "steps": rows, "acceptance": list(acceptance), "assumptions": assumptions,
    }  # fmt: skip


def device_module(module: Module, activations: str) -> Module:
    """The module with states of the device's sizes, for the minimum."""
    dtype = "f32" if activations == "float32" else "bf16"
    return replace(module, states={name: replace(s, dtype=dtype) for name, s in module.states.items()})

