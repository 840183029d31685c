"""The residual: mHC's two halves, their chains with the norms around them, and the plain residual."""

from __future__ import annotations

from typing import Any

from pangu_compile.ir import Builder, Graph, Module, Node, Value, opdef
from pangu_compile.ir.types import same_shape

from .canonicalise import dead_code
from .order import sort_nodes
from .pattern import Match, apply_rules, record_provenance, rule


def step_back(value: Value) -> tuple[Value, int, float] | None:
    """(r, axis, eps) where value is r / (sum of r along axis + eps)."""
    node = value.producer
    if node is None or node.op != "div":
        return None
    r, shifted = node.inputs
    added = shifted.producer
    total = added.inputs[0].producer if added is not None and added.op == "add" else None
    if total is None or added is None or total.op != "reduce_sum" or total.inputs[0] is not r or len(total.attrs["axes"]) != 1:
        return None
    eps = added.inputs[1].producer
    if eps is None or eps.op != "constant":
        return None
    return r, total.attrs["axes"][0], eps.attrs["value"]


def _sinkhorn(value: Value) -> tuple[Value, int, float] | None:
    """(raw, iterations, eps) where value ends the whole alternation: softmax, columns, then rows and columns."""
    axes: list[int] = []
    found: set[float] = set()
    while (step := step_back(value)) is not None:
        value, axis, eps = step
        axes.append(axis)
        found.add(eps)
    start = value.producer
    if not axes or start is None or start.op != "add" or start.inputs[0].type.rank != 3:
        return None
    soft, eps_node = start.inputs[0].producer, start.inputs[1].producer
    if soft is None or soft.op != "softmax" or eps_node is None or eps_node.op != "constant":
        return None
    found.add(eps_node.attrs["value"])
    columns = len(axes) // 2 + 1
    if len(found) != 1 or len(axes) % 2 == 0 or axes != ([1, 2] * columns)[: len(axes)]:
        return None
    return soft.inputs[0], columns, float(found.pop())


def fuse_sinkhorn(graph: Graph, module: Module) -> None:
    """Unrolled alternations -> sinkhorn, the longest first."""
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    users = graph.users()
    for node in graph.nodes:
        inner = node.op == "div" and any(step_back(u.output) is not None for u in users.get(node.output, []) if u.op == "div")
        found = _sinkhorn(node.output) if node.op == "div" and not inner else None
        if found is not None:
            raw, iterations, eps = found
            replaced[node.output] = Builder(nodes, node.loc)("sinkhorn", raw, iterations=iterations, eps=eps)
            count = 2 * iterations - 1
            record_provenance(module, "fuse_streams", graph, nodes[-1], [node] * count)
        nodes.append(node)
    graph.nodes = nodes
    graph.replace_uses(replaced)
    dead_code(graph)


_FLAT = """
    %flat = reshape(%x)
    %normed = rms_norm(%flat, %gamma) {eps=@pre_eps}
"""
_FLAT_PLAIN = """
    %flat = reshape(%x)
    %square = mul(%flat, %flat)
    %sum_square = reduce_sum(%square) {axes=(1,)}
    %mean = mul(%sum_square, #inverse)
    %shifted = add(%mean, #pre_eps)
    %scale = rsqrt(%shifted)
    %normed = mul(%flat, %scale)
"""
_PRE = """
    %m = linear(%normed, %phi)
    %alpha0 = slice(%alpha) {axis=0, start=0, stop=1}
    %a0 = reshape(%alpha0)
    %m0 = slice(%m) {axis=1, start=0, stop=@n}
    %am0 = mul(%a0, %m0)
    %b0 = slice(%beta) {axis=0, start=0, stop=@n}
    %z0 = add(%am0, %b0)
    %s0 = sigmoid(%z0)
    %h_pre = add(%s0, #mhc_eps)
    %column = reshape(%h_pre)
    %weighed = mul(%column, %x)
    %summed = reduce_sum(%weighed) {axes=(1,)}
    %y = reshape(%summed)
    %alpha1 = slice(%alpha) {axis=0, start=1, stop=2}
    %a1 = reshape(%alpha1)
    %m1 = slice(%m) {axis=1, start=@n, stop=@two}
    %am1 = mul(%a1, %m1)
    %b1 = slice(%beta) {axis=0, start=@n, stop=@two}
    %z1 = add(%am1, %b1)
    %s1 = sigmoid(%z1)
    %post = mul(%s1, #2)
    %alpha2 = slice(%alpha) {axis=0, start=2, stop=3}
    %a2 = reshape(%alpha2)
    %m2 = slice(%m) {axis=1, start=@two}
    %am2 = mul(%a2, %m2)
    %b2 = slice(%beta) {axis=0, start=@two}
    %z2 = add(%am2, %b2)
    %raw = reshape(%z2)
    %res = sinkhorn(%raw) {iterations=@iterations, eps=@mhc_eps}
    return %y, %post, %res"""


def _pre_eps(m: Match) -> float | None:
    """eps of the norm over all streams, or None where it is not a mean over them."""
    if "gamma" in m.values:
        return float(m.attrs["pre_eps"])
    return float(m.numbers["pre_eps"]) if m.numbers["inverse"] == 1.0 / m["flat"].type.shape[1] else None


def _slots(m: Match, *names: str) -> tuple[tuple[str, ...], list[Value]]:
    present = tuple(n for n in names if n in m.values)
    return present, [m[n] for n in present]


@rule("mhc_pre", _FLAT + _PRE, _FLAT_PLAIN + _PRE)
def mhc_pre(b: Builder, m: Match) -> list[Value] | None:
    x, eps = m["x"], _pre_eps(m)
    if eps is None or x.type.rank != 3 or not isinstance(x.type.shape[1], int) or m.attrs["mhc_eps"] != m.numbers["mhc_eps"]:
        return None
    tokens, n, h = x.type.shape
    fits = same_shape(m["flat"].type.shape, (tokens, n * h)) and same_shape(m["column"].type.shape, (tokens, n, 1))
    if not fits or m.attrs["n"] != n or m.attrs["two"] != 2 * n or not same_shape(m["raw"].type.shape, (tokens, n, n)):
        return None
    slots, operands = _slots(m, "x", "phi", "alpha", "beta", "gamma")
    return b.multi(
        "mhc_pre", *operands, slots=slots, results=("y", "new_post", "new_res"), pre_eps=eps, norm_eps=0.0,
        mhc_eps=float(m.numbers["mhc_eps"]), iterations=m.attrs["iterations"],
    )  # fmt: skip


_MERGE = """
    %m = linear(%normed, %phi)
    %am = mul(%alpha, %m)
    %z = add(%am, %beta)
    %s = sigmoid(%z)
    %w = add(%s, #mhc_eps)
    %column = reshape(%w)
    %weighed = mul(%column, %x)
    %summed = reduce_sum(%weighed) {axes=(1,)}
    %y = reshape(%summed)
    return %y"""


@rule("mhc_merge", _FLAT + _MERGE, _FLAT_PLAIN + _MERGE)
def mhc_merge(b: Builder, m: Match) -> list[Value] | None:
    x, eps = m["x"], _pre_eps(m)
    if eps is None or x.type.rank != 3 or m["alpha"].type.rank != 1 or m["phi"].type.shape[0] != x.type.shape[1]:
        return None
    if not same_shape(m["column"].type.shape, (*x.type.shape[:2], 1)) or m["alpha"].type.shape[0] != 1:
        return None
    slots, operands = _slots(m, "x", "phi", "alpha", "beta", "gamma")
    return b.multi("mhc_merge", *operands, slots=slots, results=("h",), pre_eps=eps, mhc_eps=float(m.numbers["mhc_eps"]))


@rule("mhc_post", """
    %r4 = reshape(%res)
    %x4 = reshape(%x)
    %mixed = mul(%r4, %x4)
    %summed = reduce_sum(%mixed) {axes=(1,)}
    %kept = reshape(%summed)
    %column = reshape(%post)
    %row = reshape(%out)
    %written = mul(%column, %row)
    %new = add(%written, %kept)
    return %new""")  # fmt: skip
def mhc_post(b: Builder, m: Match) -> list[Value] | None:
    x, res = m["x"], m["res"]
    if x.type.rank != 3 or res.type.rank != 3 or m["out"].type.rank != 2:
        return None
    tokens, n, h = x.type.shape
    fits = (
        same_shape(m["r4"].type.shape, (tokens, n, n, 1)) and same_shape(m["x4"].type.shape, (tokens, n, 1, h))
        and same_shape(m["column"].type.shape, (tokens, n, 1)) and same_shape(m["row"].type.shape, (tokens, 1, h))
        and same_shape(res.type.shape, (tokens, n, n)) and same_shape(m["post"].type.shape, (tokens, n))
    )  # fmt: skip
    if not fits:
        return None
    slots, operands = _slots(m, "x", "out", "post", "res")
    return b.multi("mhc_post", *operands, slots=slots, results=("new_x",), out_eps=0.0, block_eps=0.0)


# Norms join the operator beside them. Operands are named, so this is done by hand and not by a pattern.


def with_slots(b: Builder, node: Node, extra: dict[str, Value], results: tuple[str, ...] = (), op: str = "",
               **attrs: Any) -> dict[str, Value]:  # fmt: skip
    """A node like `node` with more operands (put where the signature has them), by result name."""
    signature = opdef(op or node.op).signature
    assert signature is not None
    operands = {**dict(zip(node.attrs["slots"], node.inputs, strict=True)), **extra}
    slots = tuple(n for n in signature.slots if n in operands)
    names = results or node.attrs["results"]
    made = b.multi(op or node.op, *(operands[n] for n in slots), **{**node.attrs, "slots": slots, "results": names, **attrs})
    return dict(zip(names, made, strict=True))


def slot(node: Node, name: str) -> Value:
    value: Value = node.inputs[node.attrs["slots"].index(name)]
    return value


class _Joiner:
    """One sweep over a graph that lets nodes swallow a neighbour each; repeated until nothing changes."""

    def __init__(self, module: Module, graph: Graph):
        self.module, self.graph = module, graph
        self.uses, self.users = graph.uses(), graph.users()
        self.replaced: dict[Value, Value] = {}
        self.nodes: list[Node] = []
        self.gone: set[int] = set()

    def run(self) -> bool:
        for node in self.graph.nodes:
            touched = any(id(v.producer) in self.gone for v in node.inputs) or id(node) in self.gone
            if not touched:
                self._visit(node)
            self.nodes.append(node)
        if not self.replaced:
            return False
        self.graph.nodes = self.nodes
        self.graph.replace_uses(self.replaced)
        sort_nodes(self.graph)
        dead_code(self.graph)
        return True

    def _visit(self, node: Node) -> None:
        if node.op in ("mhc_post", "mhc_post_pre", "residual") and "out_norm" not in node.attrs["slots"]:
            norm = slot(node, "out").producer
            if norm is not None and norm.op == "rms_norm" and self.uses[norm.output] == 1 and id(norm) not in self.gone:
                extra = {"out": norm.inputs[0], "out_norm": norm.inputs[1]}
                self._replace(node, [norm], with_slots(self._builder(node), node, extra, out_eps=norm.attrs["eps"]))
        elif node.op == "rms_norm" and node.inputs[0].producer is not None:
            self._norm(node, node.inputs[0].producer)
        elif node.op == "reshape":
            self._block_norm(node)
        elif node.op == "mhc_pre":
            before = slot(node, "x").producer
            if before is not None and before.op == "mhc_post" and id(before) not in self.gone:
                self._chain(before, node)

    def _builder(self, node: Node) -> Builder:
        return Builder(self.nodes, node.loc)

    def _replace(self, node: Node, others: list[Node], results: dict[str, Value]) -> None:
        for name, value in zip(node.attrs["results"], node.outputs, strict=True):
            self.replaced[value] = results[name]
        self._done(node, others)

    def _done(self, node: Node, others: list[Node]) -> None:
        self.gone.update(map(id, [node, *others]))
        record_provenance(self.module, "fuse_streams", self.graph, self.nodes[-1], [node, *others])

    def _norm(self, norm: Node, before: Node) -> None:
        """A norm of what mhc_pre or a residual gives."""
        if id(before) in self.gone or before.op not in ("mhc_pre", "mhc_post_pre", "residual") or "norm" in before.attrs["slots"]:
            return
        extra, eps = {"norm": norm.inputs[1]}, norm.attrs["eps"]
        if before.op != "residual":
            y = before.outputs[before.attrs["results"].index("y")]
            if norm.inputs[0] is y and self.uses[y] == 1:
                made = with_slots(self._builder(norm), before, extra, norm_eps=eps)
                self._replace(before, [norm], made)
                self.replaced[norm.output] = made["y"]
        elif self.uses[norm.inputs[0]] == 1 and "block_norm" not in before.attrs["slots"] and norm.inputs[0].index == 0:
            made = with_slots(self._builder(norm), before, {"block_norm": norm.inputs[1]}, block_eps=eps)
            self._replace(before, [norm], made)
            self.replaced[norm.output] = made["new_x"]
        elif "y" not in before.attrs["results"]:
            made = with_slots(self._builder(norm), before, extra, ("new_x", "y"), norm_eps=eps)
            self._replace(before, [norm], made)
            self.replaced[norm.output] = made["y"]

    def _block_norm(self, node: Node) -> None:
        """reshape(rms_norm(reshape(streams))): the norm of all streams together."""
        norm = node.inputs[0].producer
        flat = norm.inputs[0].producer if norm is not None and norm.op == "rms_norm" else None
        before = flat.inputs[0].producer if flat is not None and flat.op == "reshape" else None
        if norm is None or flat is None or before is None or before.op != "mhc_post" or "block_norm" in before.attrs["slots"]:
            return
        alone = self.uses[before.output] == 1 and self.uses[flat.output] == 1 and self.uses[norm.output] == 1
        x = before.output.type.shape
        if not alone or id(before) in self.gone or not same_shape(node.output.type.shape, x):
            return
        if not same_shape(flat.output.type.shape, (x[0], x[1] * x[2])):
            return
        made = with_slots(self._builder(node), before, {"block_norm": norm.inputs[1]}, block_eps=norm.attrs["eps"])
        self._replace(before, [flat, norm, node], made)
        self.replaced[node.output] = made["new_x"]

    def _chain(self, post: Node, pre: Node) -> None:
        extra = {n: v for n, v in zip(pre.attrs["slots"], pre.inputs, strict=True) if n != "x"}
        attrs = {k: v for k, v in pre.attrs.items() if k not in ("slots", "results")}
        results = ("new_x", *pre.attrs["results"])
        made = with_slots(self._builder(pre), post, extra, results, "mhc_post_pre", **attrs)
        self._replace(post, [pre], made)
        for name, value in zip(pre.attrs["results"], pre.outputs, strict=True):
            self.replaced[value] = made[name]


def join_neighbours(module: Module, graph: Graph) -> None:
    while _Joiner(module, graph).run():
        pass


def plain_residuals(module: Module, graph: Graph) -> None:
    """x + branch, where a norm stands on either side, -> residual."""
    users, uses = graph.users(), graph.uses()
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "add" and node.output.type.rank == 2 and node.inputs[0].type.same(node.inputs[1].type):
            x, out = node.inputs
            normed = out.producer is not None and out.producer.op == "rms_norm" and uses[out] == 1
            if normed or any(u.op == "rms_norm" for u in users.get(node.output, [])):
                made = Builder(nodes, node.loc).multi(
                    "residual", x, out, slots=("x", "out"), results=("new_x",), out_eps=0.0, block_eps=0.0, norm_eps=0.0
                )
                replaced[node.output] = made[0]
                record_provenance(module, "fuse_streams", graph, nodes[-1], [node])
        nodes.append(node)
    graph.nodes = nodes
    graph.replace_uses(replaced)
    dead_code(graph)


def _fold_gamma(graph: Graph) -> None:
    """phi (gamma x) = (phi gamma) x: the product of two weights is folded at build time, in float64."""
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if "gamma" in node.attrs.get("slots", ()) and slot(node, "phi").producer is None and slot(node, "gamma").producer is None:
            b = Builder(nodes, node.loc)
            operands = dict(zip(node.attrs["slots"], node.inputs, strict=True))
            operands["phi"] = b("mul", operands["phi"], operands.pop("gamma"))
            made = b.multi(node.op, *operands.values(), **{**node.attrs, "slots": tuple(operands)})
            replaced.update(zip(node.outputs, made, strict=True))
        else:
            nodes.append(node)
    graph.nodes = nodes
    graph.replace_uses(replaced)


def fuse_streams(module: Module) -> None:
    """mhc_pre, mhc_post, mhc_merge, residual; the norms around them; post and next pre as one."""
    for graph in module.graphs():
        fuse_sinkhorn(graph, module)
    apply_rules(module, (mhc_pre, mhc_merge, mhc_post), "fuse_streams")
    for graph in module.graphs():
        plain_residuals(module, graph)
        join_neighbours(module, graph)
        _fold_gamma(graph)
