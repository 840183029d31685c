"""Kept traces: a configuration is traced once for each version of torch and of our own sources.

Tracing takes most of the time of a small model's build, and the next build of the same model, in another weight format or for
another target, begins with the same module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangu_compile.ir import Graph, Module, Node, TensorType, Value

from .cache import read_entry, write_entry

if TYPE_CHECKING:
    from pangu_compile.models.config import OpenPanguConfig

KIND = "traces"
# What decides a trace, beside the packages that trace_key names.
SOURCES = ("pangu_compile.models", "pangu_compile.trace", "pangu_compile.ir")
Flat = tuple[str, list[tuple[str, TensorType]], list[tuple[Any, ...]], list[int]]


def trace_key(config: OpenPanguConfig, mtp: bool, steps: Sequence[str]) -> str | None:
    """Name of an entry; None where something that decides the trace cannot be read."""
    try:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "sympy", "numpy")]
        parts = [sys.version, *versions, str(mtp), *steps, json.dumps(dataclasses.asdict(config), sort_keys=True)]
        digest = hashlib.sha256("\0".join(parts).encode())
        for package in SOURCES:
            spec = importlib.util.find_spec(package)
            for folder in sorted(spec.submodule_search_locations or ()) if spec is not None else ():
                for file in sorted(Path(folder).rglob("*.py")):
                    data = file.read_bytes()
                    digest.update(f"\0{package} {file.relative_to(folder).as_posix()} {len(data)}\0".encode() + data)
    except (OSError, TypeError, importlib.metadata.PackageNotFoundError):
        return None
    return digest.hexdigest()[:40]


def kept_trace(key: str) -> Module | None:
    """The module that was kept under this name; None where there is none."""
    data = read_entry(KIND, key)
    if data is None:
        return None
    module: Module
    module, functions, graphs = pickle.loads(data)
    module.functions = {name: _graph(flat) for name, flat in functions.items()}
    for name, flat in graphs.items():
        module.programs[name].graph = _graph(flat)
    return module


def keep_trace(key: str, module: Module) -> None:
    """Keep a module as it was traced, before any pass has changed it."""
    functions = {name: _flat(graph) for name, graph in module.functions.items()}
    graphs = {name: _flat(program.graph) for name, program in module.programs.items()}
    programs = {name: dataclasses.replace(program, graph=Graph("")) for name, program in module.programs.items()}
    rest = dataclasses.replace(module, functions={}, programs=programs)
    write_entry(KIND, key, pickle.dumps((rest, functions, graphs)))


def _flat(graph: Graph) -> Flat:
    """A graph without references from one object to the next: their chains are too long for pickle."""
    number = {v: i for i, v in enumerate(graph.values())}
    nodes = [
        (n.op, [number[v] for v in n.inputs], n.attrs, n.loc, [(v.name, v.type) for v in n.outputs]) for n in graph.nodes
    ]
    return graph.name, [(v.name, v.type) for v in graph.params], nodes, [number[v] for v in graph.outputs]


def _graph(flat: Flat) -> Graph:
    name, params, nodes, outputs = flat
    graph = Graph(name)
    graph.params = [Value(*param) for param in params]
    values = list(graph.params)
    for op, inputs, attrs, loc, results in nodes:
        node = Node(op, [values[i] for i in inputs], attrs, loc)
        node.outputs = [Value(own, kind, node, i) for i, (own, kind) in enumerate(results)]
        values += node.outputs
        graph.nodes.append(node)
    graph.outputs = [values[i] for i in outputs]
    return graph
