"""Which form of latent attention a call takes: absorbed (scores in latent space) or expanded (per-head keys and values).

Multiply-adds for T tokens that see N keys each, K different keys in all; h heads, C = kv_lora_rank, r, n, v as in the
operators. Absorbed: T h (n + v) C for leaving and entering the latent space, T h N (2 C + r) for scores and values.
Expanded: K h (n + v) C for the keys and values of this call, T h N (n + r + v) for scores and values. A decode step is
always cheaper absorbed; a long chunk shares its expanded keys between many queries.
"""

from __future__ import annotations

from pangu_compile.ir import Module, Node

from .streams import slot

# A call that verifies drafts must round exactly as decode steps do, so short calls never expand.
SHORTEST_CHUNK, LONGEST_CHUNK = 32, 4096
FAR = 1 << 16  # cached rows that stand for "a long context" in a dense layer


def multiply_adds(node: Node, tokens: int, expanded: bool, cached: int = FAR) -> int:
    """Of one call with that many tokens, in the absorbed or the expanded form."""
    kv_b, q = slot(node, "kv_b").type, slot(node, "q").type
    heads, width = int(q.shape[1]), int(q.shape[2])
    nope, v, latent = node.attrs["nope"], node.attrs["v"], int(kv_b.shape[1])
    rope = width - nope
    if node.op == "swa_attention":
        seen, keys = node.attrs["window"], node.attrs["window"] - 1 + tokens
    else:
        seen, keys = cached + tokens // 2, cached + tokens
    if "sinks" in node.attrs["slots"]:
        sinks = int(slot(node, "sinks").type.shape[0])
        seen, keys = seen + sinks, keys + sinks
    if expanded:
        return keys * heads * (nope + v) * latent + tokens * heads * seen * (nope + rope + v)
    return tokens * heads * (nope + v) * latent + tokens * heads * seen * (2 * latent + rope)


def expand_from(node: Node) -> int:
    """The shortest call, of SHORTEST_CHUNK tokens or more, for which expanding is cheaper; 0 where none is."""
    low, high = SHORTEST_CHUNK, LONGEST_CHUNK
    cached = node.attrs["topk"] // 2 if node.op == "dsa_attention" else FAR
    if multiply_adds(node, high, True, cached) >= multiply_adds(node, high, False, cached):
        return 0
    while low < high:
        middle = (low + high) // 2
        if multiply_adds(node, middle, True, cached) < multiply_adds(node, middle, False, cached):
            high = middle
        else:
            low = middle + 1
    return low


def choose_forms(module: Module) -> None:
    """Set `expand_from` of latent attention. A sparse layer is dense while its cache holds no more than topk rows, and the
    kernel expands no further than that: beyond, its queries share few keys."""
    for graph in module.graphs():
        for node in graph.nodes:
            if node.op in ("swa_attention", "dense_attention", "dsa_attention"):
                node.attrs["expand_from"] = expand_from(node)
