"""Exported models in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime

from pangu_compile.ir import DType, Graph, Module, Program, Role

NUMPY = {DType.f32: np.float32, DType.f64: np.float64, DType.i64: np.int64, DType.i32: np.int32, DType.bool_: np.bool_}


def module_of(graph: Graph) -> Module:
    """A module whose one program `main` is the graph: parameters are inputs, results are outputs out0, out1, .."""
    params = [Role("input", v.name) for v in graph.params]
    outputs = [Role("output", f"out{i}") for i in range(len(graph.outputs))]
    return Module(programs={"main": Program(graph, params, outputs, ("T", "S"))})


def open_session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model if isinstance(model, str) else model.SerializeToString(), options)


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


def run_model(model: onnx.ModelProto, graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Results of a checked model on arrays in the order of the graph's parameters, cast to the parameters' types."""
    session = open_session(checked(model))
    feeds = {v.name: np.asarray(a).astype(NUMPY[v.type.dtype]) for v, a in zip(graph.params, arrays, strict=True)}
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {n: a for n, a in feeds.items() if n in names})
