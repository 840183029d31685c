"""What kind of value an expression of generated code is: Tensor, int, float, bool, str, None, list[..], tuple[..]."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

Kind = str
INT_METHODS = {"dim", "numel", "item", "size"}
INT_CALLS = {"int", "len"}
SAME_CALLS = {"min", "max"}


def split_kinds(kind: Kind) -> list[Kind]:
    """The parts of `tuple[a, b]`; nested brackets stay whole."""
    inner, parts, depth, start = kind[kind.index("[") + 1 : -1], [], 0, 0
    for i, c in enumerate(inner):
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            parts.append(inner[start:i].strip())
            start = i + 1
    return [*parts, inner[start:].strip()]


@dataclass
class Env:
    """Kinds of the names of one function, and of what its calls return."""

    names: dict[str, Kind] = field(default_factory=dict)
    results: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def of_function(cls, function: ast.FunctionDef, results: Mapping[str, Kind]) -> Env:
        """Annotated parameters, then every assignment in order; a name with two kinds has none."""
        env = cls({}, results)
        for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
            if a.annotation is not None:
                env.names[a.arg] = ast.unparse(a.annotation)
        assignments = [n for n in ast.walk(function) if isinstance(n, ast.Assign)]
        for node in sorted(assignments, key=lambda n: n.lineno):
            for target in node.targets:
                env.bind(target, kind_of(node.value, env))
        return env

    def bind(self, target: ast.expr, kind: Kind | None) -> None:
        if isinstance(target, ast.Name):
            known = self.names.get(target.id)
            if kind in (None, "?") or (known is not None and known != kind):
                self.names[target.id] = "?"
            else:
                self.names[target.id] = str(kind)
        elif isinstance(target, ast.Tuple):
            parts = split_kinds(kind) if kind is not None and kind.startswith("tuple[") else []
            for i, item in enumerate(target.elts):
                self.bind(item, parts[i] if len(parts) == len(target.elts) else None)


def _constant(value: object) -> Kind | None:
    if value is None:
        return "None"
    for type_ in (bool, int, float, str):
        if isinstance(value, type_):
            return type_.__name__
    return None


def _of_call(node: ast.Call, env: Env) -> Kind | None:
    name = ast.unparse(node.func)
    if name in env.results:
        return env.results[name]
    if name in INT_CALLS:
        return "int"
    if name in SAME_CALLS:
        kinds = {kind_of(a, env) for a in node.args}
        return kinds.pop() if len(kinds) == 1 else None
    if name.startswith(("torch.", "F.")):
        return "Tensor"
    if isinstance(node.func, ast.Attribute) and kind_of(node.func.value, env) == "Tensor":
        return "int" if node.func.attr in INT_METHODS else "Tensor"
    return None


def _of_subscript(node: ast.Subscript, env: Env) -> Kind | None:
    if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
        return "int"
    kind = kind_of(node.value, env)
    if kind in ("Tensor", "Weights", "States"):
        return "Tensor"
    if kind is not None and kind.startswith("list["):
        return kind[len("list[") : -1]
    if kind is not None and kind.startswith("tuple[") and isinstance(node.slice, ast.Constant):
        parts = split_kinds(kind)
        return parts[node.slice.value] if isinstance(node.slice.value, int) and node.slice.value < len(parts) else None
    return None


def _of_operation(parts: list[ast.expr], env: Env) -> Kind | None:
    kinds = {kind_of(part, env) for part in parts}
    if "Tensor" in kinds:
        return "Tensor" if kinds <= {"Tensor", "int", "float"} else None
    if kinds == {"int"}:
        return "int"
    return "float" if kinds <= {"int", "float"} else None


def kind_of(node: ast.expr, env: Env) -> Kind | None:
    """The kind, or None where it cannot be told."""
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    if isinstance(node, ast.Name):
        kind = env.names.get(node.id)
        return None if kind == "?" else kind
    if isinstance(node, ast.Call):
        return _of_call(node, env)
    if isinstance(node, ast.Subscript):
        return _of_subscript(node, env)
    if isinstance(node, ast.List):
        kinds = {kind_of(item, env) or "?" for item in node.elts}
        return "list[]" if not kinds else f"list[{kinds.pop()}]" if len(kinds) == 1 else None
    if isinstance(node, ast.Tuple):
        return f"tuple[{', '.join(kind_of(item, env) or '?' for item in node.elts)}]"
    if isinstance(node, ast.BinOp):
        return _of_operation([node.left, node.right], env)
    if isinstance(node, ast.UnaryOp):
        return kind_of(node.operand, env)
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT") and kind_of(node.value, env) == "Tensor":
        return "Tensor"
    return None
