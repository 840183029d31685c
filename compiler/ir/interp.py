"""The numpy interpreter: what a graph means. Every pass and every backend is judged against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .graph import Graph, Module
from .opdef import opdef
from .types import IRError, TensorType, evaluate_dim


def check_shape(name: str, array: np.ndarray, expected: TensorType, env: Mapping[str, int]) -> None:
    shape = tuple(evaluate_dim(d, env) for d in expected.shape)
    if tuple(array.shape) != shape:
        raise IRError(f"{name}: shape {tuple(array.shape)}, expected {shape} ({expected})")


def run_graph(
    graph: Graph, arguments: Sequence[np.ndarray], env: Mapping[str, int], module: Module | None = None, wide: bool = False
) -> list[np.ndarray]:
    """Results of a graph. `env` gives the symbolic dimensions; arrays are checked against every inferred shape.

    Floats are computed in the dtype of the arguments: float64 arrays (or `wide`) make a float64 run of an f32 graph.
    """
    wide = wide or any(a.dtype == np.float64 and p.type.dtype.value == "f32" for a, p in zip(arguments, graph.params, strict=True))
    values = dict(zip(graph.params, arguments, strict=True))
    for param, array in values.items():
        check_shape(f"{graph.name}: %{param.name}", array, param.type, env)
    last = {v: i for i, node in enumerate(graph.nodes) for v in node.inputs}
    keep = set(graph.outputs)
    for position, node in enumerate(graph.nodes):
        operands = [values[v] for v in node.inputs]
        if node.op == "call":
            if module is None:
                raise IRError(f"{graph.name}: call without a module")
            inner = {**env, **{name: evaluate_dim(d, env) for name, d in node.dims.items()}}
            results = run_graph(module.functions[node.attrs["function"]], operands, inner, module, wide)
        else:
            # A wide run rounds nowhere: constants and casts that are f32 in the graph stay float64.
            attrs = {**node.attrs, "dtype": "f64"} if wide and node.attrs.get("dtype") == "f32" else node.attrs
            results = opdef(node.op).evaluate(operands, attrs, env)
        for value, array in zip(node.outputs, results, strict=True):
            check_shape(f"{graph.name}: {node!r}", array, value.type, env)
            if wide and array.dtype == np.float32:
                array = array.astype(np.float64)
            values[value] = array
        for v in set(node.inputs):
            if last[v] == position and v not in keep and v.producer is not None:
                del values[v]
    return [values[v] for v in graph.outputs]
