"""Lowering of one graph: steps in order, buffers with their lifetimes, and where every value is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pangu_compile.ir import DType, Graph, IRError, Node, Value, opdef
from pangu_compile.ir.slots import named
from pangu_compile.ir.types import Dim, dim, product

from ...dims import c_dim
from ..convert_kernels import convert
from ..kernel import Kernel
from .values import BYTES, C_TYPES, FLOATS, Buffer, Held, Number, Positions, Step, Tensor, Verdict, View, Weight

if TYPE_CHECKING:
    from .lower import Lowering


@dataclass(frozen=True)
class Frame:
    """Memory of a called function while one step runs."""

    function: str
    step: int


@dataclass
class Body:
    """The host function of one graph, while it is written.

    held: where values are. adjacent: pairs of weights, the second of which must lie directly behind the first.
    """

    lowering: Lowering
    graph: Graph
    held: dict[Value, Held]
    steps: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    adjacent: list[tuple[Weight, Weight]] = field(default_factory=list)
    factors: dict[Value, float] = field(default_factory=dict)  # of index weights: what their scores are still to be scaled by
    results: dict[Value, Tensor] = field(default_factory=dict)  # the caller's memory for results that need some
    casts: dict[tuple[Value, str], Tensor] = field(default_factory=dict)
    wide: dict[Value, Tensor] = field(default_factory=dict)  # float32 twins of values that are rounded to bf16
    int8: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # rows that are quantised already, by their memory
    comment: str = ""

    # Memory.

    def buffer(self, dtype: str, *shape: Dim) -> Tensor:
        """New memory for a tensor."""
        name = f"m{len(self.buffers)}"
        size: Dim = BYTES[dtype]
        for d in shape:
            size = size * d
        made = Buffer(name, dim(size))
        self.buffers.append(made)
        return Tensor(name, dtype, made)

    def result(self, value: Value, dtype: str) -> Tensor:
        """Memory for a node's result: the caller's where it is the function's own result."""
        if value in self.results and value not in self.held:
            tensor = Tensor(self.results[value].text, dtype)
        else:
            tensor = self.buffer(dtype, *value.type.shape)
        self.held[value] = tensor
        return tensor

    # Steps.

    def emit(self, call: str, *arguments: Any) -> None:
        """One more step; buffers among the arguments are alive at it."""
        for a in arguments:
            tensor = a.tensor if isinstance(a, View) else a
            if isinstance(tensor, Tensor) and tensor.buffer is not None:
                tensor.buffer.touch(len(self.steps))
        texts = tuple(c_text(a) for a in arguments)
        self.steps.append(Step(call, texts, self.comment))
        self.comment = ""

    def launch(self, kernel: Kernel, sizes: Mapping[str, Any], operands: Mapping[str, Tensor]) -> None:
        """Launch one of our kernels. sizes: the tiling fields that the host sets, dims or C++ text."""
        wanted = [a for a in kernel.arguments if a.role != "workspace"]
        missing = [a.name for a in wanted if a.name not in operands] + [n for n in operands if n not in {a.name for a in wanted}]
        if missing:
            raise IRError(f"ascend: kernel {kernel.name}: operands {missing} do not match")
        for a in wanted:
            if C_TYPES[operands[a.name].dtype] != a.dtype:
                raise IRError(f"ascend: kernel {kernel.name}: {a.name} is {operands[a.name].dtype}, the kernel reads {a.dtype}")
        planned = {name for name, _ in kernel.planned}
        given = {name: size if isinstance(size, str) else c_dim(size) for name, size in sizes.items()}
        fields = ["0" if f in planned else f"u32({given[f]})" for f in kernel.fields]
        tiling = f"{kernel.struct}{{{', '.join(fields)}}}"
        self.emit(f"launch_{kernel.name}", tiling, *(operands[a.name] for a in wanted))

    # Operands.

    def tensor(self, value: Value, dtype: str | None = None) -> Tensor:
        held = self.held[value]
        if isinstance(held, Weight):
            return held.stored(dtype or "f32")
        if not isinstance(held, Tensor):
            raise IRError(f"ascend: {self.graph.name}: %{value.name} is not on the device")
        return held if dtype is None else self.converted(held, dtype, value)

    def converted(self, tensor: Tensor, dtype: str, value: Value) -> Tensor:
        """The value in that floating type: itself, or a copy that is made once."""
        if tensor.dtype == dtype:
            return tensor
        if tensor.dtype not in FLOATS or dtype not in FLOATS:
            raise IRError(f"ascend: {self.graph.name}: %{value.name} is {tensor.dtype}, {dtype} is wanted")
        if value in self.wide and dtype == "f32":
            return self.wide[value]
        if (value, dtype) not in self.casts:
            shape = value.type.shape
            copy = self.buffer(dtype, *shape)
            if "split" in (tensor.dtype, dtype):
                kernel = self.lowering.kernels.get(
                    convert, "convert", channels=int(shape[-1]), x_type=C_TYPES[tensor.dtype], y_type=C_TYPES[dtype]
                )
                self.launch(kernel, {"tokens": product(shape[:-1])}, {"x": tensor, "y": copy})
            else:
                self.emit("cast", View(tensor, shape), View(copy, shape))
            self.casts[value, dtype] = copy
        return self.casts[value, dtype]

    def number(self, value: Value) -> str:
        held = self.held[value]
        if not isinstance(held, Number):
            raise IRError(f"ascend: {self.graph.name}: %{value.name} is not known to the host")
        return held.text

    def view(self, value: Value, dtype: str | None = None) -> View:
        """The value as a product reads it, unless another type is asked for."""
        return View(self.tensor(value, dtype or self.lowering.row_type), value.type.shape)

    def weight(self, value: Value) -> Weight:
        held = self.held[value]
        if not isinstance(held, Weight):
            raise IRError(f"ascend: {self.graph.name}: %{value.name} is not a weight")
        return held

    def matrix(self, value: Value) -> View:
        """A weight [O, I] as the right operand of a product, [I, O]."""
        return View(self.weight(value).stored("bf16"), value.type.shape).transposed

    def joined(self, first: Value, second: Value) -> View:
        """Two weights [O1, I] and [O2, I] as one, [I, O1 + O2]; the second will lie behind the first."""
        a, b = self.weight(first), self.weight(second)
        self.adjacent.append((a, b))
        b.stored("bf16")
        rows = dim(first.type.shape[0] + second.type.shape[0])
        return View(a.stored("bf16"), (rows, first.type.shape[1])).transposed

    # Running through the graph.

    def run(self) -> None:
        from .operators import OPERATORS
        from .primitives import PRIMITIVES

        for node in self.graph.nodes:
            self.comment = f"{node.op}  {node.loc}".strip()
            if node.op == "call":
                self._call(node)
            elif node.op in OPERATORS:
                OPERATORS[node.op](self, Operands(self, node))
            elif node.op in PRIMITIVES:
                PRIMITIVES[node.op](self, node)
            else:
                where = node.loc or self.graph.name
                raise IRError(f"ascend: no lowering of {node.op} at {where}; build the model for cpu or torch_npu")
            self._check_updates(node)

    def _check_updates(self, node: Node) -> None:
        """A state that was updated in place must not be read as it was before."""
        updates = opdef(node.op).updates if node.op != "call" else {}
        if not updates:
            return
        by_slot = named(node.attrs, node.inputs)
        later = self.graph.nodes[self.graph.nodes.index(node) + 1 :]
        for name in node.attrs["results"]:
            old = by_slot.get(updates.get(name, ""))
            if old is not None and (old in self.graph.outputs or any(old in n.inputs for n in later)):
                raise IRError(f"ascend: {self.graph.name}: the state %{old.name} is read after {node.op} has updated it")

    def _call(self, node: Node) -> None:
        function = self.lowering.function(node.attrs["function"], [kind_of(self.held[v]) for v in node.inputs])
        arguments: list[Any] = [c_dim(node.dims.get(name, self.lowering.symbol(name))) for name in self.lowering.dims]
        by_parameter = dict(zip(function.graph.params, node.inputs, strict=True))
        for parameter, value in by_parameter.items():
            held, wanted = self.held[value], function.parameters[parameter]
            if isinstance(held, Weight) and isinstance(wanted, Weight):
                held.formats |= wanted.formats
                if len(held.formats) > 1:
                    raise IRError(f"ascend: weight {held.text} is wanted as {' and as '.join(sorted(held.formats))}")
                arguments.append(held.text)
            elif isinstance(held, Tensor) and isinstance(wanted, Tensor):
                arguments.append(self.converted(held, wanted.dtype, value))
            else:
                arguments.append(held)
        for a, b in function.adjacent:
            by_weight = {id(function.parameters[p]): self.held[v] for p, v in by_parameter.items()}
            first, second = by_weight[id(a)], by_weight[id(b)]
            assert isinstance(first, Weight) and isinstance(second, Weight)
            self.adjacent.append((first, second))
        for value, outcome in zip(node.outputs, function.outcomes, strict=True):
            if isinstance(outcome, str):
                arguments.append(self.result(value, outcome))
            else:
                self.held[value] = self.held[by_parameter[outcome]]
        frame = Buffer(f"frame_{len(self.steps)}", 0)
        frame.touch(len(self.steps))
        self.frames.append(Frame(function.name, len(self.steps)))
        self.emit(function.name, *arguments, f"at(frame, F{len(self.steps)})")


def kind_of(held: Held) -> str:
    """What a function must know of an operand."""
    if isinstance(held, Tensor):
        return held.dtype
    return type(held).__name__


def c_text(argument: Any) -> str:
    if isinstance(argument, Number):
        return argument.text
    if isinstance(argument, Positions):
        return argument.first
    if isinstance(argument, Tensor):
        return argument.text
    if isinstance(argument, (str, View)):
        return str(argument)
    if isinstance(argument, Verdict):
        raise IRError("ascend: the verdict of mtp_verify must be a program's result")
    return c_dim(argument)


class Operands:
    """Operands and results of a node by name."""

    def __init__(self, body: Body, node: Node):
        self.body, self.node, self.attrs = body, node, node.attrs
        slots: Sequence[str] = node.attrs.get("slots") or [f"in{i}" for i in range(len(node.inputs))]
        self.values = dict(zip(slots, node.inputs, strict=True))
        names: Sequence[str] = node.attrs.get("results") or [f"out{i}" for i in range(len(node.outputs))]
        self.results = dict(zip(names, node.outputs, strict=True))

    def __contains__(self, slot: str) -> bool:
        return slot in self.values

    def shape(self, slot: str) -> tuple[Dim, ...]:
        return self.values[slot].type.shape

    def size(self, slot: str, axis: int) -> int:
        return int(self.shape(slot)[axis])

    def tensor(self, slot: str, dtype: str | None = None) -> Tensor:
        return self.body.tensor(self.values[slot], dtype)

    def parameters(self, *slots: str) -> dict[str, Tensor]:
        """Float32 parameters, those that are there."""
        return {slot: self.tensor(slot, "f32") for slot in slots if slot in self.values}

    def view(self, slot: str) -> View:
        return self.body.view(self.values[slot])

    def state(self, slot: str, result: str) -> Tensor:
        """A state, which its result replaces in place."""
        tensor = self.tensor(slot)
        if result in self.results:
            self.body.held[self.results[result]] = tensor
        return tensor

    def result(self, name: str, dtype: str = "bf16") -> Tensor:
        """Memory of a result; scratch where nobody asks for it is the operator's own business."""
        return self.body.result(self.results[name], dtype)

    def is_float(self, slot: str) -> bool:
        return self.values[slot].type.dtype is not DType.i64
