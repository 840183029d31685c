"""Scratch that the kernel of a fused operator needs while it runs, in bytes.

Nothing here grows with the context but the indexer's scores, and those are held for a few query rows at a time.
The kernels (codegen/cpu/kernels) carve what they need from this and stop the program where it is too small.
"""

from __future__ import annotations

from collections.abc import Callable

import sympy

from pangu_compile.ir import Node, TensorType
from pangu_compile.ir.slots import named
from pangu_compile.ir.types import Dim, dim

FLOAT = 4
LINE = 64  # every section starts at a cache line
PIECES = 16  # of a token's keys whose sums are kept apart (pangu_attention.h: kPieces)
TOKEN_BLOCK = 32  # query tokens whose absorbed queries are held at once (pangu_attention.h: kTokenBlock)
FEW_TOKENS = 8  # pangu_fused.h: kFewTokens
HEAD_ROWS = 64  # rows of the head's matrix compared at once (pangu_mtp.h: kRows)
SCORE_ROWS = 4  # query rows scored at once (pangu_index.h: kScoreRows)
CANDIDATES = 8  # times topk: keys that bounds of their scores may leave (pangu_index.h: kCandidates)
CODE_BLOCK = 48  # keys whose codes lie together (pangu_codes.h: kCodeBlock)


def _sections(*elements: Dim) -> Dim:
    """Bytes of arrays of 4-byte elements, one after the other."""
    return dim(sum(FLOAT * n + LINE for n in elements))


def _at_most(a: Dim, bound: int) -> Dim:
    return min(a, bound) if isinstance(a, int) else dim(sympy.Min(a, bound))


def _rows(tokens: Dim, width: int, *weights: TensorType) -> Dim:
    """4-byte elements for `tokens` rows made ready for the formats of `weights` (pangu_linear.h: rows_bytes)."""
    quantised = any(w.dtype.is_quantised for w in weights)
    return tokens * (width // 2 + width // 512 * 32 + 96) if quantised else 0


def _types(node: Node) -> dict[str, TensorType]:
    return {name: value.type for name, value in named(node.attrs, node.inputs).items()}


def _prologue(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    results = node.attrs["results"]
    width = t["kv_a"].shape[0]
    low = t["q_a"].shape[0] if "q_a" in t else 0
    kept = 0 if "qr" in results else tokens * low
    rows = 0 if "latent" in results or "new_cache" in results else tokens * width
    few = _at_most(tokens, FEW_TOKENS)
    ready = [_rows(few, int(t[n].shape[1]), t[n]) for n in ("q_a", "kv_a", "q_b") if n in t]
    return _sections(tokens * low, tokens * width, kept, rows, *ready)


def _index(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    few = _at_most(tokens, FEW_TOKENS)
    ready = [_rows(few, int(t[n].shape[1]), t[n]) for n in ("wq_b", "wk", "weights_proj")]
    return _sections(tokens * t["cache"].shape[1], *ready)


def _output(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    return _sections(tokens * t["a"].shape[1]) if "o_conv" in t else 0


def _attention(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    heads = t["q"].shape[1]
    block = _at_most(tokens, TOKEN_BLOCK)
    width = (t["ring"] if "ring" in t else t["cache"]).shape[1]
    latent = int(t["kv_b"].shape[1])
    sections = [block * heads * width, PIECES * heads * latent, PIECES * heads, PIECES * heads]
    if node.attrs["expand_from"]:
        sections.append(2 * tokens * heads)
    if "iq" in t:
        rows, topk = t["cache"].shape[0], node.attrs["topk"]
        choice = rows + topk + 5 * (_at_most(rows, CANDIDATES * topk) + CODE_BLOCK + 1) + CODE_BLOCK + 7 * LINE // FLOAT
        sections += [_at_most(tokens, SCORE_ROWS) * choice, block * _at_most(rows, topk), block]
    return _sections(*sections)


def _ffn(node: Node, tokens: Dim) -> Dim:
    gate = node.inputs[1].type
    inner, few = tokens * gate.shape[0], _at_most(tokens, FEW_TOKENS)
    ready = [_rows(few, int(gate.shape[1]), w.type) for w in node.inputs[1:3]]
    return _sections(inner, inner, *ready)


def _gate(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    return _sections(tokens * t["router"].shape[0])


def _moe(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    k = t["index"].shape[1]
    experts, double, _ = t["gate_up"].shape
    shared = t["shared_gate"].shape[0] * tokens if "shared_gate" in t else 0
    pairs, hidden = tokens * k, int(t["x"].shape[1])
    ready = [_rows(tokens, hidden, t["gate_up"]), _rows(pairs, int(t["down"].shape[2]), t["down"])]
    if shared:
        ready += [_rows(tokens, hidden, t["shared_gate"]), _rows(tokens, int(t["shared_down"].shape[1]), t["shared_down"])]
    return _sections(pairs * double, 2 * shared, experts + 1, experts, 2 * pairs, 2 * pairs, pairs, *ready)


def _head(node: Node, tokens: Dim) -> Dim:
    t = _types(node)
    hidden, blocks = t["x"].shape[1], -(-int(t["w"].shape[0]) // HEAD_ROWS)
    normed = tokens * hidden if "gamma" in t else 0
    return _sections(blocks * tokens, 2 * blocks * tokens, normed, _rows(tokens, int(hidden), t["w"]))


def _sampling(node: Node, tokens: Dim) -> Dim:
    vocab = _types(node)["logits"].shape[1]
    return _sections(2 * vocab, 2 * vocab)


_BYTES: dict[str, Callable[[Node, Dim], Dim]] = {
    "mla_prologue": _prologue, "index_prologue": _index, "attention_output": _output, "swa_attention": _attention,
    "dense_attention": _attention, "dsa_attention": _attention, "dense_ffn": _ffn, "moe_gate": _gate, "moe_ffn": _moe,
    "lm_head_argmax": _head, "mtp_verify": _head, "sample_token": _sampling, "mtp_verify_sampled": _sampling,
}  # fmt: skip


# Of these, threads may take a few tokens each, with scratch of their own (pangu_fused.h: token_shares).
_SHARED = frozenset({"mla_prologue", "dense_ffn", "moe_ffn"})


def workspace_bytes(node: Node) -> Dim:
    """Bytes as a function of T and S; 0 for operators that need none."""
    if node.op not in _BYTES:
        return 0
    tokens = node.inputs[0].type.shape[0]
    together = _BYTES[node.op](node, tokens)
    if node.op not in _SHARED:
        return together
    # At most FEW_TOKENS equal parts: of T tokens on n threads a part is for T / n, rounded up, which are at most 2 T / n.
    parts = FEW_TOKENS * _BYTES[node.op](node, _at_most(tokens, 2))
    return max(together, parts) if isinstance(together, int) and isinstance(parts, int) else dim(sympy.Max(together, parts))
