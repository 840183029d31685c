"""How many operators one pass through a program executes: calls expanded, views and constants left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pangu_compile.ir import Graph, Module, opdef

FUSED = ("dsa_attention", "swa_attention", "dense_attention", "moe_ffn", "dense_ffn", "mhc_pre", "mhc_post")
PRIMITIVES = ("softmax", "topk", "sort", "put_rows", "take_along")  # those that belong inside fused operators
CHAINS = {"mhc_post_pre": ("mhc_post", "mhc_pre")}  # one operator that stands for several
_SILENT = frozenset({"constant", "size"})  # known when the step begins: nothing is launched for them


def is_launched(op: str) -> bool:
    """Does the operator run anything? Views, constants and sizes do not; a call is only its callee's operators."""
    return op != "call" and op not in _SILENT and opdef(op).kind != "view"


CATEGORIES = ("fused", "matrix", "selection", "pointwise", "movement", "constant")
_CATEGORY = {
    **dict.fromkeys(("matmul", "expert_linear"), "matrix"), **dict.fromkeys(("softmax", "topk", "sort", "argmax"), "selection"),
    **dict.fromkeys(("concat", "put_rows", "take", "take_along"), "movement"),
    **dict.fromkeys(("constant", "size", "iota"), "constant"),
}  # fmt: skip
_KIND = {"fused": "fused", "reduce": "selection", "view": "movement", "gather": "movement", "pointwise": "pointwise"}


def category(op: str) -> str:
    """What a primitive operator is about; everything that passes made is "fused"."""
    if op in _CATEGORY:
        return _CATEGORY[op]
    return "constant" if op == "call" else _KIND.get(opdef(op).kind, "pointwise")


def executed(module: Module, graph: Graph) -> Counter[str]:
    """Operator name -> how often one pass through `graph` reaches it, through all calls. Everything but calls is counted."""
    known: dict[str, Counter[str]] = {}

    def count(g: Graph) -> Counter[str]:
        total: Counter[str] = Counter()
        for node in g.nodes:
            if node.op != "call":
                total[node.op] += 1
                continue
            name = node.attrs["function"]
            if name not in known:
                known[name] = count(module.functions[name])
            total.update(known[name])
        return total

    return count(graph)


def launched(counts: Counter[str]) -> int:
    """Operators that run something."""
    return sum(n for op, n in counts.items() if is_launched(op))


def programs_of(module: Module, names: Iterable[str]) -> Counter[str]:
    """Operators of several programs together."""
    total: Counter[str] = Counter()
    for name in names:
        total.update(executed(module, module.programs[name].graph))
    return total


def fused(counts: Counter[str]) -> dict[str, int]:
    """Counts by the names of the model card; a chain counts as each operator that it stands for."""
    total = Counter(counts)
    for chain, parts in CHAINS.items():
        for part in parts:
            total[part] += counts[chain]
    return {name: total[name] for name in FUSED}


def primitives_left(counts: Counter[str]) -> dict[str, int]:
    """Selections, softmaxes and scatters that no fused operator has taken in."""
    return {name: counts[name] for name in PRIMITIVES}


def draft_programs(module: Module) -> list[str]:
    """The programs of the MTP heads."""
    return [name for name in module.programs if name.startswith("draft_")]
