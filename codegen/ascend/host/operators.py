"""Fused operators as launches of our kernels and calls of vendor operators."""

from __future__ import annotations

from collections.abc import Callable

from pangu_compile.ir import Value
from pangu_compile.ir.types import Dim, dim, product

from ..select_kernels import argmax, moe_gate, mtp_verify
from ..stream_kernels import Post, Pre, mhc
from ..vector_kernels import conv_norm, residual, rms_norm, swiglu
from .attention import attention_output, dense_attention, dsa_attention, index_prologue, mla_prologue, swa_attention
from .body import Body, Operands
from .products import Groups, Rows, digits, multiply, project, rows_of, wide_type
from .values import C_TYPES, Tensor, Verdict, View

Lower = Callable[[Body, Operands], None]


PRODUCTS = ("linear", "mla_prologue", "index_prologue", "dense_ffn", "moe_ffn")  # what reads rows through products


def norm(body: Body, x: Tensor, rows: Dim, gamma: Value, eps: float, out: Tensor) -> None:
    kernel = body.lowering.kernels.get(
        rms_norm, "rms_norm", channels=int(gamma.type.shape[0]), eps=eps, x_type=C_TYPES[x.dtype], y_type=C_TYPES[out.dtype]
    )
    body.launch(kernel, {"tokens": rows}, {"x": x, "gamma": body.tensor(gamma, "f32"), "y": out})


def _rms_norm(body: Body, o: Operands) -> None:
    """Rows as they come; what not only products read is not split."""
    x, value = o.tensor("in0"), o.results["out0"]
    if x.dtype == "split":
        x = o.tensor("in0", "f32")
    readers = [n for n in body.graph.nodes if value in n.inputs]
    joined = value in body.graph.outputs or any(n.op not in PRODUCTS for n in readers)
    out = o.result("out0", body.lowering.sum_type if joined else body.lowering.made_type)
    norm(body, x, product(o.shape("in0")[:-1]), o.values["in1"], o.attrs["eps"], out)


def _linear(body: Body, o: Operands) -> None:
    """A program's logits are float32 in any case."""
    (value,) = o.results.values()
    if body.lowering.is_logits(body.graph, value):
        out = o.result("out0", "f32")
        multiply(body, o.view("in0"), body.matrix(o.values["in1"]), View(out, value.type.shape))
    else:
        out = o.result("out0", body.lowering.sum_type)
        project(body, rows_of(body, o.values["in0"], o.values["in1"]), (o.values["in1"],), View(out, value.type.shape))


def _decides(body: Body, value: Value) -> bool:
    """Does a router read it, which is to have it in float32 as well?"""
    return body.lowering.made_type != "f32" and any(n.op == "moe_gate" and n.inputs[0] is value for n in body.graph.nodes)


def _residual(body: Body, o: Operands) -> None:
    """Residual streams are float32; the branch's rows are as they come."""
    out = o.tensor("out")
    wide = "y" in o.results and _decides(body, o.results["y"])
    eps = {f"{n}_eps": o.attrs[f"{n}_eps"] for n in ("out", "block") if f"{n}_norm" in o}
    eps |= {"norm_eps": o.attrs["norm_eps"]} if "norm" in o else {}
    kernel = body.lowering.kernels.get(
        residual, "residual", channels=o.size("x", 1), stream_type="float", out_type=C_TYPES[out.dtype],
        y_type=C_TYPES[body.lowering.made_type], wide_y=wide, **eps,
    )  # fmt: skip
    operands = {"x": o.tensor("x", "f32"), "out": out, **o.parameters("out_norm", "block_norm", "norm")}
    operands["new_x"] = o.result("new_x", "f32")
    if "norm" in o:
        operands["y"] = o.result("y", body.lowering.made_type)
    if wide:
        operands["y_wide"] = _twin(body, o.results["y"])
    body.launch(kernel, {"tokens": o.shape("x")[0]}, operands)


def _digits(body: Body, o: Operands) -> int:
    """Of int8, in which products read y, once normed; 0: none has int8 weights."""
    value, weight = o.results.get("y"), {"mla_prologue": 1, "dense_ffn": 1, "moe_ffn": 5}
    readers = [n for n in body.graph.nodes if n.op in weight and len(n.inputs) > weight[n.op] and n.inputs[0] is value]
    return max((digits(body, n.inputs[weight[n.op]]) for n in readers), default=0) if "norm" in o else 0


def _twin(body: Body, value: Value) -> Tensor:
    body.wide[value] = body.buffer("f32", *value.type.shape)
    return body.wide[value]


def _streams(body: Body, o: Operands) -> None:
    """Streams are float32; the branch's rows are as they come."""
    a, merge = o.attrs, o.node.op == "mhc_merge"
    post = pre = None
    count = _digits(body, o)
    wide = "y" in o.results and _decides(body, o.results["y"])
    if "post" in o:
        post = Post(a["out_eps"] if "out_norm" in o else None, a["block_eps"] if "block_norm" in o else None)
    if "phi" in o:
        norm_eps = a["norm_eps"] if "norm" in o else None
        pre = Pre(a["pre_eps"], a["mhc_eps"], "gamma" in o, 0 if merge else a["iterations"], norm_eps, merge, count, wide)
    tokens, streams, hidden = o.shape("x")
    operands = {"x": o.tensor("x", "f32"), **({"out": o.tensor("out")} if "out" in o else {})}
    types = {"h": body.lowering.sum_type, "y": body.lowering.made_type}
    kernel = body.lowering.kernels.get(
        mhc, o.node.op, streams=int(streams), hidden=int(hidden), post=post, pre=pre, stream_type="float",
        out_type=C_TYPES[operands["out"].dtype] if "out" in o else "float", y_type=C_TYPES[types["h" if merge else "y"]],
    )  # fmt: skip
    operands |= {n: o.tensor(n, "f32") for n in ("post", "res") if n in o}
    operands |= o.parameters("out_norm", "block_norm", "phi", "alpha", "beta", "gamma", "norm")
    operands |= {n: o.result(n, types.get(n, "f32")) for n in o.results}
    operands |= {"y_wide": _twin(body, o.results["y"])} if wide else {}
    if count:
        operands |= {"y_q": body.buffer("int8", tokens, count * hidden), "y_scale": body.buffer("f32", tokens)}
        body.int8[operands["y"].text] = operands["y_q"], operands["y_scale"]
    body.launch(kernel, {"tokens": tokens}, operands)


def _mome_conv(body: Body, o: Operands) -> None:
    channels, _, taps = (int(d) for d in o.shape("weight"))
    dtype = body.lowering.sum_type
    kernel = body.lowering.kernels.get(
        conv_norm, "mome_conv", channels=channels, taps=taps, ring=o.size("ring", 0), x_type=C_TYPES[dtype], y_type=C_TYPES[dtype]
    )
    operands = {"x": o.tensor("x", dtype), "weight": body.weight(o.values["weight"]).stored("taps")}
    operands |= {"ring": o.state("ring", "new_ring"), "y": o.result("y", dtype)}
    body.launch(kernel, {"tokens": o.shape("x")[0], "row": 0, "start": body.number(o.values["start"])}, operands)


def gated(body: Body, x: View, gate: Value, up: Value, down: Value, out: Tensor) -> None:
    """down(silu(gate x) * up x), gate and up as one product."""
    rows, width = x.dims[0], int(gate.type.shape[0])
    both = body.buffer(wide_type(body, gate), rows, 2 * width)
    project(body, x, (gate, up), View(both, (rows, 2 * width)))
    inner, quantised = _swiglu(body, both, rows, width, digits(body, down))
    project(body, View(inner, (rows, width)), (down,), View(out, (rows, down.type.shape[0])), quantised)


def _swiglu(body: Body, both: Tensor, rows: Dim, width: int, count: int) -> tuple[Tensor, Rows | None]:
    """silu(gate) * up of [rows, 2 width], float32 or bf16, as a product reads it or as int8 of `count` digits, a scale a row."""
    inner = body.buffer("int8" if count else body.lowering.row_type, rows, max(count, 1) * width)
    kernel = body.lowering.kernels.get(
        swiglu, "swiglu", width=width, digits=count, x_type=C_TYPES[both.dtype], y_type=C_TYPES[body.lowering.row_type]
    )
    operands = {"x": both, "y": inner}
    if not count:
        body.launch(kernel, {"tokens": rows}, operands)
        return inner, None
    scale = body.buffer("f32", rows)
    body.launch(kernel, {"tokens": rows}, operands | {"scale": scale})
    return inner, (inner, scale)


def _dense_ffn(body: Body, o: Operands) -> None:
    gate, up, down = (o.values[f"in{i}"] for i in (1, 2, 3))
    gated(body, rows_of(body, o.values["in0"], gate), gate, up, down, o.result("out0", wide_type(body, down)))


def _moe_gate(body: Body, o: Operands) -> None:
    a, tokens, experts = o.attrs, o.shape("x")[0], o.size("router", 0)
    logits = body.buffer("f32", tokens, experts)
    x = o.tensor("x", "f32")
    router = View(body.weight(o.values["router"]).stored("f32"), o.shape("router")).transposed
    body.emit("matmul", View(x, o.shape("x")), router, View(logits, (tokens, experts)))
    kernel = body.lowering.kernels.get(
        moe_gate, "moe_gate", experts=experts, k=a["k"], bias="bias" in o, normalise=a["normalise"], scale=a["scale"], eps=a["eps"]
    )
    operands = {"logits": logits, **o.parameters("bias"), "index": o.result("index", "i32"), "weight": o.result("weight", "f32")}
    body.launch(kernel, {"tokens": tokens}, operands)


def _moe_ffn(body: Body, o: Operands) -> None:
    """Rows sorted by expert, two grouped products with SwiGLU between, and the weighted sum with the shared expert's rows."""
    tokens, k = o.shape("index")
    experts, hidden, inner = (int(d) for d in o.shape("down"))
    pairs, sums = dim(tokens * k), body.lowering.sum_type
    x, index = rows_of(body, o.values["x"], o.values["gate_up"]), View(o.tensor("index", "i32"), (tokens, k))
    rows, place = View(body.buffer(x.tensor.dtype, pairs, hidden), (pairs, hidden)), body.buffer("i32", pairs)
    groups = Groups(body, x, index, rows, View(place, (pairs,)), experts)
    both, wide = (View(body.buffer(sums, pairs, n), (pairs, n)) for n in (2 * inner, hidden))
    groups.multiply(rows, o.values["gate_up"], both)
    narrow, quantised = _swiglu(body, both.tensor, pairs, inner, digits(body, o.values["down"]))
    groups.multiply(View(narrow, (pairs, inner)), o.values["down"], wide, quantised)
    shared: View | str = "none()"
    if "shared_gate" in o:
        part = body.buffer(sums, tokens, hidden)
        x = rows_of(body, o.values["x"], o.values["shared_gate"])
        gated(body, x, o.values["shared_gate"], o.values["shared_up"], o.values["shared_down"], part)
        shared = View(part, (tokens, hidden))
    out = View(o.result("out", sums), (tokens, hidden))
    weight = View(o.tensor("weight", "f32"), (tokens, k))
    body.emit("finalize_routing", wide, View(place, (pairs,)), shared, weight, out)


def _own_tokens(body: Body, o: Operands, out: Tensor) -> None:
    """argmax of the head's logits over the (normed) rows of x."""
    (rows, hidden), columns = o.shape("x"), o.size("w", 0)
    if "gamma" in o:
        x = body.buffer(body.lowering.row_type, rows, hidden)
        norm(body, o.tensor("x", body.lowering.sum_type), rows, o.values["gamma"], o.attrs["eps"], x)
    else:
        x = o.tensor("x", body.lowering.row_type)
    logits = body.buffer("f32", rows, columns)
    multiply(body, View(x, (rows, hidden)), body.matrix(o.values["w"]), View(logits, (rows, columns)))
    kernel = body.lowering.kernels.get(argmax, "argmax", columns=columns)
    body.launch(kernel, {"tokens": rows}, {"logits": logits, "index": out})


def _lm_head_argmax(body: Body, o: Operands) -> None:
    _own_tokens(body, o, o.result("token", "i32"))


def _mtp_verify(body: Body, o: Operands) -> None:
    drafts, count = o.tensor("drafts", "i32"), o.size("drafts", 0)
    own, result = body.buffer("i32", count + 1), body.buffer("i32", 2)
    _own_tokens(body, o, own)
    kernel = body.lowering.kernels.get(mtp_verify, "mtp_verify", drafts=count)
    body.launch(kernel, {"sequences": 1}, {"drafts": drafts, "tokens": own, "result": result})
    for name, value in o.results.items():
        body.held[value] = Verdict(drafts, result, count, body.number(o.values["start"]), name)


OPERATORS: dict[str, Lower] = {
    "rms_norm": _rms_norm, "linear": _linear, "residual": _residual, "mhc_pre": _streams, "mhc_post": _streams,
    "mhc_post_pre": _streams, "mhc_merge": _streams, "mome_conv": _mome_conv, "dense_ffn": _dense_ffn, "moe_gate": _moe_gate,
    "moe_ffn": _moe_ffn, "lm_head_argmax": _lm_head_argmax, "mtp_verify": _mtp_verify, "mla_prologue": mla_prologue,
    "index_prologue": index_prologue, "swa_attention": swa_attention, "dense_attention": dense_attention,
    "dsa_attention": dsa_attention, "attention_output": attention_output,
}  # fmt: skip
