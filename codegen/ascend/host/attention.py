"""Latent attention: prologues, the three kinds of attention in latent space, and the output projection.

T tokens, h heads of n + r query channels and v value channels, C latent channels. The query is absorbed into latent space by a
batched product with kv_b's key half before our attention kernel, and its result leaves it by one with the value half.
"""

from __future__ import annotations

from typing import Any

from pangu_compile.ir.types import Dim, dim

from ..attention_kernels import attention
from ..index_kernels import index_score, index_topk
from ..vector_kernels import conv_norm, index_key, ring_write, rotary
from .body import Body, Operands
from .products import multiply, project, wide_type
from .values import Tensor, View


def _conv(body: Body, o: Operands, prefix: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Shape, sizes and operands that a convolution adds to a kernel; nothing where there is none."""
    if f"{prefix}_conv" not in o:
        return {}, {}, {}
    shape = {"taps": o.size(f"{prefix}_conv", 2), "ring": o.size(f"{prefix}_ring", 0)}
    ring = o.state(f"{prefix}_ring", f"new_{prefix}_ring")
    weight = body.weight(o.values[f"{prefix}_conv"]).stored("taps")
    return shape, {"start": body.number(o.values["start"])}, {"weight": weight, "ring": ring}


def _rotate(body: Body, x: Tensor, table: Tensor, tokens: Dim, **shape: int) -> None:
    body.launch(body.lowering.kernels.get(rotary, "rotary", **shape), {"tokens": tokens}, {"x": x, "table": table})


def _low_rank(body: Body, o: Operands, out: Tensor, x: Tensor, pitch: int) -> None:
    """qr: the query's convolution and norm."""
    shape, sizes, operands = _conv(body, o, "q")
    low = o.size("q_a", 0)
    kernel = body.lowering.kernels.get(
        conv_norm, "query_low", channels=low, norm_eps=o.attrs["q_eps"], x_pitch=pitch, y_pitch=low, **shape
    )
    operands |= {"x": x, "gamma": o.tensor("q_norm", "f32"), "y": out}
    body.launch(kernel, {"tokens": o.shape("u")[0], "row": 0, **sizes}, operands)


def _latent(body: Body, o: Operands, x: Tensor, pitch: int) -> None:
    """The latent rows: convolution, norm and rotary embedding, into the cache or memory of their own."""
    tokens, rope = o.shape("table")
    width = o.size("kv_a", 0)
    shape, sizes, operands = _conv(body, o, "kv")
    row: Dim = 0
    if "cache" in o:
        target, row = o.state("cache", "new_cache"), o.shape("cache")[0]
        if "latent" in o.results:
            body.held[o.results["latent"]] = target.at(dim(row * width))
    else:
        target = o.result("latent") if "latent" in o.results else body.buffer("bf16", tokens, width)
    kernel = body.lowering.kernels.get(
        conv_norm, "latent_row", channels=width - int(rope), norm_eps=o.attrs["kv_eps"], rotary=int(rope), x_pitch=pitch,
        y_pitch=width, **shape,
    )  # fmt: skip
    operands |= {"x": x, "gamma": o.tensor("kv_norm", "f32"), "table": o.tensor("table", "f32"), "y": target}
    body.launch(kernel, {"tokens": tokens, "row": row, **sizes}, operands)


def mla_prologue(body: Body, o: Operands) -> None:
    heads, width = o.attrs["heads"], o.attrs["head_dim"]
    (tokens, rope), row = o.shape("table"), o.size("kv_a", 0)
    u = o.view("u")
    if "q_a" in o:
        low = o.size("q_a", 0)
        both = body.buffer("bf16", tokens, low + row)
        project(body, u, (o.values["q_a"], o.values["kv_a"]), View(both, (tokens, low + row)))
        qr = o.result("qr") if "qr" in o.results else body.buffer("bf16", tokens, low)
        _low_rank(body, o, qr, both, low + row)
        source, kv, pitch = View(qr, (tokens, low)), both.at(low), low + row
    else:
        kv, pitch, source = body.buffer("bf16", tokens, row), row, u
        project(body, u, (o.values["kv_a"],), View(kv, (tokens, row)))
        if "qr" in o.results:
            body.held[o.results["qr"]] = u.tensor
    q = o.result("q")
    project(body, source, (o.values["q_b"],), View(q, (tokens, heads * width)))
    table = o.tensor("table", "f32")
    _rotate(body, q, table, tokens, heads=heads, channels=width, dim=int(rope), offset=width - int(rope))
    _latent(body, o, kv, pitch)


def index_prologue(body: Body, o: Operands) -> None:
    """The indexer's weights are float32 and not yet scaled: the scores are, where they are computed."""
    heads, (tokens, rope), width = o.attrs["heads"], o.shape("table"), o.size("wk", 0)
    u, table = o.view("u"), o.tensor("table", "f32")
    iq, iw, key = o.result("iq"), o.result("iw", "f32"), body.buffer("bf16", tokens, width)
    body.emit("matmul", o.view("qr"), body.matrix(o.values["wq_b"]), View(iq, (tokens, heads * width)))
    _rotate(body, iq, table, tokens, heads=heads, channels=width, dim=int(rope), offset=0)
    body.emit("matmul", u, body.matrix(o.values["wk"]), View(key, (tokens, width)))
    kernel = body.lowering.kernels.get(
        index_key, "index_key", channels=width, dim=int(rope), eps=o.attrs["k_eps"], bias="k_beta" in o
    )
    operands = {"x": key, "gamma": o.tensor("k_gamma", "f32"), "table": table, "cache": o.state("cache", "new_cache")}
    operands |= {"beta": o.tensor("k_beta", "f32")} if "k_beta" in o else {}
    body.launch(kernel, {"tokens": tokens, "row": o.shape("cache")[0]}, operands)
    multiply(body, u, body.matrix(o.values["weights_proj"]), View(iw, (tokens, heads)))
    body.factors[o.results["iw"]] = o.attrs["scale"]


def _attend(body: Body, o: Operands, kind: str, start: Any, keys: dict[str, Tensor], **shape: int) -> None:
    """Absorb the query, attend in latent space, and leave it again."""
    tokens, heads, width = o.shape("q")
    heads, width, nope, v = int(heads), int(width), o.attrs["nope"], o.attrs["v"]
    latent = o.size("kv_b", 1)
    rope, row = width - nope, latent + width - nope
    q, kv_b = o.tensor("q", "bf16"), body.weight(o.values["kv_b"]).stored("bf16")
    pitch = (nope + v) * latent
    query, mixed = body.buffer("bf16", tokens, heads, row), body.buffer("bf16", tokens, heads, latent)
    by_head = View(q, (heads, tokens, nope), (width, heads * width, 1))
    into = View(query, (heads, tokens, latent), (row, heads * row, 1))
    body.emit("batch_matmul", by_head, View(kv_b, (heads, nope, latent), (pitch, latent, 1)), into)
    turned = View(q.at(nope), (tokens, heads, rope), (heads * width, width, 1))
    body.emit("copy", View(query.at(latent), (tokens, heads, rope), (heads * row, row, 1)), turned)
    sinks = o.size("sinks", 0) if "sinks" in o else 0
    kernel = body.lowering.kernels.get(
        attention, f"{kind}_attention", kind=kind, heads=heads, width=row, latent=latent, sinks=sinks, scale=o.attrs["scale"],
        **shape,
    )  # fmt: skip
    operands = {"query": query, **keys, "out": mixed}
    operands |= {"sinks": body.weight(o.values["sinks"]).stored("bf16")} if sinks else {}
    body.launch(kernel, {"tokens": tokens, "start": start}, operands)
    out = o.result("out")
    values = View(kv_b.at(nope * latent), (heads, latent, v), (pitch, 1, latent))
    left = View(mixed, (heads, tokens, latent), (latent, heads * latent, 1))
    body.emit("batch_matmul", left, values, View(out, (heads, tokens, v), (v, heads * v, 1)))


def swa_attention(body: Body, o: Operands) -> None:
    latent, start = o.tensor("latent", "bf16"), body.number(o.values["start"])
    ring, (rows, width) = o.state("ring", "new_ring"), (o.size("ring", 0), o.size("ring", 1))
    _attend(body, o, "swa", start, {"ring": ring, "latent": latent}, window=o.attrs["window"], ring=rows)
    kernel = body.lowering.kernels.get(ring_write, "ring_write", channels=width, ring=rows)
    body.launch(kernel, {"tokens": o.shape("q")[0], "start": start}, {"x": latent, "ring": ring})


def _before(o: Operands) -> Dim:
    """Rows that were cached before the call."""
    return dim(o.shape("cache")[0] - o.shape("q")[0])


def dense_attention(body: Body, o: Operands) -> None:
    _attend(body, o, "dense", _before(o), {"cache": o.tensor("cache", "bf16")})


def dsa_attention(body: Body, o: Operands) -> None:
    tokens, heads, channels = o.shape("iq")
    start, top, rows = _before(o), o.attrs["topk"], o.shape("cache")[0]
    scale = o.attrs["index_scale"] * body.factors.get(o.values["iw"], 1.0)
    score = body.lowering.kernels.get(
        index_score, "index_score", heads=int(heads), channels=int(channels), scale=scale, weight_type="float"
    )
    scores, chosen = body.buffer("f32", tokens, rows), body.buffer("i32", tokens, top)
    operands = {"iq": o.tensor("iq", "bf16"), "weight": o.tensor("iw", "f32"), "keys": o.tensor("index_cache", "bf16")}
    body.launch(score, {"tokens": tokens, "start": start}, operands | {"scores": scores})
    choose = body.lowering.kernels.get(index_topk, "index_topk", top=top)
    body.launch(choose, {"tokens": tokens, "start": start}, {"scores": scores, "index": chosen})
    _attend(body, o, "dsa", start, {"cache": o.tensor("cache", "bf16"), "index": chosen}, top=top)


def attention_output(body: Body, o: Operands) -> None:
    tokens, width = o.shape("a")
    shape, sizes, operands = _conv(body, o, "o")
    x = o.tensor("a", "bf16")
    if shape:
        mixed = body.buffer("bf16", tokens, width)
        kernel = body.lowering.kernels.get(conv_norm, "output_conv", channels=int(width), **shape)
        body.launch(kernel, {"tokens": tokens, "row": 0, **sizes}, operands | {"x": x, "y": mixed})
        x = mixed
    out = View(o.result("out", wide_type(body, o.values["o_proj"])), (tokens, o.shape("o_proj")[0]))
    project(body, View(x, (tokens, width)), (o.values["o_proj"],), out)
