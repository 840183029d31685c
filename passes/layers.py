"""First level of fusion: linear layers, norms, rotary embedding, the MoME convolution."""

from __future__ import annotations

from pangu_compile.ir import Builder, Graph, Module, Node, Value
from pangu_compile.ir.types import same_dim

from .canonicalise import dead_code
from .order import sort_nodes
from .pattern import Match, apply_rules, record_provenance, rule


def is_parameter(value: Value) -> bool:
    """A parameter of known size: a weight, not rows of a cache."""
    return value.producer is None and all(isinstance(d, int) for d in value.type.shape)


@rule("linear", """
    %wt = transpose(%w) {perm=(1, 0)}
    %y = matmul(%x, %wt)
    return %y""")  # fmt: skip
def linear(b: Builder, m: Match) -> list[Value] | None:
    if m["x"].type.rank != 2 or not is_parameter(m["w"]):
        return None
    return [b("linear", m["x"], m["w"])]


def _is_mean(m: Match, x: Value) -> bool:
    """Is this a mean over the last axis alone?"""
    size = x.type.shape[-1]
    last = m.attrs["axes"] == (x.type.rank - 1,)
    return bool(last and isinstance(size, int) and m.numbers["inverse"] == 1.0 / size)


@rule("rms_norm", """
    %square = mul(%x, %x)
    %sum = reduce_sum(%square) {axes=@axes}
    %mean = mul(%sum, #inverse)
    %shifted = add(%mean, #eps)
    %scale = rsqrt(%shifted)
    %normed = mul(%x, %scale)
    %y = mul(%normed, %gamma)
    return %y""")  # fmt: skip
def rms_norm(b: Builder, m: Match) -> list[Value] | None:
    gamma = m["gamma"]
    if not _is_mean(m, m["x"]) or gamma.type.rank != 1 or not same_dim(gamma.type.shape[0], m["x"].type.shape[-1]):
        return None
    return [b("rms_norm", m["x"], gamma, eps=float(m.numbers["eps"]))]


@rule("layer_norm", """
    %sum = reduce_sum(%x) {axes=@axes}
    %mean = mul(%sum, #inverse)
    %centred = sub(%x, %mean)
    %square = mul(%centred, %centred)
    %squares = reduce_sum(%square) {axes=@axes}
    %variance = mul(%squares, #inverse)
    %shifted = add(%variance, #eps)
    %scale = rsqrt(%shifted)
    %normed = mul(%centred, %scale)
    %scaled = mul(%normed, %gamma)
    %y = add(%scaled, %beta)
    return %y""")  # fmt: skip
def layer_norm(b: Builder, m: Match) -> list[Value] | None:
    if not _is_mean(m, m["x"]) or m["gamma"].type.rank != 1 or m["beta"].type.rank != 1:
        return None
    return [b("layer_norm", m["x"], m["gamma"], m["beta"], eps=float(m.numbers["eps"]))]


_ANGLE = """
    %count = iota() {dtype='f64'}
    %even = mul(%count, #2)
    %exponent = div(%even, #divisor)
    %frequency = pow(#theta, %exponent)
    %row = reshape(%frequency)
    %wide = cast(%positions) {dtype='f64'}
    %column = reshape(%wide)
    %angle = mul(%column, %row)
"""


@rule("rotary_table", _ANGLE + """
    %c = cos(%angle)
    %s = sin(%angle)
    %cos = cast(%c) {dtype='f32'}
    %sin = cast(%s) {dtype='f32'}
    return %cos, %sin""")  # fmt: skip
def rotary_table(b: Builder, m: Match) -> list[Value] | None:
    dim = -int(m.numbers["divisor"])
    positions = m["positions"]
    half = m["cos"].type.shape[-1]
    if positions.type.rank != 1 or m["cos"].type.rank != 2 or half * 2 != dim or m.numbers["divisor"] != -dim:
        return None
    table = b("rotary_table", positions, dim=dim, theta=float(m.numbers["theta"]))
    return [b("slice", table, axis=1, start=0, stop=half), b("slice", table, axis=1, start=half, stop=dim)]


def _rotation(cos: str, sin: str) -> str:
    return f"""
    {cos}
    {sin}
    %a = slice(%x) {{axis=@axis, start=0}}
    %b = slice(%x) {{axis=@axis}}
    %ac = mul(%a, %cos)
    %bs = mul(%b, %sin)
    %first = sub(%ac, %bs)
    %bc = mul(%b, %cos)
    %as = mul(%a, %sin)
    %second = add(%bc, %as)
    %y = concat(%first, %second) {{axis=@axis}}
    return %y"""


_COS, _SIN = "slice(%table) {axis=1, start=0}", "slice(%table) {axis=1}"


@rule("rotary", _rotation(f"%cos = {_COS}", f"%sin = {_SIN}"),
      _rotation(f"%c = {_COS}\n%cos = reshape(%c)", f"%s = {_SIN}\n%sin = reshape(%s)"))  # fmt: skip
def rotary(b: Builder, m: Match) -> list[Value] | None:
    x, table = m["x"], m["table"]
    if table.producer is None or table.producer.op != "rotary_table" or m.attrs["axis"] != x.type.rank - 1:
        return None
    if not same_dim(x.type.shape[-1], table.type.shape[1]) or x.type.rank not in (2, 3):
        return None
    return [b("rotary", x, table, offset=0)]


@rule("rotary_first", """
    %head = slice(%x) {axis=@axis, start=0}
    %turned = rotary(%head, %table) {offset=0}
    %tail = slice(%x) {axis=@axis, stop=@stop}
    %y = concat(%turned, %tail) {axis=@axis}
    return %y""")  # fmt: skip
def rotary_first(b: Builder, m: Match) -> list[Value] | None:
    """Indexer heads: the rotary channels come first."""
    x, width = m["x"], m["table"].type.shape[1]
    start = m["tail"].producer.attrs["start"] if m["tail"].producer is not None else None
    if m.attrs["axis"] != x.type.rank - 1 or start != width or not same_dim(m.attrs["stop"], x.type.shape[-1]):
        return None
    return [b("rotary", x, m["table"], offset=0)]


def fuse_layers(module: Module) -> None:
    """linear, rms_norm, layer_norm, rotary_table, rotary, mome_conv."""
    apply_rules(module, (linear, rms_norm, layer_norm, rotary_table), "fuse_layers")
    apply_rules(module, (rotary,), "fuse_layers")
    apply_rules(module, (rotary_first,), "fuse_layers")
    for graph in module.graphs():
        _fuse_convolutions(module, graph)


# The convolution has as many taps as its kernel, so it is followed by hand.


def _operands(value: Value, op: str) -> list[Value] | None:
    node = value.producer
    return node.inputs if node is not None and node.op == op else None


def _constant(value: Value) -> float | None:
    node = value.producer
    return node.attrs["value"] if node is not None and node.op == "constant" else None


def _through(value: Value, *ops: str) -> Value:
    while value.producer is not None and value.producer.op in ops:
        value = value.producer.inputs[0]
    return value


def _taps(total: Value) -> list[Value]:
    """Summands of ((0 + a) + b) + .., the zero left out."""
    found: list[Value] = []
    while (pair := _operands(total, "add")) is not None:
        found.append(pair[1])
        total = pair[0]
    if _constant(_through(total, "broadcast")) != 0:
        return []
    return found[::-1]


def _tap(value: Value, j: int) -> tuple[Value, Value] | None:
    """(rows, weight) of rows[j : j + T] * weight[:, 0, j]."""
    pair = _operands(value, "mul")
    if pair is None:
        return None
    row, column = pair[0].producer, _through(pair[1], "reshape").producer
    if row is None or row.op != "slice" or row.attrs["axis"] != 0 or row.attrs["start"] != j:
        return None
    if column is None or column.op != "slice":
        # a kernel of one tap is its own slice
        return (row.inputs[0], _through(pair[1], "reshape")) if j == 0 else None
    if column.attrs["start"] != j or column.attrs["axis"] != column.inputs[0].type.rank - 1:
        return None
    return row.inputs[0], _through(column.inputs[0], "reshape")


def window_source(rows: Value, length: int) -> tuple[Value, Value, Value] | None:
    """(ring, new rows, start) where `rows` are the positions start - length .. start + T - 1, as `Ring.window` reads them."""
    parts = _operands(rows, "take")
    joined = _operands(parts[0], "concat") if parts is not None else None
    if parts is None or joined is None or len(joined) != 2:
        return None
    ring, new = joined
    size, index = ring.type.shape[0], parts[1]
    chosen = _operands(index, "where")
    if chosen is None or not isinstance(size, int):
        return None
    before = _operands(chosen[0], "lt")
    if before is None:
        return None
    position, start = before
    old, shifted = _operands(chosen[1], "remainder"), _operands(chosen[2], "add")
    if old is None or old[0] is not position or _constant(old[1]) != size or shifted is None or _constant(shifted[1]) != size:
        return None
    difference = _operands(shifted[0], "sub")
    if difference != [position, start] or not is_window(position, start, length, new):
        return None
    return ring, new, start


def is_window(position: Value, start: Value, length: int, new: Value) -> bool:
    """Is `position` start - length + (0 .. T + length - 1)?"""
    parts = _operands(position, "add")
    if parts is None:
        return False
    first, count = parts
    base = _operands(first, "sub")
    iota = count.producer
    return (
        base is not None and base[0] is start and _constant(base[1]) == length and iota is not None and iota.op == "iota"
        and same_dim(count.type.shape[0], new.type.shape[0] + length)
    )  # fmt: skip


def is_own(positions: Value, start: Value, tokens: object) -> bool:
    """Is `positions` start + (0 .. T - 1), in one of the ways that the steps write it?"""
    parts = _operands(positions, "add")
    if parts is not None and parts[0] is start:
        iota = parts[1].producer
        return iota is not None and iota.op == "iota" and same_dim(parts[1].type.shape[0], tokens)
    node = positions.producer
    if node is None or node.op != "slice" or node.attrs["axis"] != 0:
        return False
    length = node.attrs["start"]
    window = _operands(node.inputs[0], "add")
    base = _operands(window[0], "sub") if window is not None else None
    return (
        base is not None and base[0] is start and _constant(base[1]) == length and same_dim(node.output.type.shape[0], tokens)
        and window is not None and window[1].producer is not None and window[1].producer.op == "iota"
    )  # fmt: skip


def ring_write(graph_users: dict[Value, list[Node]], ring: Value, new: Value, start: Value) -> Node | None:
    """The put_rows that writes `new` at its positions modulo the ring's length."""
    for user in graph_users.get(ring, []):
        if user.op == "put_rows" and user.inputs[0] is ring and user.inputs[2] is new:
            index = _operands(user.inputs[1], "remainder")
            if index is not None and _constant(index[1]) == ring.type.shape[0] and is_own(index[0], start, new.type.shape[0]):
                return user
    return None


def _convolution(node: Node, users: dict[Value, list[Node]]) -> tuple[list[Value], Node] | None:
    """(x, weight, start, ring) and the ring's write, where `node` is where(own >= k - 1, x + total, x)."""
    condition, summed, x = node.inputs
    pair = _operands(summed, "add")
    if pair is None or pair[0] is not x:
        return None
    taps = _taps(pair[1])
    found = [_tap(tap, j) for j, tap in enumerate(taps)]
    first = found[0] if found else None
    if first is None or any(f is None or f[0] is not first[0] or f[1] is not first[1] for f in found):
        return None
    rows, weight = first
    if weight.type.rank != 3 or weight.type.shape[2] != len(taps) or not is_parameter(weight):
        return None
    source = window_source(rows, len(taps) - 1)
    bound = _operands(_through(condition, "reshape"), "ge")
    if source is None or source[1] is not x or bound is None or _constant(bound[1]) != len(taps) - 1:
        return None
    ring, _, start = source
    if not is_own(bound[0], start, x.type.shape[0]):
        return None
    write = ring_write(users, ring, x, start)
    return ([x, weight, start, ring], write) if write is not None else None


def _fuse_convolutions(module: Module, graph: Graph) -> None:
    users = graph.users()
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _convolution(node, users) if node.op == "where" and node.output.type.rank == 2 else None
        if found is not None:
            operands, write = found
            fused = Builder(nodes, node.loc).multi(
                "mome_conv", *operands, slots=("x", "weight", "start", "ring"), results=("y", "new_ring")
            )
            replaced |= {node.output: fused[0], write.output: fused[1]}
            record_provenance(module, "fuse_layers", graph, nodes[-1], [node, write])
        nodes.append(node)
    graph.nodes = nodes
    graph.replace_uses(replaced)
    sort_nodes(graph)
    dead_code(graph)
