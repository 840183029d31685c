"""Weights of an exported model: inside the file, in a data file beside it, or left to the caller as inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from onnx import TensorProto, numpy_helper

from pangu_compile.ir import DType, IRError, Module, TensorType, run_graph

from .dtypes import TO_ONNX

ReadWeight = Callable[[str], np.ndarray]
ALIGNMENT = 4096
LARGE = 1_500_000_000  # bytes of weights from which on they go to a data file (a protobuf message holds 2 GB at most)


def with_folded(module: Module, read: ReadWeight) -> ReadWeight:
    """A reader that also gives the module's folded weights, computed (in float64) from the parameters that `read` gives."""

    def final(name: str) -> np.ndarray:
        folded = module.folded.get(name)
        if folded is None:
            return read(name)
        sources = [np.asarray(read(source), np.float64) for source in folded.sources]
        return run_graph(folded.graph, sources, {})[0]

    return final


class Initializers:
    """Makes initializers one at a time. With a data file, an array is written there at once and not kept."""

    def __init__(self, data: Path | None = None):
        self.tensors: list[TensorProto] = []
        self._path = data
        self._stream = data.open("wb") if data is not None else None

    def __enter__(self) -> Initializers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, name: str, type_: TensorType, array: np.ndarray) -> None:
        """IRError where the array has another shape than the type says."""
        if tuple(array.shape) != tuple(type_.shape):
            raise IRError(f"weight {name}: shape {tuple(array.shape)}, expected {type_}")
        raw = encode(array, type_.dtype)
        tensor = TensorProto(name=name, data_type=TO_ONNX[type_.dtype], dims=list(array.shape))
        if self._stream is None or self._path is None or len(raw) < ALIGNMENT:
            tensor.raw_data = raw
        else:
            self._stream.write(bytes(-self._stream.tell() % ALIGNMENT))
            tensor.data_location = TensorProto.EXTERNAL
            where = {"location": self._path.name, "offset": self._stream.tell(), "length": len(raw)}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
            self._stream.write(raw)
        self.tensors.append(tensor)


def encode(array: np.ndarray, dtype: DType) -> bytes:
    """Little-endian bytes; bf16 is rounded to nearest even."""
    values = np.ascontiguousarray(array, dtype.numpy)
    if dtype is DType.bf16:
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return bytes(numpy_helper.from_array(values).raw_data)
