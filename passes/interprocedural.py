"""Across calls: what every layer computes alike moves to the program; what begins a layer joins the end of the one before.

Layers are functions that are shared. A node leaves a function for its callers (hoist) or enters the function called
before it (sink); both keep one function per structure, so the plan of 46 layers stays small.
"""

from __future__ import annotations

from collections import Counter

from pangu_compile.ir import Builder, Graph, Module, Node, Program, Value, copy_nodes, inline_calls

from .canonicalise import canonicalise, dead_code, drop_unread_params
from .pattern import record_provenance
from .streams import join_neighbours, plain_residuals

HEADS = {"mhc_pre", "rms_norm"}


def calls_of(graph: Graph, name: str) -> list[Node]:
    return [n for n in graph.nodes if n.op == "call" and n.attrs["function"] == name]


def _callers(module: Module, name: str) -> list[Graph]:
    return [g for g in module.graphs() if calls_of(g, name)]


def copy_graph(graph: Graph, name: str) -> Graph:
    """A function of its own with the same nodes."""
    fresh = Graph(name)
    mapping = {p: Value(p.name, p.type) for p in graph.params}
    fresh.params = list(mapping.values())
    fresh.nodes = copy_nodes(graph.nodes, mapping)
    fresh.outputs = [mapping[v] for v in graph.outputs]
    fresh.rename()
    return fresh


def hoist(module: Module, name: str, node: Node) -> None:
    """Move a node that reads parameters alone out of function `name`: each caller computes it before its call."""
    graph = module.functions[name]
    position = {p: i for i, p in enumerate(graph.params)}
    at = [position[v] for v in node.inputs]
    params = [Value(f"h{len(graph.params) + i}", v.type) for i, v in enumerate(node.outputs)]
    graph.nodes.remove(node)
    graph.params += params
    graph.replace_uses(dict(zip(node.outputs, params, strict=True)))
    for caller in _callers(module, name):
        nodes: list[Node] = []
        for call in caller.nodes:
            if call.op == "call" and call.attrs["function"] == name:
                operands = [call.inputs[i] for i in at]
                call.inputs += Builder(nodes, call.loc).multi(node.op, *operands, **node.attrs)
            nodes.append(call)
        caller.nodes = nodes


def _shared_by_calls(module: Module, name: str, node: Node) -> bool:
    """Do two calls of one caller give the node the same operands?"""
    graph = module.functions[name]
    at = [graph.params.index(v) for v in node.inputs]
    for caller in _callers(module, name):
        seen = Counter(tuple(id(call.inputs[i]) for i in at) for call in calls_of(caller, name))
        if any(count > 1 for count in seen.values()) or _others_share(module, caller, name, node):
            return True
    return False


def _others_share(module: Module, caller: Graph, name: str, node: Node) -> bool:
    """Does another function called here compute the same thing of the same values?"""

    def operands(function: str, candidate: Node) -> set[tuple[int, ...]]:
        params = module.functions[function].params
        at = [params.index(v) for v in candidate.inputs]
        return {tuple(id(call.inputs[i]) for i in at) for call in calls_of(caller, function)}

    own = operands(name, node)
    for other in dict.fromkeys(n.attrs["function"] for n in caller.nodes if n.op == "call"):
        if other == name:
            continue
        graph = module.functions[other]
        twins = [n for n in graph.nodes if n.op == node.op and n.attrs == node.attrs and _reads_params(graph, n)]
        if any(own & operands(other, twin) for twin in twins):
            return True
    return False


def _reads_params(graph: Graph, node: Node) -> bool:
    params = set(graph.params)
    return node.op != "call" and bool(node.inputs) and all(v in params for v in node.inputs)


def inline_small(module: Module) -> None:
    """A function of one node is no function: its calls become the node."""
    small = [name for name, graph in module.functions.items() if len(graph.nodes) <= 1]
    for graph in module.graphs():
        if any(n.op == "call" and n.attrs["function"] in small for n in graph.nodes):
            inline_calls(graph, module.functions, small, keep_loc=True)
    module.functions = {name: graph for name, graph in module.functions.items() if name not in small}


def hoist_shared(module: Module) -> None:
    """What several layers compute from the same values (the rotary table) is computed once, in the program."""
    wanted = [
        (name, node) for name, graph in module.functions.items() for node in graph.nodes
        if node.op == "rotary_table" and _reads_params(graph, node) and _shared_by_calls(module, name, node)
    ]  # fmt: skip
    for name, node in wanted:
        hoist(module, name, node)
    canonicalise(module)


def chain_layers(module: Module) -> None:
    """The first node of a layer (mHC's pre, or the input norm) becomes part of the layer before it."""
    for name, graph in list(module.functions.items()):
        head = next((n for n in graph.nodes if n.op in HEADS and _reads_params(graph, n)), None)
        if head is not None and _follows_a_layer(module, name, head):
            hoist(module, name, head)
    variants: dict[tuple[object, ...], str] = {}
    for program in module.programs.values():
        while (pair := _sinkable(module, program)) is not None:
            _sink(module, program, *pair, variants)
    _drop_uncalled(module)


def _follows_a_layer(module: Module, name: str, head: Node) -> bool:
    """Is what the head reads the result of another call, somewhere?"""
    at = module.functions[name].params.index(head.inputs[0])
    sources = [call.inputs[at].producer for g in _callers(module, name) for call in calls_of(g, name)]
    return any(s is not None and s.op == "call" for s in sources)


def _sinkable(module: Module, program: Program) -> tuple[Node, Node] | None:
    """A head in the program, and the call whose last step it can join."""
    weights = {v for v, r in zip(program.graph.params, program.params, strict=True) if r.kind == "weight"}
    for node in program.graph.nodes:
        call = node.inputs[0].producer if node.op in HEADS else None
        if call is None or call.op != "call" or any(v not in weights for v in node.inputs[1:]):
            continue
        last = module.functions[call.attrs["function"]].outputs[node.inputs[0].index].producer
        open_end = last is not None and last.op in ("mhc_post", "residual", "add") and "y" not in last.attrs.get("results", ())
        if last is not None and open_end and (last.op == "mhc_post") == (node.op == "mhc_pre"):
            return node, call
    return None


def _sink(module: Module, program: Program, head: Node, call: Node, variants: dict[tuple[object, ...], str]) -> None:
    """Let `call` run a variant of its function that ends with `head`."""
    function, index = call.attrs["function"], head.inputs[0].index
    attrs = tuple(sorted((k, repr(v)) for k, v in head.attrs.items()))
    key = (function, index, head.op, attrs, tuple(str(v.type) for v in head.inputs))
    if key not in variants:
        variants[key] = f"{function}_then_{head.op}"
        _append_head(module, function, index, head, variants[key])
    made = Node("call", [*call.inputs, *head.inputs[1:]], {**call.attrs, "function": variants[key]}, call.loc)
    made.outputs = [Value("", v.type, made, i) for i, v in enumerate([*call.outputs, *head.outputs])]
    replaced = dict(zip([*call.outputs, *head.outputs], made.outputs, strict=True))
    program.graph.nodes = [made if n is call else n for n in program.graph.nodes if n is not head]
    program.graph.replace_uses(replaced)


def _append_head(module: Module, function: str, index: int, head: Node, name: str) -> None:
    graph = copy_graph(module.functions[function], name)
    extra = [Value(f"n{len(graph.params) + i}", v.type) for i, v in enumerate(head.inputs[1:])]
    graph.params += extra
    graph.outputs += Builder(graph.nodes, "next").multi(head.op, graph.outputs[index], *extra, **head.attrs)
    plain_residuals(module, graph)
    join_neighbours(module, graph)
    record_provenance(module, "chain_layers", graph, graph.nodes[-1], [head])
    module.functions[name] = graph


def _drop_uncalled(module: Module) -> None:
    """Functions that nothing calls, and parameters that no function reads."""
    called = {n.attrs["function"] for g in module.graphs() for n in g.nodes if n.op == "call"}
    module.functions = {name: g for name, g in module.functions.items() if name in called}
    drop_unread_params(module)
    for graph in module.graphs():
        dead_code(graph)


