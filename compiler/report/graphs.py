"""The optimised graph of every distinct layer function as plain data: operators, what they read, what they cost."""

from __future__ import annotations

from typing import Any

from pangu_compile.ir import Graph, Module, Node, Value

from .cost import Env, node_work
from .storage import layer_of

MAX_DRAWN = 80  # larger graphs are tables only


def layer_functions(module: Module) -> dict[str, list[str]]:
    """Function name -> the layers that call it ("3", "mtp.1"), in order of the calls."""
    layers: dict[str, list[str]] = {}
    for name, program in module.programs.items():
        if name != "step" and not name.startswith("draft_"):
            continue
        keys = {v: r.key for v, r in zip(program.graph.params, program.params, strict=True)}
        for node in program.graph.nodes:
            if node.op == "call":
                layers.setdefault(node.attrs["function"], []).append(_caller(name, node, keys))
    return layers


def _caller(program: str, node: Node, keys: dict[Value, str]) -> str:
    """Which layer a call computes: its states tell, then its location, then the first of its weights."""
    if program.startswith("draft_"):
        return f"mtp.{program.removeprefix('draft_')}"
    names = [keys[v] for v in node.inputs if v in keys]
    for text in (*(n for n in names if n.startswith("layers.")), f"{node.loc}.", *names):
        layer = layer_of(text)
        if layer is not None:
            return str(layer)
    return program


def graph_record(graph: Graph, kept: dict[Value, str], env: Env) -> dict[str, Any]:
    """Nodes with the positions of those that they read. kept: values that are weights or states -> their kind."""
    position = {v: i for i, node in enumerate(graph.nodes) for v in node.outputs}
    stored = frozenset(kept)
    nodes = []
    for node in graph.nodes:
        entry: dict[str, Any] = {
            "op": node.op, "reads": sorted({position[v] for v in node.inputs if v in position}), "source": node.loc,
            "results": [str(v.type) for v in node.outputs],
        }  # fmt: skip
        if node.op == "call":
            entry["function"] = node.attrs["function"]
        else:
            work = node_work(node, env, stored)
            entry |= {"flops": work.flops, "bytes": work.bytes, "slots": list(node.attrs.get("slots", ()))}
        kinds = [kept[v] for v in node.inputs if v in kept]
        entry |= {"weights": kinds.count("weight"), "states": kinds.count("state")}
        nodes.append(entry)
    return {"nodes": nodes, "outputs": [position[v] for v in graph.outputs if v in position]}


def layer_graphs(module: Module, env: Env) -> list[dict[str, Any]]:
    """One record per distinct layer function, in order of first use; graphs beyond MAX_DRAWN nodes only as counts."""
    kinds = _parameter_kinds(module)
    records = []
    for name, layers in layer_functions(module).items():
        graph = module.functions[name]
        record: dict[str, Any] = {"function": name, "layers": layers, "count": len(graph.nodes)}
        if len(graph.nodes) <= MAX_DRAWN:
            record |= graph_record(graph, kinds.get(name, {}), env)
        records.append(record)
    return records


def _parameter_kinds(module: Module) -> dict[str, dict[Value, str]]:
    """Function -> its parameters that are weights or states at the (first) call from a program."""
    kinds: dict[str, dict[Value, str]] = {}
    for program in module.programs.values():
        role = {v: r.kind for v, r in zip(program.graph.params, program.params, strict=True)}
        for node in program.graph.nodes:
            if node.op != "call" or node.attrs["function"] in kinds:
                continue
            params = module.functions[node.attrs["function"]].params
            found = {p: role.get(v, "") for p, v in zip(params, node.inputs, strict=True)}
            kinds[node.attrs["function"]] = {
                p: "weight" if k == "constant" else k for p, k in found.items() if k in ("weight", "constant", "state")
            }
    return kinds
