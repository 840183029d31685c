"""Planning of fused operators: states in place (also through calls), copies where that is not allowed, workspace, arena."""

from __future__ import annotations

import numpy as np
import pytest

from pangu_compile.ir import DType, Graph, IRError, Module, Program, Role, StateInfo, Value, make_node, symbol, tensor
from pangu_compile.plan import PlanOptions, make_plan
from pangu_compile.plan.memory import Slot, check, largest_live, place
from pangu_compile.plan.schedule import Scheduler

T, S = symbol("T"), symbol("S")
F32 = DType.f32
CONV = {"slots": ("x", "weight", "start", "ring"), "results": ("y", "new_ring")}
OPTIONS = PlanOptions(max_context=64, max_chunk=16)


def add(graph: Graph, op: str, *inputs: Value, **attrs: object) -> list[Value]:
    node = make_node(op, inputs, attrs)
    graph.nodes.append(node)
    return node.outputs


def conv_graph(name: str = "f", wide: int = 12) -> Graph:
    """x, weight, start, ring -> y, new ring."""
    graph = Graph(name)
    types = (tensor(F32, T, wide), tensor(F32, wide, 1, 3), tensor(DType.i64), tensor(F32, 4, wide))
    graph.params = [Value(n, t) for n, t in zip(CONV["slots"], types, strict=True)]
    graph.outputs = add(graph, "mome_conv", *graph.params, **CONV)
    return graph


def program_of(graph: Graph, state: str | None = "ring", wide: int = 12) -> Module:
    module = Module(info={"role": "module"})
    roles = [Role("state" if p.name == state else "input", p.name) for p in graph.params]
    outputs = [Role("output", f"out{i}") for i in range(len(graph.outputs) - 1)]
    module.programs["forward"] = Program(
        graph, roles, [*outputs, Role("state", "ring") if state else Role("output", "ring")], ("T", "S")
    )
    if state:
        module.states["ring"] = StateInfo("ring", "f32", wide, 4, 0)
    return module


def test_ring_is_updated_in_place():
    graph = conv_graph()
    plan = make_plan(program_of(graph), OPTIONS).programs["forward"].function
    assert plan.places[graph.outputs[1]] == ("state", 3)
    assert [k.kind for k in plan.kernels] == ["fused"]


def test_ring_that_is_no_state_is_not_touched():
    graph = conv_graph()
    plan = make_plan(program_of(graph, state=None), OPTIONS).programs["forward"].function
    assert plan.schedule.in_place == {} and plan.places[graph.outputs[1]] == ("out", 1)


@pytest.mark.parametrize("late", [False, True])
def test_another_reader_of_the_ring(late):
    """A kernel that has read the old ring before is harmless; one that reads it afterwards must still find it."""
    graph = conv_graph()
    (gamma,) = [Value("gamma", tensor(F32, 12))]
    graph.params.append(gamma)
    nodes = graph.nodes
    (normed,) = add(graph, "rms_norm", graph.params[3], gamma, eps=1e-5)
    if not late:
        nodes.insert(0, nodes.pop())
    graph.outputs = [graph.outputs[0], normed, graph.outputs[1]]
    schedule = Scheduler(graph, {graph.params[3]: graph.outputs[2]}).run()
    assert (graph.outputs[2] in schedule.in_place) is not late


def test_inlined_reader_of_the_ring_counts_as_late():
    graph = conv_graph()
    (twice,) = add(graph, "add", graph.params[3], graph.params[3])
    graph.nodes.insert(0, graph.nodes.pop())
    graph.outputs = [graph.outputs[0], twice, graph.outputs[1]]
    assert Scheduler(graph, {graph.params[3]: graph.outputs[2]}).run().in_place == {}


def calling(name: str, callee: Graph) -> Graph:
    graph = Graph(name)
    graph.params = [Value(p.name, p.type) for p in callee.params]
    node = make_call(callee, graph.params)
    graph.nodes.append(node)
    graph.outputs = list(node.outputs)
    return graph


def make_call(callee: Graph, inputs: list[Value]):
    from pangu_compile.ir import Node

    node = Node("call", inputs, {"function": callee.name})
    node.outputs = [Value(f"c{i}", v.type, node, i) for i, v in enumerate(callee.outputs)]
    return node


def test_state_is_followed_through_nested_calls():
    inner = conv_graph("inner")
    outer = calling("outer", inner)
    module = program_of(calling("forward", outer))
    module.functions = {"inner": inner, "outer": outer}
    plan = make_plan(module, OPTIONS)
    assert plan.functions["inner"].places[inner.outputs[1]] == ("state", 3)
    assert plan.functions["outer"].places[outer.outputs[1]] == ("state", 3)
    assert plan.programs["forward"].function.copies == []


def test_function_that_is_once_called_without_a_state_copies():
    inner = conv_graph("inner")
    module = program_of(calling("forward", inner))
    module.functions = {"inner": inner}
    module.programs["plain"] = program_of(calling("plain", inner), state=None).programs["forward"]
    plan = make_plan(module, OPTIONS)
    assert plan.functions["inner"].places[inner.outputs[1]] == ("out", 1)


def test_strided_operand_is_materialised_and_a_slice_of_rows_is_not():
    graph = Graph("f")
    graph.params = [Value("x", tensor(F32, T, 12)), Value("g", tensor(F32, 3, 12))]
    x, gammas = graph.params
    (row,) = add(graph, "slice", gammas, axis=0, start=1, stop=2)
    (gamma,) = add(graph, "reshape", row, shape=(12,))
    (normed,) = add(graph, "rms_norm", x, gamma, eps=1e-5)
    (turned,) = add(graph, "transpose", normed, perm=(1, 0))
    (wide,) = add(graph, "reshape", turned, shape=(12, T))
    (tall,) = add(graph, "transpose", wide, perm=(1, 0))
    graph.outputs = add(graph, "rms_norm", tall, gamma, eps=1e-5)
    kinds = [k.root.op for k in Scheduler(graph, {}).run().kernels]
    assert kinds == ["rms_norm", "rms_norm"]  # the slice is pointer + offset, both transposes cancel
    (half,) = add(graph, "slice", normed, axis=1, start=0, stop=6)
    short = Value("short", tensor(F32, 6))
    graph.params.append(short)
    graph.outputs = add(graph, "rms_norm", half, short, eps=1e-5)
    assert half in Scheduler(graph, {}).run().buffers


def test_workspace_has_a_place_of_its_own():
    graph = Graph("f")
    graph.params = [Value(n, tensor(F32, *shape)) for n, shape in
                    {"x": (T, 8), "gate": (20, 8), "up": (20, 8), "down": (8, 20)}.items()]  # fmt: skip
    (hidden,) = add(graph, "dense_ffn", *graph.params)
    graph.outputs = add(graph, "dense_ffn", hidden, *graph.params[1:])
    module = Module(info={"role": "module"})
    module.programs["forward"] = Program(graph, [Role("input", p.name) for p in graph.params], [Role("output", "y")], ("T",))
    plan = make_plan(module, OPTIONS)
    function = plan.programs["forward"].function
    begin, end = function.workspaces[graph.nodes[0]]
    kind, at = function.places[hidden]
    assert kind == "frame" and end - begin >= 2 * 16 * 20 * 4 and (at >= end or at + 16 * 8 * 4 <= begin)
    record = plan.to_json()["programs"]["forward"]
    assert record["largest_live_bytes"] <= record["arena_bytes"] <= 1.1 * record["largest_live_bytes"]


def test_call_beyond_the_planned_size_is_refused():
    inner = conv_graph("inner")
    outer = Graph("forward")
    outer.params = [Value(p.name, p.type.at({"T": 40})) for p in inner.params]
    node = make_call(inner, outer.params)
    node.attrs["dims"] = (("T", 40),)
    for value, result in zip(node.outputs, inner.outputs, strict=True):
        value.type = result.type.at({"T": 40})
    outer.nodes.append(node)
    outer.outputs = list(node.outputs)
    module = program_of(outer)
    module.functions = {"inner": inner}
    with pytest.raises(IRError, match="T = 40, laid out for 16"):
        make_plan(module, OPTIONS)


def test_arena_is_close_to_the_largest_live_set():
    """Random chains of lifetimes as layers have them: most buffers live for a few kernels, some for many."""
    worst = 1.0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        slots = []
        for i in range(60):
            first = int(rng.integers(0, 40))
            length = int(rng.choice([0, 1, 2, 3, 20], p=[0.3, 0.3, 0.2, 0.15, 0.05]))
            slots.append(
                Slot(f"b{i}", int(rng.choice([64, 640, 4096, 10240, 40960])) * int(rng.integers(1, 5)), first, first + length)
            )
        offsets, size = place(slots)
        check(slots, offsets)
        worst = max(worst, size / largest_live(slots))
    assert worst <= 1.1


def test_overlap_is_noticed():
    slots = [Slot("a", 128, 0, 2), Slot("b", 128, 2, 3), Slot("c", 128, 3, 4)]
    check(slots, {"a": 0, "b": 128, "c": 0})
    with pytest.raises(IRError, match="a and b overlap"):
        check(slots, {"a": 0, "b": 64, "c": 0})
