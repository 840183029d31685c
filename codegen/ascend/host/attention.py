"""Latent attention: prologues, the three kinds of attention in latent space, and the output projection.

T tokens, h heads of n + r query channels and v value channels, C latent channels. The query is absorbed into latent space by a
batched product with kv_b's key half before our attention kernel, and its result leaves it by one with the value half.
Rows that products and attention read are of the lowering's row_type (caches, too), what products write is of its sum_type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pangu_compile.ir.types import Dim, dim

from ..attention_kernels import attention
from ..index_kernels import index_score, index_topk
from ..vector_kernels import conv_norm, index_key, query_rows, ring_write, rotary
from .body import Body, Operands
from .products import made_type, multiply, multiply_heads, project, rows_of, wide_type
from .values import C_TYPES, Tensor, View


def _conv(body: Body, o: Operands, prefix: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Shape, sizes and operands that a convolution adds to a kernel; nothing where there is none."""
    if f"{prefix}_conv" not in o:
        return {}, {}, {}
    shape = {"taps": o.size(f"{prefix}_conv", 2), "ring": o.size(f"{prefix}_ring", 0)}
    ring = o.state(f"{prefix}_ring", f"new_{prefix}_ring")
    weight = body.weight(o.values[f"{prefix}_conv"]).stored("taps")
    return shape, {"start": body.number(o.values["start"])}, {"weight": weight, "ring": ring}


def _heads(body: Body, o: Operands, name: str, rows: View, weight: str, heads: int, width: int, offset: int) -> None:
    """Result `name`: queries [T, h, width], with a rotary embedding of the table's channels from `offset` on."""
    tokens, rope = o.shape("table")
    out, wide = o.result(name, body.lowering.row_type), body.lowering.wide
    x = body.buffer("f32", tokens, heads * width) if wide else out
    project(body, rows, (o.values[weight],), View(x, (tokens, heads * width)))
    kernel = body.lowering.kernels.get(
        rotary, "rotary", heads=heads, channels=width, dim=int(rope), offset=offset, split=wide
    )
    operands = {"x": x, "table": o.tensor("table", "f32"), **({"y": out} if wide else {})}
    body.launch(kernel, {"tokens": tokens}, operands)


def _types(x: Tensor, y: Tensor) -> dict[str, str]:
    return {"x_type": C_TYPES[x.dtype], "y_type": C_TYPES[y.dtype]}


def _low_rank(body: Body, o: Operands, out: Tensor, x: Tensor, pitch: int) -> None:
    """qr: the query's convolution and norm."""
    shape, sizes, operands = _conv(body, o, "q")
    low = o.size("q_a", 0)
    kernel = body.lowering.kernels.get(
        conv_norm, "query_low", channels=low, norm_eps=o.attrs["q_eps"], x_pitch=pitch, y_pitch=low, **_types(x, out), **shape
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
        target = (
            o.result("latent", body.lowering.row_type)
            if "latent" in o.results
            else body.buffer(body.lowering.row_type, tokens, width)
        )
    kernel = body.lowering.kernels.get(
        conv_norm, "latent_row", channels=width - int(rope), norm_eps=o.attrs["kv_eps"], rotary=int(rope), x_pitch=pitch,
        y_pitch=width, **_types(x, target), **shape,
    )  # fmt: skip
    operands |= {"x": x, "gamma": o.tensor("kv_norm", "f32"), "table": o.tensor("table", "f32"), "y": target}
    body.launch(kernel, {"tokens": tokens, "row": row, **sizes}, operands)


def mla_prologue(body: Body, o: Operands) -> None:
    heads, width = o.attrs["heads"], o.attrs["head_dim"]
    (tokens, rope), row = o.shape("table"), o.size("kv_a", 0)
    row_type, sum_type = made_type(body, o.values["q_b"]), body.lowering.sum_type
    u = rows_of(body, o.values["u"], o.values["kv_a"])
    if "q_a" in o:
        low = o.size("q_a", 0)
        both = body.buffer(sum_type, tokens, low + row)
        project(body, u, (o.values["q_a"], o.values["kv_a"]), View(both, (tokens, low + row)))
        qr = o.result("qr", row_type) if "qr" in o.results else body.buffer(row_type, tokens, low)
        _low_rank(body, o, qr, both, low + row)
        source, kv, pitch = View(qr, (tokens, low)), both.at(low), low + row
    else:
        kv, pitch, source = body.buffer(sum_type, tokens, row), row, u
        project(body, u, (o.values["kv_a"],), View(kv, (tokens, row)))
        if "qr" in o.results:
            body.held[o.results["qr"]] = body.tensor(o.values["u"])
    _heads(body, o, "q", source, "q_b", heads, width, width - int(rope))
    _latent(body, o, kv, pitch)


def index_prologue(body: Body, o: Operands) -> None:
    """The indexer's weights are float32 and not yet scaled: the scores are, where they are computed."""
    heads, (tokens, rope), width = o.attrs["heads"], o.shape("table"), o.size("wk", 0)
    u = o.view("u")
    iw, key = o.result("iw", "f32"), body.buffer(body.lowering.sum_type, tokens, width)
    _heads(body, o, "iq", o.view("qr"), "wq_b", heads, width, 0)
    multiply(body, u, body.matrix(o.values["wk"]), View(key, (tokens, width)))
    cache = o.state("cache", "new_cache")
    kernel = body.lowering.kernels.get(
        index_key, "index_key", channels=width, dim=int(rope), eps=o.attrs["k_eps"], bias="k_beta" in o, **_types(key, cache)
    )
    operands = {"x": key, "gamma": o.tensor("k_gamma", "f32"), "table": o.tensor("table", "f32"), "cache": cache}
    operands |= {"beta": o.tensor("k_beta", "f32")} if "k_beta" in o else {}
    body.launch(kernel, {"tokens": tokens, "row": o.shape("cache")[0]}, operands)
    multiply(body, u, body.matrix(o.values["weights_proj"]), View(iw, (tokens, heads)))
    body.factors[o.results["iw"]] = o.attrs["scale"]


@dataclass(frozen=True)
class Heads:
    """Sizes of attention over T tokens: h heads of n + r query channels and v value channels, C latent channels."""

    tokens: Dim
    heads: int
    nope: int
    rope: int
    v: int
    latent: int

    @property
    def width(self) -> int:
        return self.nope + self.rope

    @property
    def row(self) -> int:
        return self.latent + self.rope

    @property
    def pitch(self) -> int:
        """Elements of kv_b for a head: keys [n, C], then values [v, C]."""
        return (self.nope + self.v) * self.latent


def _absorb(body: Body, s: Heads, q: Tensor, kv_b: Tensor) -> Tensor:
    """q[T, h, n + r] -> rows [T, h, C + r]: the first channels by kv_b's key half, the others as they are."""
    query = body.buffer(body.lowering.row_type, s.tokens, s.heads, s.row)
    if body.lowering.wide:
        absorbed = body.buffer("f32", s.tokens, s.heads, s.latent)
        multiply_heads(
            body, q, kv_b, absorbed, s.tokens, heads=s.heads, depth=s.nope, columns=s.latent, by_depth=True,
            x_strides=(2 * s.heads * s.width, 2 * s.width, s.width), w_strides=(s.pitch, s.latent),
            y_strides=(s.heads * s.latent, s.latent),
        )  # fmt: skip
        kernel = body.lowering.kernels.get(query_rows, "query_rows", heads=s.heads, width=s.width, latent=s.latent, rope=s.rope)
        body.launch(kernel, {"tokens": s.tokens}, {"x": absorbed, "q": q, "y": query})
        return query
    by_head = View(q, (s.heads, s.tokens, s.nope), (s.width, s.heads * s.width, 1))
    into = View(query, (s.heads, s.tokens, s.latent), (s.row, s.heads * s.row, 1))
    body.emit("batch_matmul", by_head, View(kv_b, (s.heads, s.nope, s.latent), (s.pitch, s.latent, 1)), into)
    shape = (s.tokens, s.heads, s.rope)
    turned = View(q.at(s.nope), shape, (s.heads * s.width, s.width, 1))
    body.emit("copy", View(query.at(s.latent), shape, (s.heads * s.row, s.row, 1)), turned)
    return query


def _leave(body: Body, s: Heads, mixed: Tensor, kv_b: Tensor, out: Tensor) -> None:
    """out[T, h, v]: rows [T, h, C] by kv_b's value half."""
    values = kv_b.at(s.nope * s.latent)
    if body.lowering.wide:
        multiply_heads(
            body, mixed, values, out, s.tokens, heads=s.heads, depth=s.latent, columns=s.v, by_depth=False,
            x_strides=(2 * s.heads * s.latent, 2 * s.latent, s.latent), w_strides=(s.pitch, s.latent),
            y_strides=(s.heads * s.v, s.v),
        )  # fmt: skip
        return
    left = View(mixed, (s.heads, s.tokens, s.latent), (s.latent, s.heads * s.latent, 1))
    right = View(values, (s.heads, s.latent, s.v), (s.pitch, 1, s.latent))
    body.emit("batch_matmul", left, right, View(out, (s.heads, s.tokens, s.v), (s.v, s.heads * s.v, 1)))


def _attend(body: Body, o: Operands, kind: str, start: Any, keys: dict[str, Tensor], **shape: int) -> None:
    """Absorb the query, attend in latent space, and leave it again."""
    tokens, heads, width = o.shape("q")
    nope, row_type = o.attrs["nope"], body.lowering.row_type
    s = Heads(tokens, int(heads), nope, int(width) - nope, o.attrs["v"], o.size("kv_b", 1))
    kv_b = body.weight(o.values["kv_b"]).stored("bf16")
    query = _absorb(body, s, o.tensor("q", row_type), kv_b)
    mixed = body.buffer(row_type, s.tokens, s.heads, s.latent)
    sinks = o.size("sinks", 0) if "sinks" in o else 0
    kernel = body.lowering.kernels.get(
        attention, f"{kind}_attention", kind=kind, heads=s.heads, width=s.row, latent=s.latent, sinks=sinks, scale=o.attrs["scale"],
        row_type=C_TYPES[row_type], **shape,
    )  # fmt: skip
    operands = {"query": query, **keys, "out": mixed}
    operands |= {"sinks": body.weight(o.values["sinks"]).stored(row_type)} if sinks else {}
    body.launch(kernel, {"tokens": tokens, "start": start}, operands)
    _leave(body, s, mixed, kv_b, o.result("out", body.lowering.sum_type))


def swa_attention(body: Body, o: Operands) -> None:
    latent, start = o.tensor("latent", body.lowering.row_type), body.number(o.values["start"])
    ring, (rows, width) = o.state("ring", "new_ring"), (o.size("ring", 0), o.size("ring", 1))
    _attend(body, o, "swa", start, {"ring": ring, "latent": latent}, window=o.attrs["window"], ring=rows)
    kernel = body.lowering.kernels.get(ring_write, "ring_write", channels=width, ring=rows, row_type=C_TYPES[latent.dtype])
    body.launch(kernel, {"tokens": o.shape("q")[0], "start": start}, {"x": latent, "ring": ring})


def _before(o: Operands) -> Dim:
    """Rows that were cached before the call."""
    return dim(o.shape("cache")[0] - o.shape("q")[0])


def dense_attention(body: Body, o: Operands) -> None:
    _attend(body, o, "dense", _before(o), {"cache": o.tensor("cache", body.lowering.row_type)})


def dsa_attention(body: Body, o: Operands) -> None:
    tokens, heads, channels = o.shape("iq")
    start, top, rows = _before(o), o.attrs["topk"], o.shape("cache")[0]
    row_type = body.lowering.row_type
    scale = o.attrs["index_scale"] * body.factors.get(o.values["iw"], 1.0)
    score = body.lowering.kernels.get(
        index_score, "index_score", heads=int(heads), channels=int(channels), scale=scale, weight_type="float",
        row_type=C_TYPES[row_type],
    )  # fmt: skip
    scores, chosen = body.buffer("f32", tokens, rows), body.buffer("i32", tokens, top)
    operands = {"iq": o.tensor("iq", row_type), "weight": o.tensor("iw", "f32"), "keys": o.tensor("index_cache", row_type)}
    body.launch(score, {"tokens": tokens, "start": start}, operands | {"scores": scores})
    choose = body.lowering.kernels.get(index_topk, "index_topk", top=top)
    body.launch(choose, {"tokens": tokens, "start": start}, {"scores": scores, "index": chosen})
    _attend(body, o, "dsa", start, {"cache": o.tensor("cache", row_type), "index": chosen}, top=top)


def attention_output(body: Body, o: Operands) -> None:
    tokens, width = o.shape("a")
    shape, sizes, operands = _conv(body, o, "o")
    row_type = made_type(body, o.values["o_proj"])
    if shape:
        a, x = o.tensor("a", body.lowering.sum_type), body.buffer(row_type, tokens, width)
        kernel = body.lowering.kernels.get(conv_norm, "output_conv", channels=int(width), **_types(a, x), **shape)
        body.launch(kernel, {"tokens": tokens, "row": 0, **sizes}, operands | {"x": a, "y": x})
    else:
        x = o.tensor("a", row_type)
    out = View(o.result("out", wide_type(body, o.values["o_proj"])), (tokens, o.shape("o_proj")[0]))
    project(body, View(x, (tokens, width)), (o.values["o_proj"],), out)
