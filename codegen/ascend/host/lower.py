"""A module's functions and programs as host functions: lowered once each, laid out, with what they demand of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pangu_compile.ir import Graph, IRError, Module, Program, Role, Value, evaluate_dim
from pangu_compile.ir.types import Dim, symbol
from pangu_compile.plan.memory import Slot, place

from ..platform import Platform
from .body import Body
from .kernels import Kernels
from .values import DIGITS, FLOATS, Held, Number, Positions, Step, Tensor, Verdict, View, Weight


@dataclass
class Function:
    """A host function. outcomes: for each result its dtype (the caller gives memory), or the parameter that it is.

    signature: C++ parameters after the sizes; places: name and offset of every buffer in the frame.
    """

    name: str
    graph: Graph
    parameters: dict[Value, Held]
    outcomes: list[str | Value]
    signature: list[str]
    steps: list[Step]
    places: list[tuple[str, int]]
    frame_bytes: int
    adjacent: list[tuple[Weight, Weight]] = field(default_factory=list)


@dataclass
class HostProgram:
    """An entry point: its body, and how inputs arrive and results leave."""

    name: str
    program: Program
    function: Function
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


class Lowering:
    """Lowers one module for one chip. `sizes`: the largest T, S and M of a call; `wide`: are activations and caches float32?"""

    def __init__(self, module: Module, chip: Platform, sizes: Mapping[str, int], wide: bool):
        self.module, self.sizes, self.kernels, self.wide = module, dict(sizes), Kernels(chip), wide
        self.row_type = "split" if wide else "bf16"  # of rows that products read
        self.sum_type = "f32" if wide else "bf16"  # of what products write for kernels, where bf16 would do otherwise
        int8 = {t.dtype.value for t in module.weights.values()} & DIGITS.keys()
        if len(int8) > 1:
            raise IRError(f"ascend: weights in {' and in '.join(sorted(int8))}, whose rows would have to be quantised twice")
        self.made_type = "f32" if wide and int8 else self.row_type  # of rows that norms make: int8 ones are made of float32
        self.functions: dict[str, Function] = {}
        self.kinds: dict[str, list[str]] = {}
        self.dims = sorted({"T", "S", "M"} | {d for p in module.programs.values() for d in p.dims})
        self.weights: dict[str, Weight] = {}
        self.adjacent: dict[str, str] = {}  # weight -> the one that lies directly behind it

    def symbol(self, name: str) -> Dim:
        return symbol(name)

    def state_type(self, name: str) -> str:
        """Convolutions remember what products wrote, caches are rows that products read."""
        return self.sum_type if name.rpartition(".")[2].startswith("conv_") else self.row_type

    def programs(self) -> list[HostProgram]:
        return [self._program(name, program) for name, program in self.module.programs.items()]

    def is_logits(self, graph: Graph, value: Value) -> bool:
        """Is the product a program's own result, which the host reads?"""
        return any(p.graph is graph for p in self.module.programs.values()) and value in graph.outputs

    # Functions.

    def function(self, name: str, kinds: Sequence[str]) -> Function:
        """The function for operands of these kinds (dtype or class). IRError where two calls disagree."""
        if name not in self.functions:
            self.kinds[name] = list(kinds)
            self.functions[name] = self._function(name, self.module.functions[name], kinds)
        floats = dict.fromkeys(FLOATS, "float")  # a caller converts what it has in another one
        if [floats.get(k, k) for k in self.kinds[name]] != [floats.get(k, k) for k in kinds]:
            raise IRError(f"ascend: function {name} is called with operands of different kinds")
        return self.functions[name]

    def _function(self, name: str, graph: Graph, kinds: Sequence[str]) -> Function:
        held: dict[Value, Held] = {}
        signature = []
        for value, kind in zip(graph.params, kinds, strict=True):
            text = identifier(value.name)
            if kind in ("Number", "Positions"):
                held[value] = Number(text) if kind == "Number" else Positions(text)
                signature.append(f"int64_t {text}")
                continue
            shape = value.type.shape
            held[value] = Weight(text, shape, value.type.dtype.value) if kind == "Weight" else Tensor(text, kind)
            signature.append(f"Memory {text}")
        parameters = dict(held)
        results = {v: Tensor(f"out_{i}", "") for i, v in enumerate(graph.outputs) if v not in held}
        body = Body(self, graph, held, results=results)
        body.run()
        outcomes = self._outcomes(body, parameters, results, signature)
        places, frame = self._layout(body, self.sizes)
        return Function(identifier(name), graph, parameters, outcomes, signature, body.steps, places, frame, body.adjacent)

    def _outcomes(
        self, body: Body, parameters: Mapping[Value, Held], results: Mapping[Value, Tensor], signature: list[str]
    ) -> list[str | Value]:
        """What each result is; a result that is part of another value is copied into the caller's memory."""
        by_text = {h.text: p for p, h in parameters.items() if isinstance(h, Tensor)}
        outcomes: list[str | Value] = []
        for value in body.graph.outputs:
            held = body.held[value]
            if not isinstance(held, Tensor):
                raise IRError(f"ascend: {body.graph.name} returns %{value.name}, which is not on the device")
            if held.text in by_text:
                outcomes.append(by_text[held.text])
                continue
            target = results[value]
            if held.text != target.text:
                shape = value.type.shape
                body.emit("copy", View(Tensor(target.text, held.dtype), shape), View(held, shape))
            signature.append(f"Memory {target.text}")
            outcomes.append(held.dtype)
        return outcomes

    def _layout(self, body: Body, sizes: Mapping[str, int]) -> tuple[list[tuple[str, int]], int]:
        """Offsets of all buffers and of the frames of called functions, for the largest call."""
        slots = [Slot(b.name, evaluate_dim(b.nbytes, dict(sizes)), b.first, b.last) for b in body.buffers if b.first >= 0]
        for frame in body.frames:
            nbytes = next(f.frame_bytes for f in self.functions.values() if f.name == frame.function)
            slots.append(Slot(f"F{frame.step}", nbytes, frame.step, frame.step))
        offsets, size = place(slots)
        offsets = {slot.name: offsets[slot.name] for slot in slots}
        return list(offsets.items()), size

    # Programs.

    def _program(self, name: str, program: Program) -> HostProgram:
        graph = program.graph
        held: dict[Value, Held] = {}
        body = Body(self, graph, held)
        inputs: list[dict[str, Any]] = []
        for value, role in zip(graph.params, program.params, strict=True):
            held[value] = self._parameter(value, role)
            if role.kind == "input":
                inputs.append(self._input(body, value, role, len(inputs)))
        body.run()
        outputs: list[dict[str, Any]] = []
        states = {role.key: held[v] for v, role in zip(graph.params, program.params, strict=True) if role.kind == "state"}
        for value, role in zip(graph.outputs, program.outputs, strict=True):
            if role.kind == "state":
                if body.held[value] != states[role.key]:
                    raise IRError(f"ascend: program {name} does not update the state {role.key} in place")
                continue
            outputs.append(self._output(body, value, len(outputs)))
        self._settle(body)
        places, frame = self._layout(body, {**self.sizes, **program.limits})
        function = Function(f"program_{identifier(name)}", graph, {}, [], [], body.steps, places, frame)
        return HostProgram(name, program, function, inputs, outputs)

    def _parameter(self, value: Value, role: Role) -> Held:
        if role.kind == "state":
            index = list(self.module.states).index(role.key)
            return Tensor(f"state({index})", self.state_type(role.key))
        if role.kind in ("weight", "constant"):
            if role.key not in self.weights:
                made = Weight(f"weight({len(self.weights)})", tuple(int(d) for d in value.type.shape), value.type.dtype.value)
                self.weights[role.key] = made
            return self.weights[role.key]
        return Number(identifier(role.key)) if value.type.rank == 0 else Tensor("", "")

    def _input(self, body: Body, value: Value, role: Role, index: int) -> dict[str, Any]:
        """Inputs arrive in host memory: scalars are read there, tensors are uploaded as int32 and as float32 or bf16."""
        name = identifier(role.key)
        if value.type.rank == 0:
            return {"kind": "number", "name": name, "index": index}
        dtype = self.sum_type if value.type.dtype.is_float else "i32"
        tensor = body.buffer(dtype, *value.type.shape)
        body.held[value] = tensor
        body.emit(f"upload_{dtype}", tensor, f"in({index})", value.type.numel)
        return {"kind": dtype, "name": name, "index": index}

    def _output(self, body: Body, value: Value, index: int) -> dict[str, Any]:
        held = body.held[value]
        if isinstance(held, Verdict):
            body.emit(f"read_{held.name}", held.drafts, held.result, held.count, held.start, f"out({index})")
        elif isinstance(held, Tensor):
            tensor = body.tensor(value, "f32" if held.dtype == "split" else None)
            body.emit(f"download_{tensor.dtype}", f"out({index})", tensor, value.type.numel)
        else:
            raise IRError(f"ascend: {body.graph.name}: result {index} is known to the host alone")
        return {"index": index}

    def _settle(self, body: Body) -> None:
        """Which weight lies behind which. IRError where a weight would have to lie in two places."""
        names = {id(w): name for name, w in self.weights.items()}
        for a, b in body.adjacent:
            first, second = names[id(a)], names[id(b)]
            before = {s: f for f, s in self.adjacent.items()}
            if self.adjacent.setdefault(first, second) != second or before.get(second, first) != first:
                raise IRError(f"ascend: weight {second} would have to lie behind two others")


def identifier(name: str) -> str:
    """A C++ name for an IR value or function."""
    text = "".join(c if c.isalnum() else "_" for c in name)
    return text if not text[0].isdigit() and text not in RESERVED else f"v_{text}"


RESERVED = frozenset(
    ("d", "T", "S", "M", "frame", "in", "out", "state", "weight", "at", "copy", "add", "times", "cast", "none", "u32",
     "bf16", "f32", "i32")
)  # fmt: skip
