"""Element types: IR <-> ONNX."""

from __future__ import annotations

from onnx import TensorProto

from pangu_compile.ir import DType, IRError

# Packed formats are our own: in ONNX such a weight is held as float32, as the interpreter holds it.
TO_ONNX: dict[DType, int] = {
    DType.f32: TensorProto.FLOAT, DType.f64: TensorProto.DOUBLE, DType.i64: TensorProto.INT64, DType.i32: TensorProto.INT32,
    DType.bool_: TensorProto.BOOL, DType.bf16: TensorProto.BFLOAT16, DType.q8: TensorProto.FLOAT, DType.q4: TensorProto.FLOAT,
    DType.w8a8: TensorProto.FLOAT, DType.w8a24: TensorProto.FLOAT, DType.bf16c: TensorProto.FLOAT, DType.q8i: TensorProto.FLOAT,
}  # fmt: skip
FROM_ONNX: dict[int, DType] = {
    TensorProto.FLOAT: DType.f32, TensorProto.DOUBLE: DType.f64, TensorProto.INT64: DType.i64, TensorProto.INT32: DType.i32,
    TensorProto.BOOL: DType.bool_, TensorProto.BFLOAT16: DType.bf16, TensorProto.FLOAT16: DType.f32,
}  # fmt: skip


def from_onnx(code: int, what: str) -> DType:
    """DType of an ONNX element type (float16 is read as float32). IRError naming `what` where it has none."""
    if code not in FROM_ONNX:
        raise IRError(f"{what}: ONNX element type {TensorProto.DataType.Name(code)} is not covered")
    return FROM_ONNX[code]
