"""Fused operators -> calls of their kernels (kernels/pangu_*.h): operands by slot, sizes as constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pangu_compile.ir import DType, IRError, Value, opdef
from pangu_compile.ir.slots import named
from pangu_compile.ir.types import Dim, dim, product, same_dim
from pangu_compile.plan import FunctionPlan, Kernel
from pangu_compile.plan.access import Affine, contiguous_alias
from pangu_compile.plan.schedule import updated_operand

from ..dims import c_dim
from .expr import c_constant

WEIGHT_CODES = {
    DType.f32: "PANGU_F32", DType.bf16: "PANGU_BF16", DType.q8: "PANGU_Q8", DType.q4: "PANGU_Q4", DType.w8a8: "PANGU_W8A8",
    DType.bf16c: "PANGU_BF16C", DType.q8i: "PANGU_Q8I",
    DType.w8a24: "PANGU_Q8",  # a format of Ascend; the nearest here
}  # fmt: skip
Fields = dict[str, str]


class Operands:
    """The operands and results of one kernel as C++ expressions; an absent one is a null pointer."""

    def __init__(self, plan: FunctionPlan, kernel: Kernel, name: Callable[[Value], str]):
        self.plan, self.kernel, self.name = plan, kernel, name
        self.node = kernel.root
        signature = opdef(self.node.op).signature
        attrs = self.node.attrs
        self.inputs: Mapping[str, Value] = (
            named(attrs, self.node.inputs) if signature else {f"in{i}": v for i, v in enumerate(self.node.inputs)}
        )
        results = attrs["results"] if signature else [f"out{i}" for i in range(len(self.node.outputs))]
        self.results: Mapping[str, Value] = dict(zip(results, self.node.outputs, strict=True))

    def fail(self, what: str) -> IRError:
        return IRError(f"codegen: {self.node.op} at {self.node.loc or '(no source)'}: {what}")

    def __contains__(self, slot: str) -> bool:
        return slot in self.inputs or slot in self.results

    def shape(self, slot: str) -> tuple[Dim, ...]:
        return self.inputs[slot].type.shape

    def size(self, slot: str, axis: int) -> str:
        return c_dim(self.shape(slot)[axis])

    def _view(self, value: Value) -> Affine:
        view = contiguous_alias(value, self.plan.schedule.is_buffer)
        if view is None:
            raise self.fail(f"operand {value!r} was not given memory")
        return view

    def _place(self, value: Value) -> str:
        view = self._view(value)
        return self.name(view.buffer) if same_dim(view.offset, 0) else f"{self.name(view.buffer)} + {c_dim(view.offset)}"

    def pointer(self, slot: str, dtypes: tuple[DType, ...] = (DType.f32, DType.i64)) -> str:
        """An operand in float32 (or an index) unless `dtypes` says otherwise; nullptr where it is absent."""
        if slot not in self.inputs:
            return "nullptr"
        value = self.inputs[slot]
        if value.type.dtype not in dtypes:
            raise self.fail(f"operand {slot} is {value.type.dtype.value}; the CPU kernels take f32 activations and parameters")
        return self._place(value)

    def scalar(self, slot: str) -> str:
        return f"({self._place(self.inputs[slot])})[0]" if slot in self.inputs else "0"

    def result(self, name: str, dtypes: tuple[DType, ...] = (DType.f32, DType.i64)) -> str:
        if name not in self.results:
            return "nullptr"
        value = self.results[name]
        if value.type.dtype not in dtypes:
            raise self.fail(f"result {name} is {value.type.dtype.value}; the CPU kernels compute in f32")
        return self.name(value)

    def weight(self, slot: str, formats: tuple[DType, ...] = tuple(WEIGHT_CODES)) -> str:
        """A matrix in any of `formats`; leading axes count as rows."""
        if slot not in self.inputs:
            return "pangu::Weight{}"
        value = self.inputs[slot]
        type_ = value.type
        if type_.dtype not in formats:
            raise self.fail(f"weight {slot} is stored as {type_.dtype.value}; covered: {', '.join(f.value for f in formats)}")
        if type_.dtype.is_packed and not same_dim(self._view(value).offset, 0):
            raise self.fail(f"weight {slot} is a part of a quantised tensor")
        rows, columns = c_dim(product(type_.shape[:-1])), c_dim(type_.shape[-1])
        return f"pangu::weight_view({self._place(value)}, {WEIGHT_CODES[type_.dtype]}, {rows}, {columns})"

    def ring(self, slot: str) -> str:
        """A ring that the kernel reads and then writes: the memory of its new state."""
        if slot not in self.inputs:
            return "pangu::Ring{}"
        rows, width = self.shape(slot)
        return f"pangu::Ring{{{self.result(f'new_{slot}')}, {c_dim(rows)}, {c_dim(width)}}}"

    def taps(self, slot: str) -> str:
        return self.size(slot, 2) if slot in self.inputs else "0"

    def attr(self, name: str) -> str:
        value = self.node.attrs[name]
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, int) else c_constant(value, DType.f32)

    def attrs(self, *names: str) -> Fields:
        return {name: self.attr(name) for name in names if name in self.node.attrs}

    def pointers(self, *slots: str) -> Fields:
        return {slot: self.pointer(slot) for slot in slots}

    def copies(self) -> list[Fields]:
        """States that could not be updated in place are copied first; the kernel then updates the copy."""
        lines = []
        for result in self.results.values():
            operand = updated_operand(result)
            if operand is None or result in self.plan.schedule.in_place:
                continue
            nbytes = f"{c_dim(operand.type.numel)} * {operand.type.dtype.nbytes}"
            lines.append({"target": self.name(result), "source": self._place(operand), "nbytes": nbytes})
        return lines


UNSCALED = (DType.f32, DType.bf16)


def _streams(o: Operands) -> tuple[str, Fields]:
    merge = o.node.op == "mhc_merge"
    _, streams, width = o.shape("x")
    fields = {"H": c_dim(width), **o.attrs("iterations", "pre_eps", "norm_eps", "mhc_eps", "out_eps", "block_eps")}
    fields |= o.pointers("x", "out", "post", "res", "out_norm", "block_norm", "alpha", "beta", "gamma", "norm")
    fields["phi"] = o.weight("phi", UNSCALED)
    fields |= {name: o.result(name) for name in ("new_x", "y", "new_post", "new_res")}
    if merge:
        fields["y"] = o.result("h")
    return f"Streams<{c_dim(streams)}, {'true' if merge else 'false'}>", fields


def _residual(o: Operands) -> tuple[str, Fields]:
    fields = {"H": o.size("x", 1), **o.attrs("out_eps", "block_eps", "norm_eps")}
    fields |= o.pointers("x", "out", "out_norm", "block_norm", "norm")
    return "Residual", fields | {"new_x": o.result("new_x"), "y": o.result("y")}


def _prologue(o: Operands) -> tuple[str, Fields]:
    rope, width = o.shape("table")[1], o.shape("kv_a")[0]
    fields = {
        "H": o.size("u", 1), "low": o.size("q_b", 1), "latent_dim": c_dim(dim(width - rope)), "rope": c_dim(rope),
        **o.attrs("heads", "head_dim", "q_eps", "kv_eps"), "start": o.scalar("start"),
        "rows": o.size("cache", 0) if "cache" in o else "0",
    }  # fmt: skip
    fields |= o.pointers("u", "q_conv", "q_norm", "kv_conv", "kv_norm", "table")
    fields |= {name: o.weight(name) for name in ("q_a", "q_b", "kv_a")}
    fields |= {name: o.ring(name) for name in ("q_ring", "kv_ring")}
    fields |= {"cache": o.result("new_cache"), "q": o.result("q"), "qr": o.result("qr"), "latent": o.result("latent")}
    return f"Prologue<{o.taps('q_conv')}, {o.taps('kv_conv')}>", fields


def _unread_rows(o: Operands) -> int:
    """So many cached rows and nobody reads the indexer's queries: the least topk of the attentions that take them."""
    graph, queries = o.plan.graph, {o.results[name] for name in ("iq", "iw") if name in o.results}
    readers = [node for node in graph.nodes if not queries.isdisjoint(node.inputs)]
    if not queries.isdisjoint(graph.outputs) or any(node.op != "dsa_attention" for node in readers):
        return 0
    return min((int(node.attrs["topk"]) for node in readers), default=0)


def _index(o: Operands) -> tuple[str, Fields]:
    fields = {
        "H": o.size("u", 1), "low": o.size("qr", 1), "width": o.size("wk", 0), "rope": o.size("table", 1),
        "rows": o.size("cache", 0), **o.attrs("heads", "k_eps", "scale"),
    }  # fmt: skip
    fields |= o.pointers("u", "qr", "k_gamma", "k_beta", "table")
    fields |= {name: o.weight(name) for name in ("wq_b", "wk", "weights_proj")}
    fields["unread"] = str(_unread_rows(o))
    return "IndexPrologue", fields | {"cache": o.result("new_cache"), "iq": o.result("iq"), "iw": o.result("iw")}


def _output(o: Operands) -> tuple[str, Fields]:
    fields = {"C": o.size("a", 1), "H": o.size("o_proj", 0), "start": o.scalar("start"), **o.pointers("a", "o_conv")}
    fields |= {"o_ring": o.ring("o_ring"), "o_proj": o.weight("o_proj"), "out": o.result("out")}
    return f"AttentionOutput<{o.taps('o_conv')}>", fields


def _attention(o: Operands) -> tuple[str, Fields]:
    _, heads, head = o.shape("q")
    nope, latent = o.node.attrs["nope"], o.shape("kv_b")[1]
    sizes = ", ".join(c_dim(d) for d in (nope, dim(head - nope), o.node.attrs["v"], latent))
    fields = {"heads": c_dim(heads), "sink_count": o.size("sinks", 0) if "sinks" in o else "0"}
    fields |= {**o.attrs("scale", "expand_from"), **o.pointers("q", "sinks"), "kv_b": o.weight("kv_b"), "out": o.result("out")}
    if o.node.op == "swa_attention":
        fields |= {"start": o.scalar("start"), **o.attrs("window"), **o.pointers("latent"), "ring": o.ring("ring")}
        return f"SwaAttention<{sizes}>", fields
    fields |= {"rows": o.size("cache", 0), **o.pointers("cache")}
    if o.node.op == "dense_attention":
        return f"DenseAttention<{sizes}>", fields
    fields |= {"index_heads": o.size("iq", 1), "index_width": o.size("iq", 2), **o.attrs("topk", "index_scale")}
    fields |= o.pointers("iq", "iw", "index_cache")
    return f"DsaAttention<{sizes}>", fields | {"codes": f"env.kept.of({fields['index_cache']})"}


def _gate(o: Operands) -> tuple[str, Fields]:
    fields = {"H": o.size("x", 1), "E": o.size("router", 0), **o.attrs("k", "normalise", "scale", "eps"), **o.pointers("x", "bias")}
    return "MoeGate", fields | {"router": o.weight("router"), "index": o.result("index"), "weight": o.result("weight")}


def _moe(o: Operands) -> tuple[str, Fields]:
    experts, hidden, inner = o.shape("down")
    if "shared_gate" in o and o.inputs["shared_gate"].type.dtype is not o.inputs["shared_up"].type.dtype:
        raise o.fail("shared_gate and shared_up are stored in different formats")
    fields = {
        "H": c_dim(hidden), "F": c_dim(inner), "E": c_dim(experts), "k": o.size("index", 1),
        "shared_F": o.size("shared_gate", 0) if "shared_gate" in o else "0", **o.pointers("x", "weight", "index"),
    }  # fmt: skip
    fields |= {name: o.weight(name) for name in ("gate_up", "down", "shared_gate", "shared_up", "shared_down")}
    return "MoeFfn", fields | {"out": o.result("out")}


def _ffn(o: Operands) -> tuple[str, Fields]:
    fields = {"H": o.size("in0", 1), "F": o.size("in1", 0), "x": o.pointer("in0")}
    fields |= {name: o.weight(f"in{i}") for i, name in enumerate(("gate", "up", "down"), 1)}
    return "DenseFfn", fields | {"out": o.result("out0")}


def _head(o: Operands) -> tuple[str, Fields]:
    fields = {"H": o.size("x", 1), "V": o.size("w", 0), **o.attrs("eps"), **o.pointers("x", "gamma"), "w": o.weight("w")}
    if o.node.op == "lm_head_argmax":
        return "LmHeadArgmax", fields | {"token": o.result("token")}
    fields |= {"drafts": o.pointer("drafts"), "start": o.scalar("start")}
    return "MtpVerify", fields | {name: o.result(name) for name in ("accepted", "tokens", "length")}


def _sampling(o: Operands) -> tuple[str, Fields]:
    exact = (DType.f64,)
    fields = {"V": o.size("logits", 1), "logits": o.pointer("logits"), "uniform": o.pointer("uniform", exact)}
    fields |= {name: o.scalar(name) for name in ("temperature", "top_k", "top_p")}
    if o.node.op == "sample_token":
        return "SampleToken", fields | {"token": o.result("token"), "probs": o.result("probs", exact)}
    fields |= {"draft_probs": o.pointer("draft_probs", exact), "drafts": o.pointer("drafts"), "start": o.scalar("start")}
    return "MtpVerifySampled", fields | {name: o.result(name) for name in ("accepted", "tokens", "length")}


def _rows(o: Operands) -> list[str]:
    shape = o.shape("in0")
    return [c_dim(product(shape[:-1])), c_dim(shape[-1])]


def _rotary(o: Operands) -> list[str]:
    shape = o.shape("in0")
    heads = c_dim(shape[1]) if len(shape) == 3 else "1"
    sizes = [c_dim(shape[0]), heads, c_dim(shape[-1]), o.attr("offset"), o.size("in1", 1)]
    return [*sizes, o.pointer("in0"), o.pointer("in1"), o.result("out0")]


def _table(o: Operands) -> list[str]:
    theta = repr(float(o.node.attrs["theta"]))
    return [o.size("in0", 0), o.attr("dim"), theta, o.pointer("in0"), o.result("out0")]


def _linear(o: Operands) -> list[str]:
    (tokens, width), rows = o.shape("in0"), o.size("in1", 0)
    return [c_dim(tokens), rows, c_dim(width), o.pointer("in0"), c_dim(width), o.weight("in1"), o.result("out0"), rows]


# Kernels with a record of operands: C++ type, and its fields.
_RECORDS: dict[str, Callable[[Operands], tuple[str, Fields]]] = {
    "mhc_pre": _streams, "mhc_post": _streams, "mhc_post_pre": _streams, "mhc_merge": _streams, "residual": _residual,
    "mla_prologue": _prologue, "index_prologue": _index, "attention_output": _output, "swa_attention": _attention,
    "dense_attention": _attention, "dsa_attention": _attention, "moe_gate": _gate, "moe_ffn": _moe, "dense_ffn": _ffn,
    "lm_head_argmax": _head, "mtp_verify": _head, "sample_token": _sampling, "mtp_verify_sampled": _sampling,
}  # fmt: skip

# Kernels that are plain functions: name, and the arguments after the pool.
_CALLS: dict[str, Callable[[Operands], tuple[str, list[str]]]] = {
    "rms_norm": lambda o: ("rms_norm", [*_rows(o), o.pointer("in0"), o.pointer("in1"), o.attr("eps"), o.result("out0")]),
    "layer_norm": lambda o: (
        "layer_norm", [*_rows(o), *(o.pointer(f"in{i}") for i in range(3)), o.attr("eps"), o.result("out0")]
    ),
    "linear": lambda o: ("linear", _linear(o)),
    "rotary_table": lambda o: ("rotary_table", _table(o)),
    "rotary": lambda o: ("rotary", _rotary(o)),
    "mome_conv": lambda o: (
        f"mome_conv<{o.taps('weight')}>",
        [o.size("x", 0), o.pointer("x"), o.pointer("weight"), o.scalar("start"), o.ring("ring"), o.result("y")],
    ),
    "sinkhorn": lambda o: (
        f"sinkhorn<{o.size('in0', 1)}>",
        [o.size("in0", 0), o.attr("iterations"), o.attr("eps"), o.pointer("in0"), o.result("out0")],
    ),
}  # fmt: skip


def fused_kernel(plan: FunctionPlan, kernel: Kernel, name: Callable[[Value], str], render: Callable[..., str]) -> str:
    """The C++ statement of a fused operator. IRError where the CPU target has no kernel for it."""
    operands = Operands(plan, kernel, name)
    op = kernel.root.op
    common: dict[str, Any] = {"copies": operands.copies()}
    if op in _CALLS:
        function, arguments = _CALLS[op](operands)
        return render("fused_call.jinja", function=function, arguments=arguments, **common)
    if op not in _RECORDS:
        raise operands.fail("the CPU target has no kernel for it")
    kind, fields = _RECORDS[op](operands)
    workspace = None
    if op in _NEEDS_WORKSPACE:
        begin, end = plan.workspaces.get(kernel.root, (0, 0))
        workspace = {"begin": begin, "end": end}
    tokens = c_dim(kernel.root.inputs[0].type.shape[0])
    return render("fused.jinja", type=kind, fields=fields, tokens=tokens, workspace=workspace, **common)


_NEEDS_WORKSPACE = frozenset(_RECORDS) - {"mhc_pre", "mhc_post", "mhc_post_pre", "mhc_merge", "residual"}
