"""Small ONNX models made by hand: nodes, inputs, outputs, weights, and inputs to call them with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F, I64 = TensorProto.FLOAT, TensorProto.INT64
Arrays = dict[str, np.ndarray]


def make_model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any]]], outputs: list[str], weights: Arrays | None = None,
    opset: int = 18, functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """A checked model; result types are left to inference."""
    infos = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    initializers = [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "net", infos, results, initializers)
    domains = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("own", 1)] if functions else [])
    return helper.make_model(graph, opset_imports=domains, ir_version=8, functions=functions or [])


def rnd(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


N = helper.make_node
Case = tuple[list[onnx.NodeProto], dict[str, tuple[int, list[Any]]], list[str], Arrays, list[Arrays]]
X = {"x": (F, ["N", 6])}
CALLS = [{"x": rnd(5, 6)}, {"x": rnd(1, 6)}]


def vector(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


CASES: dict[str, Case] = {
    "mlp": (
        [N("Gemm", ["x", "w", "b"], ["h"], transB=1), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "v"], ["y"])],
        X,
        ["y"],
        {"w": rnd(9, 6), "b": rnd(9), "v": rnd(9, 4)},
        CALLS,
    ),
    "gemm_scaled": (
        [N("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)],
        X,
        ["y"],
        {"w": rnd(6, 3), "b": rnd(1, 3)},
        CALLS,
    ),
    "layer_norm_softmax": (
        [N("LayerNormalization", ["x", "g", "b"], ["h"], epsilon=1e-6), N("Softmax", ["h"], ["y"])],
        X,
        ["y"],
        {"g": rnd(6), "b": rnd(6, seed=1)},
        CALLS,
    ),
    "softmax_and_running_sums": (
        [N("Softmax", ["x"], ["y"], axis=0), N("LogSoftmax", ["x"], ["z"], axis=1), N("CumSum", ["x", "one"], ["s"]),
         N("CumSum", ["x", "zero"], ["t"])],
        X,
        ["y", "z", "s", "t"],
        {"one": np.asarray(1), "zero": np.asarray(0)},
        CALLS,
    ),
    "gelu_by_hand": (
        [
            N("Div", ["x", "s"], ["a"]),
            N("Erf", ["a"], ["e"]),
            N("Add", ["e", "one"], ["p"]),
            N("Mul", ["x", "p"], ["q"]),
            N("Mul", ["q", "half"], ["y"]),
        ],
        X,
        ["y"],
        {"s": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)},
        CALLS,
    ),
    "heads": (
        [
            N("Reshape", ["x", "to"], ["h"]),
            N("Transpose", ["h"], ["t"], perm=[1, 0, 2]),
            N("Transpose", ["h"], ["u"], perm=[1, 2, 0]),
            N("MatMul", ["t", "u"], ["s"]),
            N("Softmax", ["s"], ["p"]),
            N("MatMul", ["p", "t"], ["o"]),
            N("Transpose", ["o"], ["b"], perm=[1, 0, 2]),
            N("Reshape", ["b", "back"], ["y"]),
        ],
        X,
        ["y"],
        {"to": vector(-1, 2, 3), "back": vector(0, 6)},
        CALLS,
    ),
    "sizes": (
        [
            N("Shape", ["x"], ["s"]),
            N("Gather", ["s", "zero"], ["n"]),
            N("Unsqueeze", ["n", "axis"], ["n1"]),
            N("Mul", ["n1", "two"], ["m"]),
            N("Concat", ["m", "three"], ["to"], axis=0),
            N("Reshape", ["x", "to"], ["h"]),
            N("Range", ["zero", "n", "step"], ["r"]),
            N("Cast", ["r"], ["rf"], to=F),
            N("Unsqueeze", ["rf", "one"], ["rc"]),
            N("Add", ["x", "rc"], ["y"]),
            N("Mul", ["n", "step"], ["count"]),
        ],
        X,
        ["h", "y", "count"],
        {"zero": np.int64(0), "axis": vector(0), "two": vector(2), "three": vector(3), "step": np.int64(1), "one": vector(1)},
        CALLS,
    ),
    "slices": (
        [
            N("Slice", ["x", "s", "e", "a"], ["h"]),
            N("Slice", ["x", "m1", "far", "a"], ["t"]),
            N("Concat", ["h", "t"], ["y"], axis=1),
            N("Slice", ["x", "m1", "back", "a", "down"], ["z"]),
        ],
        X,
        ["y", "z"],
        {
            "s": vector(1),
            "e": vector(-1),
            "a": vector(1),
            "m1": vector(-1),
            "far": vector(2**63 - 1),
            "back": vector(-(2**63)),
            "down": vector(-2),
        },
        CALLS,
    ),
    "split": (
        [
            N("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3),
            N("Split", ["x", "p"], ["d", "e"], axis=1),
            N("Mul", ["a", "c"], ["m"]),
            N("Concat", ["m", "b", "e", "d"], ["y"], axis=1),
        ],
        X,
        ["y"],
        {"p": vector(4, 2)},
        CALLS,
    ),
    "reductions": (
        [
            N("ReduceMean", ["x", "last"], ["a"]),
            N("ReduceSum", ["x", "last"], ["b"], keepdims=0),
            N("ReduceMax", ["x"], ["c"], keepdims=0),
            N("ReduceMin", ["x", "last"], ["d"]),
            N("ReduceL2", ["x", "last"], ["e"]),
            N("ReduceMean", ["x"], ["f"], keepdims=0),
        ],
        X,
        list("abcdef"),
        {"last": vector(-1)},
        CALLS,
    ),
    "selection": (
        [
            N("TopK", ["x", "k"], ["v", "i"]),
            N("TopK", ["x", "k"], ["w", "j"], largest=0),
            N("ArgMax", ["x"], ["m"], axis=1),
            N("ArgMax", ["x"], ["n"], axis=0, keepdims=0),
            N("ArgMin", ["x"], ["o"], axis=1, keepdims=0),
            N("GatherElements", ["x", "i"], ["g"], axis=1),
        ],
        X,
        list("viwjmnog"),
        {"k": vector(3)},
        [{"x": np.round(rnd(5, 6) * 2)}, {"x": np.round(rnd(4, 6))}],
    ),
    "embedding": (
        [N("Gather", ["w", "i"], ["e"]), N("Gather", ["e", "two"], ["c"], axis=2), N("Gather", ["e", "last"], ["l"], axis=1)],
        {"i": (I64, ["N", 3])},
        ["e", "c", "l"],
        {"w": rnd(8, 4), "two": vector(2, 0, -1), "last": np.int64(-1)},
        [{"i": np.asarray([[0, 7, 3], [1, 1, -1]], np.int64)}],
    ),
    "masks": (
        [
            N("Less", ["x", "z"], ["a"]),
            N("GreaterOrEqual", ["x", "one"], ["b"]),
            N("Or", ["a", "b"], ["c"]),
            N("Not", ["c"], ["d"]),
            N("Xor", ["a", "d"], ["e"]),
            N("Where", ["e", "x", "z"], ["y"]),
            N("Clip", ["x", "z", "one"], ["q"]),
            N("Equal", ["y", "q"], ["f"]),
            N("Cast", ["f"], ["g"], to=I64),
        ],
        X,
        ["y", "q", "g"],
        {"z": np.float32(0), "one": np.float32(1)},
        CALLS,
    ),
    "activations": (
        [
            N(op, ["x"], [op], **a)
            for op, a in (
                ("Sigmoid", {}),
                ("Tanh", {}),
                ("LeakyRelu", {"alpha": 0.1}),
                ("Elu", {}),
                ("HardSigmoid", {}),
                ("HardSwish", {}),
                ("Softplus", {}),
                ("Ceil", {}),
                ("Mish", {}),
                ("Abs", {}),
                ("Exp", {}),
            )
        ],
        X,
        ["Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "HardSwish", "Softplus", "Ceil", "Mish", "Abs", "Exp"],
        {},
        CALLS,
    ),
    "integers": (
        [
            N("Div", ["i", "d"], ["a"]),
            N("Mod", ["i", "d"], ["b"]),
            N("Mul", ["a", "d"], ["c"]),
            N("Sub", ["i", "c"], ["e"]),
            N("Max", ["e", "b", "a"], ["m"]),
        ],
        {"i": (I64, ["N"])},
        ["a", "b", "e", "m"],
        {"d": vector(3)},
        [{"i": vector(-7, -6, -1, 0, 1, 5, 8)}],
    ),
    "expand_tile": (
        [
            N("Expand", ["x", "to"], ["y"]),
            N("Tile", ["x", "rep"], ["z"]),
            N("Trilu", ["x", "k"], ["t"], upper=0),
            N("Flatten", ["y"], ["f"], axis=2),
        ],
        X,
        ["y", "z", "t", "f"],
        {"to": vector(3, 1, 6), "rep": vector(2, 3), "k": np.int64(1)},
        CALLS,
    ),
    "gather_nd": (
        [N("GatherND", ["w", "i"], ["y"]), N("GatherND", ["w", "j"], ["z"])],
        {"i": (I64, ["N", 1]), "j": (I64, ["N", 2, 2])},
        ["y", "z"],
        {"w": rnd(4, 5, 3)},
        [{"i": np.asarray([[3], [-1]], np.int64), "j": np.asarray([[[0, 4], [-1, 1]], [[2, -2], [1, 1]]], np.int64)}],
    ),
    "scatter": (
        [N("ScatterND", ["w", "i", "x"], ["y"])],
        {"x": (F, ["N", 6]), "i": (I64, ["N", 1])},
        ["y"],
        {"w": rnd(9, 6)},
        [{"x": rnd(3, 6), "i": np.asarray([[2], [-1], [0]], np.int64)}],
    ),
    "one_hot_cumsum": (
        [N("OneHot", ["i", "depth", "v"], ["h"]), N("CumSum", ["x", "axis"], ["y"])],
        {"i": (I64, ["N"]), "x": (F, ["N", 6])},
        ["h", "y"],
        {"depth": vector(5), "v": np.asarray([0.5, 2], np.float32), "axis": np.int64(1)},
        [{"i": vector(0, 4, -1), "x": rnd(3, 6)}],
    ),
    "batch_norm": (
        [N("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        X,
        ["y"],
        {"s": rnd(6), "b": rnd(6, seed=1), "m": rnd(6, seed=2), "v": np.abs(rnd(6, seed=3)) + 0.5},
        CALLS,
    ),
    "einsum": (
        [N("Einsum", ["a", "b"], ["y"], equation="tnh,tmh->ntm"), N("Einsum", ["a", "w"], ["z"], equation="tnh,oh->tno")],
        {"a": (F, ["N", 2, 3]), "b": (F, ["N", 4, 3])},
        ["y", "z"],
        {"w": rnd(5, 3)},
        [{"a": rnd(3, 2, 3), "b": rnd(3, 4, 3)}],
    ),
    "vectors": (
        [N("MatMul", ["x", "v"], ["a"]), N("MatMul", ["u", "x"], ["b"]), N("MatMul", ["x", "w3"], ["c"])],
        {"x": (F, [4, 6])},
        ["a", "b", "c"],
        {"v": rnd(6), "u": rnd(4), "w3": rnd(2, 6, 3)},
        [{"x": rnd(4, 6)}],
    ),
    "powers": (
        [
            N("Pow", ["x", "two"], ["a"]),
            N("Abs", ["x"], ["p"]),
            N("Pow", ["p", "h"], ["b"]),
            N("Sqrt", ["p"], ["c"]),
            N("Sum", ["a", "b", "c"], ["s"]),
            N("Mean", ["a", "b"], ["m"]),
        ],
        X,
        ["b", "s", "m"],
        {"two": np.float32(2), "h": np.float32(1.5)},
        CALLS,
    ),
}
