"""The attention variants over the latent cache, recognised from products, masks and softmax, and the fused prologues.

A mask decides what may be fused: its every comparison and constant is part of the pattern, so that an edited model with
another mask keeps its primitive operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy

from pangu_compile.ir import Builder, Graph, Module, Node, Value, opdef
from pangu_compile.ir.types import same_dim, same_shape

from .canonicalise import dead_code
from .layers import window_source
from .order import sort_nodes
from .pattern import Match, Pattern, Rule, apply_rules

_QUERY = """
    %qn = slice(%q) {axis=2, start=0, stop=@nope}
    %qt = transpose(%qn) {perm=(1, 0, 2)}
    %kv3 = reshape(%kv_b)
    %key = slice(%kv3) {axis=1, start=0, stop=@nope}
    %ql = matmul(%qt, %key)
    %qlt = transpose(%ql) {perm=(1, 0, 2)}
    %qp = slice(%q) {axis=2, start=@nope}
    %pe = rotary(%qp, %table) {offset=0}
    %joined_query = concat(%qlt, %pe) {axis=2}
    %query = mul(%joined_query, #scale)
"""
_FLAT = "%flat = reshape(%query)\n"
_SHARED_KEYS = _FLAT + """
    %kt = transpose(%keys) {perm=(1, 0)}
    %s2 = matmul(%flat, %kt)
    %scores = reshape(%s2)
"""
_GATHERED_KEYS = """
    %kt = transpose(%keys) {perm=(0, 2, 1)}
    %scores = matmul(%query, %kt)
"""
_MASK = """
    %m3 = reshape(%visible)
    %unseen = logical_not(%m3)
    %masked = where(%unseen, #-inf, %scores)
"""
_SINKS = """
    %sinks = concat(%sink_latent, %sink_pe) {axis=1}
    %st = transpose(%sinks) {perm=(1, 0)}
    %ss2 = matmul(%flat, %st)
    %ss = reshape(%ss2)
    %joint = concat(%ss, %masked) {axis=2}
    %p = softmax(%joint)
    %own = slice(%p) {axis=2, start=@sink_count}
    %sown = slice(%p) {axis=2, start=0, stop=@sink_count}
    %sf = reshape(%sown)
    %sv = matmul(%sf, %sink_latent)
    %sv3 = reshape(%sv)
"""
_NO_SINKS = "%own = softmax(%masked)\n"
_SHARED_VALUES = """
    %val = slice(%keys) {axis=1, start=0, stop=@latent}
    %of = reshape(%own)
    %mv = matmul(%of, %val)
    %mix0 = reshape(%mv)
"""
_GATHERED_VALUES = """
    %val = slice(%keys) {axis=2, start=0, stop=@latent}
    %mix0 = matmul(%own, %val)
"""
_OUT = """
    %mt = transpose(%mix) {perm=(1, 0, 2)}
    %vh = slice(%kv3) {axis=1, start=@nope}
    %vt = transpose(%vh) {perm=(0, 2, 1)}
    %o = matmul(%mt, %vt)
    %ot = transpose(%o) {perm=(1, 0, 2)}
    %out = reshape(%ot)
"""
_CAUSAL = """
    %count = iota() {size=@tokens}
    %cached = size() {value=@cached}
    %position = add(%count, %cached)
    %column = reshape(%position)
    %all = iota() {size=@rows}
    %row = reshape(%all)
    %causal = le(%row, %column)
"""
_DENSE_MASK = _CAUSAL.replace("%causal", "%visible")
_SPARSE = _CAUSAL + """
    %iq_flat = reshape(%iq)
    %ikt = transpose(%index_cache) {perm=(1, 0)}
    %dots = matmul(%iq_flat, %ikt)
    %scaled = mul(%dots, #index_scale)
    %positive = relu(%scaled)
    %per_head = reshape(%positive)
    %iw3 = reshape(%iw)
    %weighed = mul(%per_head, %iw3)
    %summed = reduce_sum(%weighed) {axes=(1,)}
    %score = reshape(%summed)
    %future = logical_not(%causal)
    %ranked = where(%future, #-inf, %score)
    %top, %chosen = topk(%ranked) {k=@k}
    %keys = take(%cache, %chosen)
    %visible = le(%chosen, %column)
"""
_WINDOW = """
    %joined = concat(%ring, %latent_rows) {axis=0}
    %keys = take(%joined, %index)
    %count = iota() {size=@tokens}
    %position = add(%start, %count)
    %column = reshape(%position)
    %row = reshape(%key_position)
    %distance = sub(%column, %row)
    %real = ge(%key_position, #0)
    %real_row = reshape(%real)
    %past = ge(%distance, #0)
    %both = logical_and(%real_row, %past)
    %near = lt(%distance, #window)
    %visible = logical_and(%both, %near)
    %slot = remainder(%position, #ring_rows)
    %new_ring = put_rows(%ring, %slot, %latent_rows)
"""


def _attention(mask: str, scores: str, sinks: bool, values: str, roots: str) -> Pattern:
    mix = "%mix = add(%mix0, %sv3)\n" if sinks else ""
    flat = _FLAT if sinks and scores is _GATHERED_KEYS else ""
    values = values if sinks else values.replace("%mix0", "%mix")
    text = mask + _QUERY + scores + _MASK + flat + (_SINKS if sinks else _NO_SINKS) + values + mix + _OUT
    return Pattern(text + f"return {roots}")


def _common(m: Match) -> dict[str, Any] | None:
    """Attributes that all variants share, or None where the pieces do not fit together."""
    q, kv3, nope = m["q"], m["kv3"], m.attrs["nope"]
    if q.type.rank != 3 or m["kv_b"].type.rank != 2 or not isinstance(q.type.shape[1], int):
        return None
    tokens, heads, width = q.type.shape
    latent, total = m["kv_b"].type.shape[1], kv3.type.shape[1]
    rope = m["table"].type.shape[1]
    fits = (
        same_shape(kv3.type.shape, (heads, total, latent)) and same_dim(width, nope + rope) and m.attrs["latent"] == latent
        and same_dim(m["keys"].type.shape[-1], latent + rope) and same_shape(m["out"].type.shape, (tokens, heads * (total - nope)))
    )  # fmt: skip
    if "sinks" in m.values:
        fits = fits and m.attrs["sink_count"] == m["sinks"].type.shape[0]
    if not fits:
        return None
    return {"nope": nope, "v": int(total - nope), "scale": float(m.numbers["scale"]), "expand_from": 0}


def _build(b: Builder, m: Match, op: str, operands: dict[str, Value], **attrs: Any) -> list[Value]:
    q = b("rotary", m["q"], m["table"], offset=attrs["nope"])
    signature = opdef(op).signature
    assert signature is not None
    named = {"q": q, "kv_b": m["kv_b"], **operands, **({"sinks": m["sinks"]} if "sinks" in m.values else {})}
    slots = tuple(n for n in signature.slots if n in named)
    return b.multi(op, *(named[n] for n in slots), slots=slots, results=signature.results, **attrs)


def _is_causal(m: Match) -> bool:
    tokens = m["q"].type.shape[0]
    rows = m["keys"].type.shape[0] if m["keys"].type.rank == 2 else m["cache"].type.shape[0]
    sized = same_dim(m.attrs["tokens"], tokens) and same_dim(m.attrs["rows"], rows)
    return bool(sized and same_dim(m.attrs["cached"], rows - tokens))


def _dense(b: Builder, m: Match) -> Sequence[Value] | None:
    attrs = _common(m)
    if attrs is None or not _is_causal(m):
        return None
    return _build(b, m, "dense_attention", {"cache": m["keys"]}, **attrs)


def _topk(m: Match) -> int | None:
    """The limit of min(limit, rows)."""
    k, rows = m.attrs["k"], m["cache"].type.shape[0]
    if not isinstance(k, sympy.Min) or len(k.args) != 2:
        return None
    limit = next((int(a) for a in k.args if a.is_Integer), None)
    return limit if limit is not None and any(same_dim(a, rows) for a in k.args) else None


def _dsa(b: Builder, m: Match) -> Sequence[Value] | None:
    attrs, topk = _common(m), _topk(m)
    if attrs is None or topk is None or not _is_causal(m) or m["iq"].type.rank != 3:
        return None
    operands = {name: m[name] for name in ("cache", "iq", "iw", "index_cache")}
    return _build(b, m, "dsa_attention", operands, **attrs, topk=topk, index_scale=float(m.numbers["index_scale"]))


def _swa(b: Builder, m: Match) -> Sequence[Value] | None:
    attrs, window = _common(m), int(m.numbers["window"])
    source = window_source(m["keys"], window - 1)
    if attrs is None or source is None or m.numbers["window"] != window:
        return None
    ring, latent, start = source
    if ring is not m["ring"] or latent is not m["latent_rows"] or start is not m["start"]:
        return None
    chosen = m["index"].producer
    before = chosen.inputs[0].producer if chosen is not None else None
    same_positions = before is not None and before.inputs[0] is m["key_position"]
    if not same_positions or m.numbers["ring_rows"] != ring.type.shape[0] or not same_dim(m.attrs["tokens"], latent.type.shape[0]):
        return None
    return _build(b, m, "swa_attention", {"latent": latent, "ring": ring, "start": start}, **attrs, window=window)


dense_attention = Rule("dense_attention", tuple(
    _attention(_DENSE_MASK, _SHARED_KEYS, sinks, _SHARED_VALUES, "%out") for sinks in (True, False)), _dense)  # fmt: skip
dsa_attention = Rule("dsa_attention", tuple(
    _attention(_SPARSE, _GATHERED_KEYS, sinks, _GATHERED_VALUES, "%out") for sinks in (True, False)), _dsa)  # fmt: skip
swa_attention = Rule("swa_attention", tuple(
    _attention(_WINDOW, _SHARED_KEYS, sinks, _SHARED_VALUES, "%out, %new_ring") for sinks in (True, False)), _swa)  # fmt: skip


# Prologues and the output projection.

_Q_LOW = "%low = linear(%u, %q_a)\n"
_Q = {
    "conv": _Q_LOW + """
    %low_conv, %new_q_ring = mome_conv(%low, %q_conv, %start, %q_ring)
    %qr = rms_norm(%low_conv, %q_norm) {eps=@q_eps}
""",
    "plain": _Q_LOW + "%qr = rms_norm(%low, %q_norm) {eps=@q_eps}\n",
    "full": "",
}  # fmt: skip
_KV = {
    True: """
    %compressed, %new_kv_ring = mome_conv(%c0, %kv_conv, %start, %kv_ring)
    %c = rms_norm(%compressed, %kv_norm) {eps=@kv_eps}
""",
    False: "%c = rms_norm(%c0, %kv_norm) {eps=@kv_eps}\n",
}


def _prologue_pattern(q: str, conv: bool, append: bool) -> Pattern:
    source = "%u" if q == "full" else "%qr"
    text = f"""
    {_Q[q]}
    %qb = linear({source}, %q_b)
    %q3 = reshape(%qb)
    %q = rotary(%q3, %table) {{offset=@offset}}
    %kv = linear(%u, %kv_a)
    %c0 = slice(%kv) {{axis=1, start=0, stop=@latent_width}}
    {_KV[conv]}
    %k0 = slice(%kv) {{axis=1, start=@latent_width}}
    %kr = rotary(%k0, %table) {{offset=0}}
    %latent = concat(%c, %kr) {{axis=1}}
    """
    roots = ["%q"] + ([] if q == "full" else ["%qr"])
    if append:
        text += "%new_cache = concat(%cache, %latent) {axis=0}\n"
    roots.append("%new_cache" if append else "%latent")
    roots += (["%new_q_ring"] if q == "conv" else []) + (["%new_kv_ring"] if conv else [])
    return Pattern(text + "return " + ", ".join(roots))


def _mla_prologue(b: Builder, m: Match) -> Sequence[Value] | None:
    q3, signature = m["q3"], opdef("mla_prologue").signature
    assert signature is not None
    if q3.type.rank != 3 or m.attrs["offset"] + m["table"].type.shape[1] != q3.type.shape[2]:
        return None
    slots = tuple(n for n in signature.slots if n in m.values)
    appended = "new_cache" in m.values
    results = tuple(n for n in signature.results if n in m.values and not (n == "latent" and appended))
    made = b.multi(
        "mla_prologue", *(m[n] for n in slots), slots=slots, results=results, heads=int(q3.type.shape[1]),
        head_dim=int(q3.type.shape[2]), q_eps=float(m.attrs.get("q_eps", 0.0)), kv_eps=float(m.attrs["kv_eps"]),
    )  # fmt: skip
    return made


mla_prologue = Rule("mla_prologue", tuple(
    _prologue_pattern(q, conv, append) for append in (True, False)
    for q, conv in (("conv", True), ("plain", False), ("full", True), ("full", False))), _mla_prologue)  # fmt: skip

_INDEX = """
    %iqb = linear(%qr, %wq_b)
    %iq3 = reshape(%iqb)
    %iq = rotary(%iq3, %table) {offset=0}
    %kk = linear(%u, %wk)
    NORM
    %kr = rotary(%kn, %table) {offset=0}
    %new_cache = concat(%cache, %kr) {axis=0}
    %wp = linear(%u, %weights_proj)
    %iw = mul(%wp, #scale)
    return %iq, %iw, %new_cache"""


def _index_prologue(b: Builder, m: Match) -> Sequence[Value] | None:
    if m["iq3"].type.rank != 3 or not same_dim(m["iq3"].type.shape[2], m["kk"].type.shape[1]):
        return None
    signature = opdef("index_prologue").signature
    assert signature is not None
    slots = tuple(n for n in signature.slots if n in m.values)
    return b.multi(
        "index_prologue", *(m[n] for n in slots), slots=slots, results=signature.results,
        heads=int(m["iq3"].type.shape[1]), k_eps=float(m.attrs["k_eps"]), scale=float(m.numbers["scale"]),
    )  # fmt: skip


index_prologue = Rule("index_prologue", (
    Pattern(_INDEX.replace("NORM", "%kn = rms_norm(%kk, %k_gamma) {eps=@k_eps}")),
    Pattern(_INDEX.replace("NORM", "%kn = layer_norm(%kk, %k_gamma, %k_beta) {eps=@k_eps}"))), _index_prologue)  # fmt: skip

ATTENTIONS = ("swa_attention", "dsa_attention", "dense_attention")


def _output(b: Builder, m: Match) -> Sequence[Value] | None:
    a = m["a"].producer
    if a is None or a.op not in ATTENTIONS or m["a"].index != 0:
        return None
    signature = opdef("attention_output").signature
    assert signature is not None
    slots = tuple(n for n in signature.slots if n in m.values)
    results = tuple(n for n in signature.results if n in m.values)
    return b.multi("attention_output", *(m[n] for n in slots), slots=slots, results=results)


attention_output = Rule("attention_output", (
    Pattern("""
    %mixed, %new_o_ring = mome_conv(%a, %o_conv, %start, %o_ring)
    %out = linear(%mixed, %o_proj)
    return %out, %new_o_ring"""),
    Pattern("%out = linear(%a, %o_proj)\nreturn %out")), _output)  # fmt: skip


def drop_unused_results(graph: Graph) -> None:
    """Optional results that nobody reads are not computed."""
    uses = graph.uses()
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        signature = opdef(node.op).signature if node.op != "call" else None
        if signature is not None:
            names = node.attrs["results"]
            kept = tuple(n for n, v in zip(names, node.outputs, strict=True) if uses[v] or n not in signature.optional)
            if kept != names:
                made = Builder(nodes, node.loc).multi(node.op, *node.inputs, **{**node.attrs, "results": kept})
                replaced.update((node.outputs[names.index(n)], v) for n, v in zip(kept, made, strict=True))
                continue
        nodes.append(node)
    graph.nodes = nodes
    graph.replace_uses(replaced)


def fuse_attention(module: Module) -> None:
    """swa/dsa/dense_attention, then what leads to them and from them."""
    apply_rules(module, (dsa_attention, swa_attention, dense_attention), "fuse_attention")
    apply_rules(module, (mla_prologue, attention_output), "fuse_attention")
    apply_rules(module, (index_prologue,), "fuse_attention")
    for graph in module.graphs():
        drop_unused_results(graph)
        sort_nodes(graph)
        dead_code(graph)
