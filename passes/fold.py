"""Weight folding: what depends on weights alone is computed once, at build time.

In a function the folded value becomes a parameter; every call passes its own folded weight. The sinks' keys
(kv_a_layernorm of param_sink_compressed_kv, and the concatenation) disappear from the step this way.

A norm's gamma goes into the projection after it only where that projection stays in float32 (mHC's phi, streams.py). Elsewhere
it would cost accuracy for nothing: gamma times a bf16 weight of the checkpoint is no bf16 number, and the kernels multiply by
gamma in a pass over the row that they need anyway.
"""

from __future__ import annotations

from pangu_compile.ir import Folded, Graph, Module, Node, Program, Role, Value, opdef

from .canonicalise import dead_code, drop_unread_params

_FREE = {"constant", "reshape", "transpose", "slice", "broadcast", "cast", "iota"}


def _static(node: Node) -> bool:
    return all(isinstance(d, int) for v in node.outputs for d in v.type.shape)


def _fold_roots(graph: Graph, fixed: set[Value]) -> list[Value]:
    """Values computed (not only viewed) from fixed ones, that something else reads."""
    known = set(fixed)
    worth: set[Value] = set()
    for node in graph.nodes:
        if node.op in ("call", "size") or not _static(node) or not all(v in known for v in node.inputs):
            continue
        known.update(node.outputs)
        if node.op not in _FREE or any(v in worth for v in node.inputs):
            worth.update(node.outputs)
    users = graph.users()
    roots = []
    for node in graph.nodes:
        for v in node.outputs:
            outside = v in graph.outputs or any(u.outputs[0] not in known for u in users.get(v, []))
            if v in worth and outside and _small(v, graph, fixed):
                roots.append(v)
    return roots


def _slice_of(graph: Graph, root: Value) -> list[Node]:
    """Nodes that compute `root`, in order."""
    needed = {root}
    nodes = []
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            nodes.append(node)
            needed.update(node.inputs)
    return nodes[::-1]


def _small(root: Value, graph: Graph, fixed: set[Value]) -> bool:
    """Folding must not inflate the artifact: at most twice what it was computed from (or a few thousand elements)."""
    sources = {v for node in _slice_of(graph, root) for v in node.inputs if v in fixed}
    return bool(root.type.numel <= max(4096, 2 * sum(v.type.numel for v in sources)))


def _extract(graph: Graph, root: Value, name: str) -> tuple[Graph, list[Value]]:
    folded = Graph(name)
    mapping: dict[Value, Value] = {}
    sources: list[Value] = []
    for node in _slice_of(graph, root):
        for v in node.inputs:
            if v not in mapping:
                mapping[v] = Value(f"p{len(sources)}", v.type)
                sources.append(v)
                folded.params.append(mapping[v])
        copy = Node(node.op, [mapping[v] for v in node.inputs], node.attrs, node.loc)
        copy.outputs = [Value("", v.type, copy, i) for i, v in enumerate(node.outputs)]
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
        folded.nodes.append(copy)
    folded.outputs = [mapping[root]]
    folded.rename()
    return folded, sources


def _declare(module: Module, program: Program, folded: Graph, sources: list[str], known: dict[object, str]) -> Value:
    """The program's parameter for a folded weight (one per computation and set of sources, module-wide)."""
    text = repr([(n.op, sorted(n.attrs.items(), key=str), [v.name for v in n.inputs]) for n in folded.nodes])
    key = (text, tuple(sources))
    if key not in known:
        known[key] = f"folded.{len(known)}"
        module.folded[known[key]] = Folded(folded, sources)
        module.weights[known[key]] = folded.outputs[0].type
    name = known[key]
    for role, value in zip(program.params, program.graph.params, strict=True):
        if role == Role("weight", name):
            return value
    value = Value(name.replace(".", "_"), folded.outputs[0].type)
    program.params.append(Role("weight", name))
    program.graph.params.append(value)
    return value


def _fixed_params(module: Module) -> dict[str, list[bool]]:
    """Per function: which parameters are weights at every call."""
    fixed = {name: [True] * len(g.params) for name, g in module.functions.items()}
    for program in module.programs.values():
        weights = {v for v, r in zip(program.graph.params, program.params, strict=True) if r.kind == "weight"}
        for node in program.graph.nodes:
            if node.op == "call":
                flags = fixed[node.attrs["function"]]
                fixed[node.attrs["function"]] = [f and v in weights for f, v in zip(flags, node.inputs, strict=True)]
    return fixed


def fold_weights(module: Module) -> None:
    """Fold in every function (per call) and in every program."""
    known: dict[object, str] = {}
    for name, flags in _fixed_params(module).items():
        graph = module.functions[name]
        if any(node.op == "call" for node in graph.nodes):
            continue
        roots = _fold_roots(graph, {p for p, f in zip(graph.params, flags, strict=True) if f})
        extracted = [_extract(graph, root, f"{name}_fold{i}") for i, root in enumerate(roots)]
        positions = {p: i for i, p in enumerate(graph.params)}
        for program in module.programs.values():
            roles = {v: r.key for v, r in zip(program.graph.params, program.params, strict=True)}
            for node in program.graph.nodes:
                if node.op == "call" and node.attrs["function"] == name:
                    for folded, sources in extracted:
                        keys = [roles[node.inputs[positions[s]]] for s in sources]
                        node.inputs.append(_declare(module, program, folded, keys, known))
        for i, root in enumerate(roots):
            param = Value(f"fold{i}", root.type)
            graph.params.append(param)
            graph.replace_uses({root: param})
        dead_code(graph)
    for program in module.programs.values():
        graph = program.graph
        weights = {v: r.key for v, r in zip(graph.params, program.params, strict=True) if r.kind == "weight"}
        roots = _fold_roots(graph, set(weights))
        for root, (folded, sources) in [(root, _extract(graph, root, "fold")) for root in roots]:
            graph.replace_uses({root: _declare(module, program, folded, [weights[s] for s in sources], known)})
        dead_code(graph)
    _drop_unused_params(module)


def _drop_unused_params(module: Module) -> None:
    """Parameters that folding left unread, in functions and then in programs."""
    drop_unread_params(module)
    for program in module.programs.values():
        uses = program.graph.uses()
        pairs = [
            (p, r) for p, r in zip(program.graph.params, program.params, strict=True)
            if uses[p] or r.kind in ("input", "state")
        ]  # fmt: skip
        program.graph.params = [p for p, _ in pairs]
        program.params = [r for _, r in pairs]


assert all(opdef(name) for name in _FREE)
