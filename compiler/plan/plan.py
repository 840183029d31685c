"""The plan: every kernel, buffer, offset, weight and state of the compiled program, ready for any code generator.

Sizes are numbers where they are known; T, S and M stay run-time values. The arena is laid out for the largest call
(T = max_chunk tokens, S = max_context rows cached), so an offset never depends on a run-time value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np

from pangu_compile.ir import (
    DType,
    Folded,
    Graph,
    IRError,
    Module,
    Node,
    Program,
    Role,
    StateInfo,
    TensorType,
    Value,
    evaluate_dim,
    run_graph,
)

from .derived import Derived, key_codes
from .memory import Slot, largest_live, place
from .schedule import Kernel, Schedule, Scheduler

ReadWeight = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class PlanOptions:
    """max_chunk None: the largest power of two whose arena stays below `arena_budget` bytes. key_codes: see derived.py."""

    max_context: int = 4096
    max_chunk: int | None = None
    arena_budget: int = 256 << 20
    max_dims: dict[str, int] = field(default_factory=dict)
    key_codes: bool = True


@dataclass(frozen=True)
class PlannedWeight:
    """A tensor of the artifact: a checkpoint parameter, a constant, or a value folded from parameters."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    folded: Folded | None = None
    constant: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in weights.safetensors, scales included."""
        return int(TensorType(DType(self.dtype), self.shape).nbytes)

    def compute(self, read: ReadWeight) -> np.ndarray:
        """The array, C-contiguous; `read` gives parameters by canonical name. bf16 and quantised: float32, to be packed."""
        if self.constant is not None:
            array = self.constant
        elif self.folded is not None:
            sources = [np.asarray(read(name), np.float64) for name in self.folded.sources]
            array = run_graph(self.folded.graph, sources, {})[0]
        else:
            array = read(self.name)
        if tuple(array.shape) != self.shape:
            raise IRError(f"weight {self.name}: shape {tuple(array.shape)}, planned {self.shape}")
        return np.ascontiguousarray(array, DType(self.dtype).numpy)


@dataclass
class FunctionPlan:
    """One function: kernels in order, and where each buffer lies.

    places: value -> ("in", i) parameter, ("out", j) caller's buffer, ("frame", byte offset), ("state", i) the
    parameter's own memory, updated in place. workspaces: kernel's node -> begin and end of its scratch in the frame
    (of the callee's frame, for a call). live_bytes: the most that is alive at one kernel, callees included: no frame
    can be smaller.
    """

    name: str
    graph: Graph
    schedule: Schedule
    places: dict[Value, tuple[str, int]]
    frame_bytes: int
    live_bytes: int
    workspaces: dict[Node, tuple[int, int]] = field(default_factory=dict)
    copies: list[tuple[Value, int]] = field(default_factory=list)

    @property
    def kernels(self) -> list[Kernel]:
        return self.schedule.kernels


@dataclass
class ProgramPlan:
    """An entry point: its function plus the meaning of parameters and outputs."""

    function: FunctionPlan
    params: list[Role]
    outputs: list[Role]
    dims: tuple[str, ...]

    @property
    def arena_bytes(self) -> int:
        return self.function.frame_bytes


@dataclass
class Plan:
    """Everything that codegen and the runtime need."""

    functions: dict[str, FunctionPlan]
    programs: dict[str, ProgramPlan]
    weights: list[PlannedWeight]
    states: list[StateInfo]
    info: dict[str, Any]
    max_context: int
    max_chunk: int
    sizes: dict[str, int]
    derived: list[Derived]

    def to_json(self) -> dict[str, Any]:
        """A plain record for plan.json and the reports."""
        from .record import plan_record

        return plan_record(self)


class Planner:
    """Plans one module for one choice of the largest sizes."""

    def __init__(self, module: Module, sizes: dict[str, int]):
        self.module, self.sizes = module, sizes
        self.functions: dict[str, FunctionPlan] = {}
        self.state_results: dict[str, dict[int, int]] = {}

    def run(self) -> tuple[dict[str, FunctionPlan], dict[str, ProgramPlan]]:
        self._find_function_states()
        for name in self.module.functions:
            self._callee(name)
        programs = {name: self._program(name, program) for name, program in self.module.programs.items()}
        return self.functions, programs

    def _find_function_states(self) -> None:
        """Function parameters that are session states at every call: parameter index -> output index.

        Callers come before what they call, so a state is followed through nested calls.
        """
        seen: dict[str, list[dict[int, int]]] = {}
        for program in self.module.programs.values():
            results = {r.key: v for r, v in zip(program.outputs, program.graph.outputs, strict=True) if r.kind == "state"}
            roles = zip(program.graph.params, program.params, strict=True)
            _calls(program.graph, {v: results[r.key] for v, r in roles if r.kind == "state" and r.key in results}, seen)
        for name in self._callers_first():
            graph, tables = self.module.functions[name], seen.get(name, [])
            common = {i: j for i, j in tables[0].items() if all(t.get(i) == j for t in tables)} if tables else {}
            self.state_results[name] = common
            _calls(graph, {graph.params[i]: graph.outputs[j] for i, j in common.items()}, seen)

    def _callers_first(self) -> list[str]:
        calls: nx.DiGraph[str] = nx.DiGraph()
        calls.add_nodes_from(self.module.functions)
        for name, graph in self.module.functions.items():
            calls.add_edges_from((name, node.attrs["function"]) for node in graph.nodes if node.op == "call")
        return list(nx.topological_sort(calls))

    def _function(self, name: str, graph: Graph, scheduler: Scheduler, sizes: dict[str, int]) -> FunctionPlan:
        schedule = scheduler.run()
        places: dict[Value, tuple[str, int]] = {p: ("in", i) for i, p in enumerate(graph.params)}
        index = {p: i for i, p in enumerate(graph.params)}
        for result, param in schedule.in_place.items():
            places[result] = ("state", index[param])
        copies: list[tuple[Value, int]] = []
        for j, value in enumerate(graph.outputs):
            if value in schedule.in_place:
                continue
            if value.producer is None or value in places:
                copies.append((value, j))
            else:
                places[value] = ("out", j)
        slots, by_name = self._slots(schedule, places, sizes)
        scratch = self._scratch(schedule, lambda callee: callee.frame_bytes, sizes)
        offsets, size = place([*slots, *scratch.values()])
        places.update({value: ("frame", offsets[n]) for n, value in by_name.items()})
        workspaces = {node: (offsets[slot.name], offsets[slot.name] + slot.nbytes) for node, slot in scratch.items()}
        live = largest_live([*slots, *self._scratch(schedule, lambda callee: callee.live_bytes, sizes).values()])
        return FunctionPlan(name, graph, schedule, places, size, live, workspaces, copies)

    def _scratch(self, schedule: Schedule, callee_bytes: Callable[[FunctionPlan], int], sizes: dict[str, int]) -> dict[Node, Slot]:
        """Memory that one kernel alone uses: its workspace, or the frame of the function that it calls."""
        slots = {}
        for i, kernel in enumerate(schedule.kernels):
            nbytes = evaluate_dim(kernel.workspace, sizes)
            if kernel.kind == "call":
                self._check_sizes(kernel.root, sizes)
                nbytes = callee_bytes(self._callee(kernel.root.attrs["function"]))
            if nbytes:
                slots[kernel.root] = Slot(f"w{i}", nbytes, i, i)
        return slots

    def _check_sizes(self, call: Node, sizes: dict[str, int]) -> None:
        """A callee is laid out once, for the module's largest sizes. S only says where rows begin in a cache of fixed size."""
        for name, bound in call.dims.items():
            size = evaluate_dim(bound, sizes)
            if name != "S" and size > self.sizes[name]:
                raise IRError(f"plan: {call.attrs['function']} is called with {name} = {size}, laid out for {self.sizes[name]}")

    def _callee(self, name: str) -> FunctionPlan:
        """Plan of a function, made first where a caller needs it."""
        if name not in self.functions:
            graph = self.module.functions[name]
            states = {
                graph.params[i]: graph.outputs[j]
                for i, j in self.state_results.get(name, {}).items()
                if self._callee_updates(graph.outputs[j])
            }
            self.functions[name] = self._function(name, graph, Scheduler(graph, states), self.sizes)
        return self.functions[name]

    def _slots(
        self, schedule: Schedule, places: dict[Value, tuple[str, int]], sizes: dict[str, int]
    ) -> tuple[list[Slot], dict[str, Value]]:
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for i, kernel in enumerate(schedule.kernels):
            for v in kernel.outputs:
                first.setdefault(v, i)
                last[v] = i
            for v in kernel.reads:
                last[v] = i
        by_name = {f"b{k}": v for k, v in enumerate(v for v in first if v not in places)}
        slots = [Slot(n, evaluate_dim(v.type.nbytes, sizes), first[v], last[v]) for n, v in by_name.items()]
        return slots, by_name

    def _program(self, name: str, program: Program) -> ProgramPlan:
        graph = program.graph
        results = {r.key: v for r, v in zip(program.outputs, graph.outputs, strict=True) if r.kind == "state"}
        states: dict[Value, Value] = {}
        for role, param in zip(program.params, graph.params, strict=True):
            if role.kind == "state" and self._callee_updates(results[role.key]):
                states[param] = results[role.key]
        plan = self._function(name, graph, Scheduler(graph, states), {**self.sizes, **program.limits})
        return ProgramPlan(plan, program.params, program.outputs, program.dims)

    def _callee_updates(self, result: Value) -> bool:
        node = result.producer
        if node is None or node.op != "call":
            return True
        callee = self._callee(node.attrs["function"])
        return callee.graph.outputs[result.index] in callee.schedule.in_place


def _calls(graph: Graph, states: dict[Value, Value], seen: dict[str, list[dict[int, int]]]) -> None:
    """Adds to `seen`, for every call in `graph`, which operands are states that nobody else reads: operand -> result."""
    uses = graph.uses()
    for node in graph.nodes:
        if node.op != "call":
            continue
        found: dict[int, int] = {}
        for i, value in enumerate(node.inputs):
            result = states.get(value)
            if result is not None and result.producer is node and uses[value] == 1 and uses[result] == 1:
                found[i] = result.index
        seen.setdefault(node.attrs["function"], []).append(found)


def _weights(module: Module) -> list[PlannedWeight]:
    used = {
        (r.kind, r.key): None for program in module.programs.values() for r in program.params if r.kind in ("weight", "constant")
    }
    planned = []
    for kind, key in used:
        if kind == "constant":
            array = module.constants[key]
            dtype = {"float64": "f64", "float32": "f32", "int64": "i64", "bool": "bool", "int32": "i32"}[str(array.dtype)]
            planned.append(PlannedWeight(key, dtype, tuple(array.shape), constant=array))
        else:
            type_ = module.weights[key]
            planned.append(PlannedWeight(key, type_.dtype.value, tuple(type_.shape), folded=module.folded.get(key)))
    return planned


def _sizes(options: PlanOptions, chunk: int) -> dict[str, int]:
    return {"T": chunk, "M": chunk, "S": options.max_context, **options.max_dims}


def _shortest_chunk(module: Module) -> int:
    """Tokens that a program of limited size runs its functions on: a chunk must hold as many."""
    calls = [(n, p.limits) for p in module.programs.values() if "T" in p.limits for n in p.graph.nodes if n.op == "call"]
    return max([1, *(evaluate_dim(n.dims["T"], limits) for n, limits in calls if "T" in n.dims)])


def make_plan(module: Module, options: PlanOptions | None = None) -> Plan:
    """Plan a module. IRError where the plan would be inconsistent (overlapping buffers, unknown sizes)."""
    options = options or PlanOptions()
    chunks = [options.max_chunk] if options.max_chunk else [c for c in (512, 256, 128, 64, 32, 16, 8)]
    for chunk in chunks:
        chunk = max(_shortest_chunk(module), min(chunk, options.max_context))
        planner = Planner(module, _sizes(options, chunk))
        functions, programs = planner.run()
        if max(p.arena_bytes for p in programs.values()) <= options.arena_budget:
            break
    states = list(module.states.values())
    derived = key_codes(functions, programs, states) if options.key_codes else []
    info, sizes = dict(module.info), planner.sizes
    return Plan(functions, programs, _weights(module), states, info, options.max_context, chunk, sizes, derived)
