"""The aten operators that are covered: each is a few IR operators. Unlisted ones are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pangu_compile.ir import DType, IRError, Value, dim

Handler = Callable[[Any, Any, list[Any], dict[str, Any]], Any]
HANDLERS: dict[str, Handler] = {}
IGNORED = {
    "aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten.sym_constrain_range_for_size.default",
    "<built-in function ge>", "<built-in function le>", "<built-in function gt>", "<built-in function lt>",
    "<built-in function eq>", "<built-in function ne>", "<built-in function and_>",
}  # fmt: skip
END = 9223372036854775807


def handles(*names: str) -> Callable[[Handler], Handler]:
    def register(fn: Handler) -> Handler:
        for name in names:
            if name in HANDLERS:
                raise IRError(f"two importer rules for {name}")
            HANDLERS[f"aten.{name}"] = fn
        return fn

    return register


def _out_type(im: Any, node: Any) -> Any:
    fake = node.meta["val"]
    return im.type_of(fake[0] if isinstance(fake, (list, tuple)) else fake)


def _promoted(im: Any, node: Any, count: int) -> DType:
    """Common dtype of the operands by torch's own rule (0-d tensors and numbers are weak)."""
    fakes = [a.meta["val"] if isinstance(a, torch.fx.Node) else a for a in node.args[:count]]
    fakes = [0 if isinstance(f, torch.SymInt) else f for f in fakes]
    dtype = torch._prims_common.elementwise_dtypes(
        *fakes, type_promotion_kind=torch._prims_common.ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT
    )[1]
    from .importer import DTYPES

    return DTYPES[dtype]


def _unary(op: str) -> Handler:
    def rule(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
        dtype = _out_type(im, node).dtype
        return im.build(op, im.build.cast(args[0], dtype))

    return rule


_UNARY = "exp log sqrt rsqrt sigmoid sin cos tanh reciprocal erf silu neg abs relu round floor"
for _name in _UNARY.split():
    handles(f"{_name}.default")(_unary(_name))


def _binary(op: str) -> Handler:
    def rule(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
        dtype = _out_type(im, node).dtype
        left, right = im.scalar(args[0], dtype), im.scalar(args[1], dtype)
        if kw.get("alpha", 1) != 1:
            right = im.build("mul", right, im.scalar(kw["alpha"], dtype))
        return im.build(op, left, right)

    return rule


for _name, _op in {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "remainder": "remainder",
                   "maximum": "maximum", "minimum": "minimum", "floor_divide": "floor_divide"}.items():  # fmt: skip
    for _kind in ("Tensor", "Scalar", "default"):
        handles(f"{_name}.{_kind}")(_binary(_op))


@handles("div.Tensor_mode")
def _div_mode(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    dtype = _out_type(im, node).dtype
    left, right = im.scalar(args[0], dtype), im.scalar(args[1], dtype)
    if kw.get("rounding_mode") is None:
        return im.build("div", left, right)
    if kw["rounding_mode"] != "floor":
        raise IRError(f"{im.graph.name}: division rounding towards zero is not covered ({im.build.loc})")
    if dtype.is_float:
        return im.build("floor", im.build("div", left, right))
    return im.build("floor_divide", left, right)


@handles("rsub.Scalar")
def _rsub(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    dtype = _out_type(im, node).dtype
    return im.build("sub", im.scalar(args[1], dtype), im.scalar(args[0], dtype))


@handles("pow.Tensor_Scalar", "pow.Scalar", "pow.Tensor_Tensor")
def _pow(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    dtype = _out_type(im, node).dtype
    base = im.scalar(args[0], dtype)
    if args[1] in (2, 2.0) and not isinstance(args[1], Value):
        return im.build("mul", base, base)
    return im.build("pow", base, im.scalar(args[1], dtype))


def _compare(op: str) -> Handler:
    def rule(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
        dtype = _promoted(im, node, 2)
        return im.build(op, im.scalar(args[0], dtype), im.scalar(args[1], dtype))

    return rule


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    handles(f"{_name}.Tensor", f"{_name}.Scalar")(_compare(_name))
for _name in ("and", "or"):
    for _spelling in (f"logical_{_name}.default", f"bitwise_{_name}.Tensor", f"__{_name}__.Tensor"):
        handles(_spelling)(_binary(f"logical_{_name}"))
handles("logical_not.default", "bitwise_not.default")(_unary("logical_not"))


@handles("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def _where(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    dtype = _out_type(im, node).dtype
    return im.build("where", args[0], im.scalar(args[1], dtype), im.scalar(args[2], dtype))


@handles("clamp.default")
def _clamp(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    dtype = _out_type(im, node).dtype
    low = args[1] if len(args) > 1 else kw.get("min")
    high = args[2] if len(args) > 2 else kw.get("max")
    x = im.build.cast(args[0], dtype)
    x = x if low is None else im.build("maximum", x, im.scalar(low, dtype))
    return x if high is None else im.build("minimum", x, im.scalar(high, dtype))


@handles("gelu.default")
def _gelu(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x, b, dtype = args[0], im.build, args[0].type.dtype

    def c(value: float) -> Value:
        return b.constant(value, dtype)

    if kw.get("approximate", "none") == "tanh":
        cube = b("mul", b("mul", x, x), x)
        inner = b("mul", b("add", x, b("mul", cube, c(0.044715))), c(math.sqrt(2 / math.pi)))
        gate = b("tanh", inner)
    else:
        gate = b("erf", b("mul", x, c(math.sqrt(0.5))))
    return b("mul", b("mul", x, c(0.5)), b("add", gate, c(1.0)))


# Views, copies, constants.


@handles("view.default", "_unsafe_view.default", "reshape.default", "squeeze.dims", "squeeze.dim", "unsqueeze.default",
         "flatten.using_ints")  # fmt: skip
def _reshape(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    return im.build.reshape(args[0], _out_type(im, node).shape)


@handles("expand.default")
def _expand(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    target = _out_type(im, node)
    return args[0] if target.same(args[0].type) else im.build("broadcast", args[0], shape=target.shape)


@handles("permute.default")
def _permute(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    perm = tuple(p % args[0].type.rank for p in args[1])
    return args[0] if perm == tuple(range(len(perm))) else im.build("transpose", args[0], perm=perm)


@handles("transpose.int")
def _transpose(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    perm = list(range(args[0].type.rank))
    perm[args[1]], perm[args[2]] = perm[args[2]], perm[args[1]]
    return im.build("transpose", args[0], perm=tuple(perm))


@handles("t.default")
def _t(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    return im.build("transpose", args[0], perm=(1, 0))


def _bound(value: Any, size: Any) -> Any:
    if isinstance(value, int) and value < 0:
        return dim(size + value)
    return dim(value)


@handles("slice.Tensor")
def _slice(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    defaults: list[Any] = [0, None, None, 1]  # axis, start, stop, step
    x, axis, start, stop, step = args + defaults[len(args) - 1 :]
    axis %= x.type.rank
    size = x.type.shape[axis]
    if step != 1:
        raise IRError(f"{im.graph.name}: slice with step {step} is not covered ({im.build.loc})")
    begin = _bound(start or 0, size)
    length = _out_type(im, node).shape[axis]
    if stop is None or (isinstance(stop, int) and stop == END):
        end = size
    else:
        end = dim(begin + length)
    whole = begin == 0 and dim(end - size) == 0
    return x if whole else im.build("slice", x, axis=axis, start=begin, stop=end)


@handles("select.int")
def _select(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x, axis, index = args
    axis %= x.type.rank
    at = _bound(index, x.type.shape[axis])
    part = im.build("slice", x, axis=axis, start=at, stop=dim(at + 1))
    return im.build.reshape(part, tuple(d for i, d in enumerate(x.type.shape) if i != axis))


@handles("split_with_sizes.default", "split.Tensor", "chunk.default")
def _split(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> list[Value]:
    x, axis = args[0], args[2] if len(args) > 2 else 0
    axis %= x.type.rank
    parts, at = [], dim(0)
    for fake in node.meta["val"]:
        size = im.dim(fake.shape[axis])
        parts.append(im.build("slice", x, axis=axis, start=at, stop=dim(at + size)))
        at = dim(at + size)
    return parts


@handles("cat.default")
def _cat(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    target = _out_type(im, node)
    axis = (args[1] if len(args) > 1 else 0) % target.rank
    return im.build("concat", *[im.build.cast(v, target.dtype) for v in args[0]], axis=axis)


@handles("clone.default", "alias.default", "detach.default", "lift_fresh_copy.default", "_to_copy.default", "contiguous.default",
         "to.dtype", "to.device", "to.dtype_layout", "type_as.default")  # fmt: skip
def _copy(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    return im.build.cast(args[0], _out_type(im, node).dtype)


@handles("full.default", "full_like.default", "scalar_tensor.default", "zeros_like.default", "ones_like.default")
def _full(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    target, name = _out_type(im, node), str(node.target)
    fill: Any = {"aten.zeros_like.default": 0, "aten.ones_like.default": 1}.get(name)
    if fill is None:
        fill = args[0] if "scalar" in name else args[1]
    value = im.scalar(fill, target.dtype)
    return im.build("broadcast", value, shape=target.shape) if target.rank else value


@handles("arange.start_step", "arange.start", "arange.default")
def _arange(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    target = _out_type(im, node)
    start, step = (args[0], args[2] if len(args) > 2 else 1) if len(args) > 1 else (0, 1)
    value = im.build("iota", size=target.shape[0], dtype=target.dtype.value)
    if step != 1:
        value = im.build("mul", value, im.scalar(step, target.dtype))
    return value if start == 0 else im.build("add", value, im.scalar(start, target.dtype))


# Indexing.


@handles("embedding.default")
def _embedding(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    return im.build("take", args[0], im.build.cast(args[1], DType.i64))


@handles("index_select.default")
def _index_select(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    return _take_axis(im, args[0], args[1] % args[0].type.rank, args[2])


def _take_axis(im: Any, x: Value, axis: int, index: Value) -> Value:
    index = im.build.cast(index, DType.i64)
    if axis == 0:
        return im.build("take", x, index)
    rest = [i for i in range(x.type.rank) if i != axis]
    taken = im.build("take", im.build("transpose", x, perm=(axis, *rest)), index)
    r = index.type.rank
    perm = (*range(r, r + axis), *range(r), *range(r + axis, r + len(rest)))
    return im.build("transpose", taken, perm=perm)


@handles("index.Tensor")
def _index(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    used = [(axis, index) for axis, index in enumerate(args[1]) if index is not None]
    if len(used) != 1 or used[0][1].type.dtype is DType.bool_:
        raise IRError(f"{im.graph.name}: indexing by {len(used)} tensors or by a mask is not covered ({im.build.loc})")
    return _take_axis(im, args[0], *used[0])


@handles("gather.default")
def _gather(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    if args[1] % args[0].type.rank != args[0].type.rank - 1:
        raise IRError(f"{im.graph.name}: gather along an inner axis is not covered ({im.build.loc})")
    return im.build("take_along", args[0], args[2])


@handles("index_put.default")
def _index_put(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    target, indices, rows = args[0], args[1], args[2]
    if len(indices) != 1 or indices[0] is None or (len(args) > 3 and args[3]):
        raise IRError(f"{im.graph.name}: index_put other than rows of axis 0 is not covered ({im.build.loc})")
    shape = (*indices[0].type.shape, *target.type.shape[1:])
    if rows.type.rank != len(shape):
        rows = im.build("broadcast", rows, shape=shape)
    return im.build("put_rows", target, indices[0], rows)


@handles("sort.stable", "sort.default")
def _sort(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> list[Value]:
    named = dict(zip(("self", "dim", "descending"), args, strict=False)) if "default" in str(node.target) else {"self": args[0]}
    axis, descending = kw.get("dim", named.get("dim", -1)), kw.get("descending", named.get("descending", False))
    if axis % args[0].type.rank != args[0].type.rank - 1:
        raise IRError(f"{im.graph.name}: sort along an inner axis is not covered ({im.build.loc})")
    return list(im.build.multi("sort", args[0], descending=bool(descending)))


@handles("topk.default")
def _topk(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> list[Value]:
    if len(args) > 2 and (args[2] not in (-1, args[0].type.rank - 1) or (len(args) > 3 and not args[3])):
        raise IRError(f"{im.graph.name}: topk of the smallest or along an inner axis is not covered ({im.build.loc})")
    return list(im.build.multi("topk", args[0], k=dim(args[1])))


@handles("argmax.default")
def _argmax(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x = args[0]
    if len(args) < 2 or args[1] is None or args[1] % x.type.rank != x.type.rank - 1:
        raise IRError(f"{im.graph.name}: argmax other than of the last axis is not covered ({im.build.loc})")
    return im.build.reshape(im.build("argmax", x), _out_type(im, node).shape)


# Reductions and products.


def _reduce(op: str, mean: bool = False) -> Handler:
    def rule(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
        target = _out_type(im, node)
        x = im.build.cast(args[0], target.dtype)
        dims = args[1] if len(args) > 1 and args[1] else list(range(x.type.rank))
        dims = [dims] if isinstance(dims, int) else dims
        axes = tuple(sorted(d % x.type.rank for d in dims))
        out = im.build(op, x, axes=axes)
        if mean:
            count = dim(math.prod(x.type.shape[a] for a in axes))
            scale = im.scalar(1.0 / count, target.dtype) if isinstance(count, int) else None
            out = im.build("mul", out, scale) if scale else im.build("div", out, im.scalar(count, target.dtype))
        return im.build.reshape(out, target.shape)

    return rule


handles("sum.dim_IntList", "sum.default")(_reduce("reduce_sum"))
handles("mean.dim", "mean.default")(_reduce("reduce_sum", mean=True))
handles("amax.default")(_reduce("reduce_max"))
handles("amin.default")(_reduce("reduce_min"))


@handles("cumsum.default")
def _cumsum(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x = im.build.cast(args[0], _out_type(im, node).dtype)
    if args[1] % x.type.rank != x.type.rank - 1:
        raise IRError(f"{im.graph.name}: cumsum along an inner axis is not covered ({im.build.loc})")
    return im.build("cumsum", x)


@handles("_softmax.default", "softmax.int")
def _softmax(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x = im.build.cast(args[0], _out_type(im, node).dtype)
    if args[1] % x.type.rank == x.type.rank - 1:
        return im.build("softmax", x)
    perm = list(range(x.type.rank))
    perm[args[1]], perm[-1] = perm[-1], perm[args[1]]
    moved = im.build("softmax", im.build("transpose", x, perm=tuple(perm)))
    return im.build("transpose", moved, perm=tuple(perm))


@handles("mm.default", "bmm.default")
def _mm(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    return im.build("matmul", args[0], args[1])


@handles("mv.default")
def _mv(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    column = im.build.reshape(args[1], (*args[1].type.shape, 1))
    return im.build.reshape(im.build("matmul", args[0], column), _out_type(im, node).shape)


@handles("addmm.default")
def _addmm(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    product = im.build("matmul", args[1], args[2])
    dtype = product.type.dtype
    if kw.get("alpha", 1) != 1:
        product = im.build("mul", product, im.scalar(kw["alpha"], dtype))
    bias = args[0] if kw.get("beta", 1) == 1 else im.build("mul", args[0], im.scalar(kw["beta"], dtype))
    return im.build("add", product, bias)


@handles("matmul.default")
def _matmul(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    """Batched where both are; a matrix on the right takes all the left's rows at once."""
    a, b = args
    if a.type.rank < 2 or b.type.rank < 2:
        raise IRError(f"{im.graph.name}: matmul of a vector is not covered ({im.build.loc})")
    if a.type.rank > 2 and b.type.rank == 2:
        rows = dim(a.type.numel / a.type.shape[-1])
        flat = im.build("matmul", im.build.reshape(a, (rows, a.type.shape[-1])), b)
        return im.build.reshape(flat, _out_type(im, node).shape)
    return im.build("matmul", a, b)


@handles("linear.default")
def _linear(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x, weight, bias = [*args, None][:3]
    if x.type.rank < 1:
        raise IRError(f"{im.graph.name}: linear of a scalar is not covered ({im.build.loc})")
    rows = dim(x.type.numel / x.type.shape[-1])
    product = im.build("matmul", im.build.reshape(x, (rows, x.type.shape[-1])), im.build("transpose", weight, perm=(1, 0)))
    if bias is not None:
        product = im.build("add", product, bias)
    return im.build.reshape(product, _out_type(im, node).shape)


@handles("masked_fill.Scalar")
def _masked_fill(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x, mask, value = args
    return im.build("where", mask, im.scalar(value, x.type.dtype), x)


@handles("narrow.default")
def _narrow(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    x, axis, start = args[0], args[1] % args[0].type.rank, args[2]
    begin = _bound(start, x.type.shape[axis])
    return im.build("slice", x, axis=axis, start=begin, stop=dim(begin + _out_type(im, node).shape[axis]))


@handles("index_copy.default")
def _index_copy(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> Value:
    if args[1] % args[0].type.rank != 0:
        raise IRError(f"{im.graph.name}: index_copy along an inner axis is not covered ({im.build.loc})")
    return im.build("put_rows", args[0], args[2], args[3])


@handles("native_layer_norm.default")
def _layer_norm(im: Any, node: Any, args: list[Any], kw: dict[str, Any]) -> list[Any]:
    x, shape, weight, bias, eps = args
    b, dtype = im.build, x.type.dtype
    axes = tuple(range(x.type.rank - len(shape), x.type.rank))
    scale = b.constant(1.0 / math.prod(shape), dtype)
    mean = b("mul", b("reduce_sum", x, axes=axes), scale)
    centred = b("sub", x, mean)
    variance = b("mul", b("reduce_sum", b("mul", centred, centred), axes=axes), scale)
    out = b("mul", centred, b("rsqrt", b("add", variance, b.constant(eps, dtype))))
    out = b("mul", out, weight) if weight is not None else out
    return [b("add", out, bias) if bias is not None else out, None, None]
