"""Where weights and states are used, through all calls: that decides how each is stored.

mHC parameters, the router and its bias stay float32; convolution kernels are stored [k, C]; the latent cache of a sparse
layer on the vendor's operators lies in two buffers, with the sinks in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pangu_compile.ir import Graph, IRError, Module, Node, Value, opdef

from .choose import Target
from .operators import chosen_steps, is_fused, result_names, slot_names

Origin = tuple[str, str]  # (role kind, name)
WIDE_SLOTS = {("mhc_pre", s) for s in ("phi", "alpha", "beta", "gamma")}
WIDE_SLOTS |= {(op, s) for op, s in WIDE_SLOTS for op in ("mhc_post_pre", "mhc_merge")}
WIDE_SLOTS |= {("moe_gate", "router"), ("moe_gate", "bias")}
CONV_SLOTS = {("mla_prologue", "q_conv"), ("mla_prologue", "kv_conv"), ("attention_output", "o_conv"), ("mome_conv", "weight")}


@dataclass
class SparseState:
    """An append cache in two buffers: columns before `split`, and after; `sinks`: weight whose rows come in front, or None."""

    split: int
    sinks: str | None
    prefix: int


@dataclass
class Usage:
    """slots: weight -> the (operator, slot) pairs that read it. sparse: state -> its layout."""

    slots: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    sparse: dict[str, SparseState] = field(default_factory=dict)

    def is_wide(self, weight: str) -> bool:
        """Kept in float32 whatever the artifact's dtype. IRError where a weight has uses that disagree."""
        return self._all(weight, WIDE_SLOTS)

    def is_conv(self, weight: str) -> bool:
        """Stored [k, C]. IRError where a weight has uses that disagree."""
        return self._all(weight, CONV_SLOTS)

    def _all(self, weight: str, slots: set[tuple[str, str]]) -> bool:
        used = self.slots.get(weight, set())
        if used and used & slots and not used <= slots:
            raise IRError(f"weight {weight} is used in ways that need different storage: {sorted(used)}")
        return bool(used & slots)


class _Walker:
    def __init__(self, module: Module, target: Target):
        self.module, self.target, self.usage = module, target, Usage()

    def graph(self, graph: Graph, origins: Mapping[Value, Origin]) -> list[Origin | None]:
        """Origins of the graph's outputs, given those of its parameters."""
        known: dict[Value, Origin] = dict(origins)
        for node in graph.nodes:
            if node.op == "call":
                callee = self.module.functions[node.attrs["function"]]
                inner = {p: known[v] for p, v in zip(callee.params, node.inputs, strict=True) if v in known}
                results = self.graph(callee, inner)
                known.update((v, o) for v, o in zip(node.outputs, results, strict=True) if o is not None)
            else:
                self._node(node, known)
        return [known.get(v) for v in graph.outputs]

    def _node(self, node: Node, known: dict[Value, Origin]) -> None:
        names = slot_names(node) if is_fused(node.op) else tuple(str(i) for i in range(len(node.inputs)))
        for slot, v in zip(names, node.inputs, strict=True):
            if v in known and known[v][0] in ("weight", "constant"):
                self.usage.slots.setdefault(known[v][1], set()).add((node.op, slot))
        if not is_fused(node.op):
            return
        by_slot = dict(zip(names, node.inputs, strict=True))
        for result, slot in opdef(node.op).updates.items():
            if result in result_names(node) and by_slot[slot] in known:
                known[node.outputs[result_names(node).index(result)]] = known[by_slot[slot]]
        if node.op == "dsa_attention" and chosen_steps(node, self.target)["sparse"].vendor:
            self._sparse(by_slot, known)

    def _sparse(self, by_slot: Mapping[str, Value], known: Mapping[Value, Origin]) -> None:
        kind, state = known.get(by_slot["cache"], ("", ""))
        sinks = by_slot.get("sinks")
        if kind != "state" or (sinks is not None and known.get(sinks, ("", ""))[0] not in ("weight", "constant")):
            raise IRError("sparse attention on the vendor's operator reads a state and sinks that are a weight")
        prefix = 0 if sinks is None else int(sinks.type.shape[0])
        name = None if sinks is None else known[sinks][1]
        self.usage.sparse[state] = SparseState(int(by_slot["kv_b"].type.shape[1]), name, prefix)


def find_usage(module: Module, target: Target) -> Usage:
    """Uses of every weight and the layout of sparse states, over all programs."""
    walker = _Walker(module, target)
    for program in module.programs.values():
        roles = zip(program.graph.params, program.params, strict=True)
        walker.graph(program.graph, {v: (role.kind, role.key) for v, role in roles if role.kind != "input"})
    return walker.usage
