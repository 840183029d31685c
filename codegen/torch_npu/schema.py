"""Checks the calls of operators of namespace `npu` in Python source against the committed schemas, without running anything.

Every call written `torch.ops.npu.NAME(...)` must name an operator that has a schema and exists on the chip, and its arguments
must fit: arity, names, keyword-only ones by keyword, required ones present, types. Types come from what the source says
(annotations, literals, results of torch); an argument whose type cannot be told is an error too.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .availability import TABLE, exists
from .kinds import Env, Kind, kind_of

SCHEMAS = Path(__file__).parent / "support" / "npu_schemas.json"


class CallError(Exception):
    """A call that its schema, or the chip, does not allow; the message names the call and its line."""


@dataclass(frozen=True)
class Call:
    """A checked call: operator, line, function that it stands in."""

    operator: str
    line: int
    function: str


@lru_cache(maxsize=1)
def schemas() -> Mapping[str, Any]:
    """Operator name -> torch's parsed FunctionSchema."""
    table = json.loads(SCHEMAS.read_text(encoding="utf-8"))["schemas"]
    return {name: torch._C.parse_schema(f"npu::{text}") for name, text in table.items()}


def _fits(kind: Kind, wanted: str) -> bool:
    """Does a value of that kind convert to the schema's type?"""
    if wanted.startswith("Optional["):
        return kind == "None" or _fits(kind, wanted[len("Optional[") : -1])
    if wanted.startswith("List["):
        inner = wanted[len("List[") : -1]
        return kind == "list[]" or (kind.startswith("list[") and _fits(kind[len("list[") : -1], inner))
    return kind == {"number": "int", "SymInt": "int"}.get(wanted, wanted) or (wanted == "float" and kind == "int")


def _operator(node: ast.AST) -> str | None:
    """NAME of `torch.ops.npu.NAME`, else None."""
    return node.attr if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torch.ops.npu" else None


def _check_call(node: ast.Call, name: str, env: Env, chip: str, where: str) -> None:
    if name not in schemas():
        raise CallError(f"{where}: torch.ops.npu.{name} is no operator that is known here (see npu_schemas.json)")
    if not exists(name, chip):
        has = ", ".join(TABLE[name].chips) if name in TABLE else "no chip"
        raise CallError(f"{where}: torch.ops.npu.{name} does not exist on {chip} (it does on: {has})")
    arguments = list(schemas()[name].arguments)
    positional = [a for a in arguments if not a.kwarg_only]
    if len(node.args) > len(positional):
        raise CallError(f"{where}: {name} takes {len(positional)} positional arguments, got {len(node.args)}")
    given = {positional[i].name: value for i, value in enumerate(node.args)}
    known = {a.name: a for a in arguments}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg not in known:
            raise CallError(f"{where}: {name} has no argument {keyword.arg!r}")
        if keyword.arg in given:
            raise CallError(f"{where}: {name} gets argument {keyword.arg!r} twice")
        given[keyword.arg] = keyword.value
    for a in arguments:
        if a.name not in given:
            if not a.has_default_value():
                raise CallError(f"{where}: {name} lacks its argument {a.name!r}")
            continue
        kind = kind_of(given[a.name], env)
        if kind is None:
            raise CallError(f"{where}: the type of {ast.unparse(given[a.name])!r}, {name}'s argument {a.name!r}, cannot be told")
        if not _fits(kind, str(a.type)):
            raise CallError(f"{where}: {name}'s argument {a.name!r} is {a.type}, got {kind} ({ast.unparse(given[a.name])})")


def result_kind(name: str) -> Kind:
    """Kind of what an operator returns."""
    returns = [str(r.type) for r in schemas()[name].returns]
    kinds = ["list[Tensor]" if r == "List[Tensor]" else r for r in returns]
    return kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"


def annotated_results(tree: ast.Module) -> Iterator[tuple[str, Kind]]:
    """Functions of a file and the kinds that their annotations promise (an optional result has none)."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.returns is not None and "None" not in ast.unparse(node.returns):
            yield node.name, ast.unparse(node.returns)


def check_source(source: str, chip: str, helpers: Mapping[str, Kind] | None = None, file: str = "model.py") -> list[Call]:
    """Check every call of `torch.ops.npu` in `source` and return them in order.

    Args:
        helpers: dotted name of a function that the source calls -> kind of its result (else its calls have no type).
    Raises:
        CallError: the first call that does not fit.
    """
    calls: list[Call] = []
    tree = ast.parse(source)
    results = {**dict(annotated_results(tree)), **(helpers or {}), **{f"torch.ops.npu.{n}": result_kind(n) for n in schemas()}}
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        env = Env.of_function(function, results)
        for node in ast.walk(function):
            name = _operator(node.func) if isinstance(node, ast.Call) else None
            if isinstance(node, ast.Call) and name is not None:
                _check_call(node, name, env, chip, f"{file}:{node.lineno} in {function.name}")
                calls.append(Call(name, node.lineno, function.name))
    if sum(_operator(n) is not None for n in ast.walk(tree)) != len(calls):
        raise CallError(f"{file}: torch.ops.npu is used outside of a function, or not as a call: that is not checked")
    return calls
