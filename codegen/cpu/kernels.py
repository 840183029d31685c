"""Plan kernels -> C++ statements, each rendered from its template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pangu_compile.ir import DType, IRError, Value
from pangu_compile.ir.types import Dim, dim, product, same_dim
from pangu_compile.plan import FunctionPlan, Kernel
from pangu_compile.plan.access import Affine, affine, contiguous_alias, row_major

from ..dims import c_dim
from .expr import CTYPES, Inline, add_terms, scaled
from .fused import fused_kernel

Render = Callable[..., str]


class KernelWriter:
    """Writes the kernels of one function."""

    def __init__(self, plan: FunctionPlan, render: Render):
        self.plan, self.render = plan, render
        self.names: dict[Value, str] = {}
        self.inline = Inline(self.is_buffer, self.name)

    def is_buffer(self, value: Value) -> bool:
        return self.plan.schedule.is_buffer(value)

    def name(self, value: Value) -> str:
        """C++ variable of a buffer. A value updated in place shares its state's memory."""
        return self.names.setdefault(value, f"{'p' if value.producer is None else 'v'}{len(self.names)}_")

    def declarations(self) -> list[str]:
        lines = []
        for value, (kind, at) in self.plan.places.items():
            ctype, name = CTYPES[value.type.dtype], self.name(value)
            if kind == "in":
                lines.append(f"[[maybe_unused]] const {ctype} *const {name} = static_cast<const {ctype} *>(in[{at}]);")
            elif kind == "state":
                source = f"static_cast<{ctype} *>(const_cast<void *>(in[{at}]))"
                lines.append(f"[[maybe_unused]] {ctype} *const {name} = {source};")
            elif kind == "out":
                lines.append(f"{ctype} *const {name} = static_cast<{ctype} *>(out[{at}]);")
            else:
                lines.append(f"{ctype} *const {name} = reinterpret_cast<{ctype} *>(frame + {at});")
        return lines

    def write(self, kernel: Kernel) -> str:
        writer = getattr(self, f"_{kernel.kind}", None)
        if writer is None:
            raise IRError(f"codegen: no kernel for {kernel.kind} ({kernel.root.loc})")
        return str(writer(kernel))

    # Loops.

    def _loops(self, shape: tuple[Dim, ...], prefix: str = "i") -> tuple[list[dict[str, str]], list[str]]:
        """One loop per axis that is not of size one, and the index into the full shape."""
        loops, index = [], []
        for axis, d in enumerate(shape):
            if same_dim(d, 1):
                index.append("0")
            else:
                loops.append({"var": f"{prefix}{axis}", "size": c_dim(d)})
                index.append(f"{prefix}{axis}")
        return loops, index

    def _store(self, value: Value, index: list[str], offset: str = "0") -> str:
        terms = [scaled(i, s) for i, s in zip(index, row_major(value.type.shape), strict=True)]
        return f"{self.name(value)}[{add_terms(offset, *terms)}]"

    def _fill(self, shape: tuple[Dim, ...], store: Callable[[list[str]], str], load: Callable[[list[str]], str]) -> str:
        loops, index = self._loops(shape)
        work = product(shape[1:]) if len(shape) > 1 and not same_dim(shape[0], 1) else 1
        if loops and len(loops) < len([d for d in shape if not same_dim(d, 1)]) + 1:
            first = next(i for i, d in enumerate(shape) if not same_dim(d, 1))
            work = product(shape[first + 1 :])
        return self.render("pointwise.jinja", loops=loops, work=c_dim(dim(work * 4)), target=store(index), value=load(index))

    def _flat(self, value: Value, root: Value) -> bool:
        """Is every load below `value` the same row-major element or a single element?"""
        view = affine(value, self.is_buffer)
        if view is not None:
            if same_dim(value.type.numel, 1):
                return True
            same = value.type.shape == root.type.shape
            return same and contiguous_alias(value, self.is_buffer) is not None and same_dim(view.offset, 0)
        node = value.producer
        assert node is not None
        if node.op == "constant":
            return True
        if node.op in ("iota", "size", "take", "take_along", "reshape", "broadcast", "transpose", "slice", "concat"):
            return False
        return all(self._flat(v, root) for v in node.inputs)

    # One method per kernel kind.

    def _pointwise(self, kernel: Kernel) -> str:
        value = kernel.outputs[0]
        node = kernel.root
        view_ops = ("iota", "size", "take", "take_along", "reshape", "broadcast", "transpose", "slice", "concat")

        others = Inline(lambda v: v is not value and self.is_buffer(v), self.name)

        def compute(index: list[str]) -> str:
            return others.load(value, index)

        if node.op not in view_ops and value.type.rank > 1 and all(self._flat(v, value) for v in node.inputs):
            return self._flat_pointwise(kernel)
        return self._fill(value.type.shape, lambda i: self._store(value, i), compute)

    def _flat_pointwise(self, kernel: Kernel) -> str:
        """All operands are laid out like the result: one loop over elements."""
        value = kernel.outputs[0]
        flat = FlatInline(self.is_buffer, self.name)
        loops = [{"var": "i0", "size": c_dim(value.type.numel)}]
        text = flat.compute(kernel.root, "i0")
        return self.render("pointwise.jinja", loops=loops, work="4", target=f"{self.name(value)}[i0]", value=text)

    def _concat(self, kernel: Kernel) -> str:
        out, axis = kernel.outputs[0], kernel.root.attrs["axis"]
        strides = row_major(out.type.shape)
        parts, at = [], dim(0)
        for operand in kernel.root.inputs:
            offset = c_dim(dim(at * strides[axis]))

            def store(index: list[str], offset: str = offset) -> str:
                terms = [scaled(i, s) for i, s in zip(index, strides, strict=True)]
                return f"{self.name(out)}[{add_terms(offset, *terms)}]"

            def load(index: list[str], operand: Value = operand) -> str:
                return self.inline.load(operand, index)

            parts.append(self._fill(operand.type.shape, store, load))
            at = dim(at + operand.type.shape[axis])
        return "\n".join(parts)

    def _append(self, kernel: Kernel) -> str:
        """Rows added to a cache in place, after those that it holds."""
        out, (old, new) = kernel.outputs[0], kernel.root.inputs
        offset = c_dim(dim(old.type.shape[0] * row_major(out.type.shape)[0]))
        return self._fill(new.type.shape, lambda i: self._store(out, i, offset), lambda i: self.inline.load(new, i))

    def _put_rows(self, kernel: Kernel) -> str:
        out, (base, index, rows) = kernel.outputs[0], kernel.root.inputs
        text = ""
        if out not in self.plan.schedule.in_place:
            text = self._fill(out.type.shape, lambda i: self._store(out, i), lambda i: self.inline.load(base, i)) + "\n"
        # Rows in order on one thread: where two go to one place, the later one wins.
        loops, at = self._loops(rows.type.shape)
        row = self.inline.load(index, [at[0]])
        target = self._store(out, [f"({row})", *at[1:]])
        body = self.render("serial.jinja", loops=loops, body=f"{target} = {self.inline.load(rows, at)};")
        return f"{text}{body}"

    def _reduce(self, kernel: Kernel) -> str:
        out, source = kernel.outputs[0], kernel.root.inputs[0]
        axes, op = kernel.root.attrs["axes"], kernel.root.op
        ctype = CTYPES[out.type.dtype]
        loops, index = self._loops(source.type.shape)
        by_var = {loop["var"]: loop for loop in loops}
        out_index = ["0" if i in axes else v for i, v in enumerate(index)]
        last = max((i for i, v in enumerate(index) if v != "0"), default=-1)
        shared = {
            "op": op, "ctype": ctype, "init": _INITIAL[op](ctype), "combine": _COMBINE[op],
            "target": self._store(out, out_index), "value": self.inline.load(source, index),
            "work": c_dim(_share(source.type.shape, axes)),
        }  # fmt: skip
        kept = [by_var[v] for i, v in enumerate(index) if v != "0" and i not in axes]
        if last in axes:
            reduced = [by_var[v] for i, v in enumerate(index) if v != "0" and i in axes and i != last]
            return self.render("reduce_last.jinja", loops=kept, reduced=reduced, var=index[last],
                               size=c_dim(source.type.shape[last]), **shared)  # fmt: skip
        first = min((i for i in axes if index[i] != "0"), default=len(index))
        lead = [by_var[v] for i, v in enumerate(index) if v != "0" and i < first]
        inner = [by_var[v] for i, v in enumerate(index) if v != "0" and i >= first]
        rest = [loop for loop in inner if loop in kept]
        return self.render("reduce_inner.jinja", loops=lead, kept=rest, inner=inner, **shared)

    def _softmax(self, kernel: Kernel) -> str:
        return self._rowwise(kernel, "softmax_row", 16)

    def _cumsum(self, kernel: Kernel) -> str:
        return self._rowwise(kernel, "cumsum_row", 2)

    def _rowwise(self, kernel: Kernel, function: str, cost: int) -> str:
        """Rows of the last axis, computed into place and then handed to a function; `cost`: work of an element."""
        out, source = kernel.outputs[0], kernel.root.inputs[0]
        loops, index = self._loops(source.type.shape[:-1])
        return self.render(
            "rowwise.jinja", function=function, loops=loops, var="j_",
            size=c_dim(source.type.shape[-1]), ctype=CTYPES[out.type.dtype],
            row=self._store(out, [*index, "0"]), value=self.inline.load(source, [*index, "j_"]),
            work=c_dim(dim(_share(source.type.shape, (source.type.rank - 1,)) * cost)),
        )  # fmt: skip

    def _view(self, value: Value) -> Affine:
        view = affine(value, self.is_buffer)
        if view is None:
            raise IRError(f"codegen: {value!r} was not given memory")
        return view

    def _pointer(self, view: Affine) -> str:
        return f"{self.name(view.buffer)} + {c_dim(view.offset)}" if not same_dim(view.offset, 0) else self.name(view.buffer)

    def _matmul(self, kernel: Kernel) -> str:
        out, (a, b) = kernel.outputs[0], kernel.root.inputs
        if out.type.dtype is not DType.f32:
            raise IRError(f"codegen: matmul in {out.type.dtype.value} is not covered ({kernel.root.loc})")
        va, vb = self._view(a), self._view(b)
        batch = None
        if out.type.rank > 2:
            batch = self._batch(out, a, va, b, vb)
        return self.render(
            "matmul.jinja", M=c_dim(a.type.shape[-2]), N=c_dim(b.type.shape[-1]), K=c_dim(a.type.shape[-1]),
            a_rs=c_dim(va.strides[-2]), a_cs=c_dim(va.strides[-1]), b_rs=c_dim(vb.strides[-2]), b_cs=c_dim(vb.strides[-1]),
            a=self._pointer(va), b=self._pointer(vb), c=self.name(out), batch=batch,
        )  # fmt: skip

    def _batch(self, out: Value, a: Value, va: Affine, b: Value, vb: Affine) -> dict[str, list[str]]:
        count = out.type.rank - 2
        if count > 3:
            raise IRError(f"codegen: matmul with {count} batch axes is not covered")
        table: dict[str, list[str]] = {"size": [c_dim(d) for d in out.type.shape[:-2]]}
        for key, operand, view in (("a", a, va), ("b", b, vb)):
            sizes, strides = operand.type.shape[:-2], view.strides[:-2]
            steps = [
                "0" if same_dim(s, 1) and not same_dim(o, 1) else c_dim(t)
                for s, t, o in zip(sizes, strides, out.type.shape[count - len(sizes) : -2], strict=True)
            ]
            table[key] = ["0"] * (count - len(sizes)) + steps
        pad = 3 - count
        return {"size": ["1"] * pad + table["size"], "a": ["0"] * pad + table["a"], "b": ["0"] * pad + table["b"]}

    def _expert_linear(self, kernel: Kernel) -> str:
        out, (x, weight, index) = kernel.outputs[0], kernel.root.inputs
        vx, vw, vi = self._view(x), self._view(weight), self._view(index)
        step = c_dim(vx.strides[1]) if x.type.rank == 3 else "0"
        sizes = [*index.type.shape, *weight.type.shape]
        pointers = f"{self._pointer(vw)}, {self._pointer(vi)}, {self.name(out)}"
        head = ", ".join(c_dim(d) for d in sizes)
        return f"pangu::expert_linear(pool, {head}, {self._pointer(vx)}, {c_dim(vx.strides[0])}, {step}, {pointers});"

    def _select(self, kernel: Kernel, k: Dim, descending: bool) -> str:
        values, index = kernel.outputs
        source = kernel.root.inputs[0]
        rows, n = product(source.type.shape[:-1]), source.type.shape[-1]
        return (
            f"pangu::select(pool, {self._pointer(self._view(source))}, {c_dim(rows)}, {c_dim(n)}, {c_dim(k)}, "
            f"{'true' if descending else 'false'}, {self.name(values)}, {self.name(index)});"
        )

    def _topk(self, kernel: Kernel) -> str:
        return self._select(kernel, kernel.root.attrs["k"], True)

    def _sort(self, kernel: Kernel) -> str:
        return self._select(kernel, kernel.root.inputs[0].type.shape[-1], kernel.root.attrs["descending"])

    def _argmax(self, kernel: Kernel) -> str:
        source = kernel.root.inputs[0]
        sizes = f"{c_dim(product(source.type.shape[:-1]))}, {c_dim(source.type.shape[-1])}"
        return f"pangu::argmax(pool, {self._pointer(self._view(source))}, {sizes}, {self.name(kernel.outputs[0])});"

    def _fused(self, kernel: Kernel) -> str:
        return fused_kernel(self.plan, kernel, self.name, self.render)

    def _call(self, kernel: Kernel) -> str:
        """Pass pointers; the callee's frame is this call's workspace."""
        node, written = kernel.root, set(kernel.outputs)
        inputs = [f"{self._pointer(self._view(v))}" for v in node.inputs]
        outputs = [self.name(v) if v in written else "nullptr" for v in node.outputs]
        lines = [
            f"const void *const in_[] = {{{', '.join(inputs)}}};",
            f"void *const out_[] = {{{', '.join(outputs)}}};",
        ]
        if node.dims:
            sizes = " ".join(f"env_.{name} = {c_dim(d)};" for name, d in node.dims.items())
            lines.append(f"Env env_ = env; {sizes}")
        env = "env_" if node.dims else "env"
        lines.append(f"{node.attrs['function']}({env}, in_, out_, frame + {self.plan.workspaces.get(node, (0, 0))[0]});")
        return "{\n  " + "\n  ".join(lines) + "\n}"

    def copies(self) -> list[str]:
        """Outputs that are not computed into place: parameters returned as they are, or values returned twice."""
        lines = []
        for value, j in self.plan.copies:
            view = self._view(value)
            nbytes = f"{c_dim(value.type.numel)} * {value.type.dtype.nbytes}"
            lines.append(f"std::memcpy(out[{j}], {self._pointer(view)}, {nbytes});")
        return lines


class FlatInline:
    """Expressions of a flat element index, for operands that are all laid out alike."""

    def __init__(self, is_buffer: Callable[[Value], bool], name: Callable[[Value], str]):
        self.inline, self.is_buffer, self.name = Inline(is_buffer, name), is_buffer, name

    def load(self, value: Value, var: str) -> str:
        view = affine(value, self.is_buffer)
        if view is not None:
            single = same_dim(value.type.numel, 1)
            return f"{self.name(view.buffer)}[{c_dim(view.offset) if single else var}]"
        assert value.producer is not None
        return self.compute(value.producer, var)

    def compute(self, node: Any, var: str) -> str:
        from .expr import c_constant, pointwise

        if node.op == "constant":
            return c_constant(node.attrs["value"], node.output.type.dtype)
        return pointwise(node, [self.load(v, var) for v in node.inputs])


def _share(shape: tuple[Dim, ...], axes: tuple[int, ...]) -> Dim:
    """Elements for each step of the loop that threads share: that over the first axis not in `axes` that is not of size one."""
    shared = next((i for i, d in enumerate(shape) if i not in axes and not same_dim(d, 1)), None)
    return product(tuple(d for i, d in enumerate(shape) if i != shared))


_COMBINE: dict[str, Callable[[str, str], str]] = {
    "reduce_sum": lambda a, b: f"{a} + {b}",
    "reduce_max": lambda a, b: f"pangu::max({a}, {b})",
    "reduce_min": lambda a, b: f"pangu::min({a}, {b})",
}
_INITIAL: dict[str, Callable[[str], str]] = {
    "reduce_sum": lambda t: f"{t}(0)",
    "reduce_max": lambda t: (
        f"(std::numeric_limits<{t}>::has_infinity ? -std::numeric_limits<{t}>::infinity() : std::numeric_limits<{t}>::lowest())"
    ),
    "reduce_min": lambda t: (
        f"(std::numeric_limits<{t}>::has_infinity ? std::numeric_limits<{t}>::infinity() : std::numeric_limits<{t}>::max())"
    ),
}
