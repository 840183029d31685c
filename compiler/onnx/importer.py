"""ONNX file -> IR module: one program `forward`, inputs and outputs by their ONNX names, weights read on demand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, inliner, numpy_helper

from pangu_compile.ir import Graph, IRError, Module, Program, Role, TensorType, Value, symbol, verify_module
from pangu_compile.ir.text import parse_dim

from . import known, rules_compute, rules_pointwise, rules_shape
from .dtypes import from_onnx
from .operands import KNOWN_RULES, RULES, Importing, Operand

OLDEST_OPSET = 13
PROGRAM = "forward"
assert known and rules_compute and rules_pointwise and rules_shape  # imported for the rules that they register


@dataclass(frozen=True)
class Imported:
    """The module and the arrays of its weights."""

    module: Module
    arrays: dict[str, np.ndarray]

    def read(self, name: str) -> np.ndarray:
        """A weight's values; bf16 as float32."""
        array = self.arrays[name]
        return array.astype(np.float32) if str(array.dtype) == "bfloat16" else array


def covered() -> list[str]:
    """ONNX operators that can be imported."""
    return sorted({*RULES, *KNOWN_RULES})


def import_onnx(model: str | Path | ModelProto) -> Module:
    """The IR module of an ONNX file: symbols from its dim_params, local functions inlined.

    Raises:
        IRError: not an ONNX model, an opset before 13, or an operator that is not covered (named).
    """
    return load_onnx(model).module


def load_onnx(model: str | Path | ModelProto) -> Imported:
    """As `import_onnx`, with the weights' arrays. Weights in a data file are mapped, not read."""
    folder = None
    if not isinstance(model, ModelProto):
        folder = Path(model).parent
        model = _read(Path(model))
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise IRError(f"the model uses opset {opset}; at least {OLDEST_OPSET} is needed: onnx.version_converter converts it")
    if model.functions:
        model = inliner.inline_local_functions(model)
    return _Importer(model.graph, opset, folder).run()


def _read(path: Path) -> ModelProto:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise IRError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise IRError(f"{path}: is not an ONNX model") from error
    if not model.HasField("graph"):
        raise IRError(f"{path}: is not an ONNX model")
    return model


def array_of(tensor: TensorProto, folder: Path | None = None) -> np.ndarray:
    """Values of a tensor; float16 becomes float32, external data is mapped. IRError where there are none."""
    from_onnx(tensor.data_type, f"tensor {tensor.name}")
    array = _mapped(tensor, folder) if tensor.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(tensor)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _mapped(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    where = {entry.key: entry.value for entry in tensor.external_data}
    location = Path(where.get("location", ""))
    if folder is None or location.is_absolute() or ".." in location.parts:
        raise IRError(f"tensor {tensor.name}: data file {location} is not beside the model")
    numpy_type = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape, offset = tuple(tensor.dims), int(where.get("offset", "0"))
    try:
        return np.memmap(folder / location, numpy_type, "r", offset, shape) if np.prod(shape) else np.zeros(shape, numpy_type)
    except (OSError, ValueError) as error:
        raise IRError(f"tensor {tensor.name}: its data in {folder / location} cannot be read: {error}") from error


class _Importer:
    def __init__(self, proto: GraphProto, opset: int, folder: Path | None):
        self.proto, self.folder = proto, folder
        self.state = Importing(Graph(PROGRAM), opset)

    def run(self) -> Imported:
        state = self.state
        for tensor in self.proto.initializer:
            state.operands[tensor.name] = state.arrays[tensor.name] = array_of(tensor, self.folder)
        if self.proto.sparse_initializer:
            raise IRError(f"sparse tensor {self.proto.sparse_initializer[0].values.name} is not covered")
        inputs = [self._input(info) for info in self.proto.input if info.name not in state.operands]
        state.graph.params += inputs
        for node in self.proto.node:
            state.run(node)
        outputs = [self._output(info.name) for info in self.proto.output]
        state.graph.outputs = outputs
        return self._finish([Role("input", info.name) for info in self.proto.input if info.name not in state.arrays])

    def _input(self, info: ValueInfoProto) -> Value:
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise IRError(f"input {info.name}: only tensors of known rank are covered")
        dims = [_dim(d, f"{_plain(info.name)}_{i}") for i, d in enumerate(tensor.shape.dim)]
        value = Value(_plain(info.name), TensorType(from_onnx(tensor.elem_type, f"input {info.name}"), tuple(dims)))
        self.state.operands[info.name] = value
        return value

    def _output(self, name: str) -> Value:
        if name not in self.state.operands:
            raise IRError(f"output {name} is not computed by the model")
        operand: Operand = self.state.operands[name]
        self.state.build.loc = name
        return self.state.value(operand)

    def _finish(self, inputs: Sequence[Role]) -> Imported:
        state = self.state
        roles = [*inputs, *(Role("weight", name) for name in state.params)]
        outputs = [Role("output", info.name) for info in self.proto.output]
        _distinct(state.graph.params)
        state.graph.rename()
        dims = {s.name for v in state.graph.params for d in v.type.shape if not isinstance(d, int) for s in d.free_symbols}
        program = Program(state.graph, roles, outputs, tuple(sorted(dims)))
        weights = {name: v.type for name, v in state.params.items()}
        module = Module(programs={PROGRAM: program}, weights=weights, info={"role": "module"})
        verify_module(module)
        return Imported(module, {name: state.arrays[name] for name in weights})


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _distinct(params: Sequence[Value]) -> None:
    """Names that became equal when their dots were replaced get a number."""
    taken: set[str] = set()
    for i, v in enumerate(params):
        v.name = f"{v.name}_{i}" if v.name in taken else v.name
        taken.add(v.name)


def _dim(proto: Any, unnamed: str) -> Any:
    """A size: a number, a symbol, or a sum and product of those as our own export writes them."""
    if proto.HasField("dim_value"):
        return int(proto.dim_value)
    name = proto.dim_param or unnamed
    if re.fullmatch(r"[\w\s+*-]+", name) and re.search(r"[+*-]", name):
        return parse_dim(name)
    return symbol(_plain(name))
