"""ONNX import: hand-made models and torch exports against onnxruntime, what is refused, and the round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pangu_compile.ir import IRError, Module, run_graph
from pangu_compile.onnx import covered, import_onnx, load_onnx
from pangu_compile.passes import run_passes

from .hand_made import CALLS, CASES, I64, Arrays, F, N, X, make_model, rnd, vector
from .running import open_session

TOLERANCE = 2e-5


def expected_of(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    return open_session(model).run(None, feeds)


def sizes_of(module: Module, feeds: Arrays) -> dict[str, int]:
    """The symbols' values, from the inputs' shapes."""
    program = module.programs["forward"]
    env = {}
    for role, param in zip(program.params, program.graph.params, strict=True):
        if role.kind == "input":
            for d, size in zip(param.type.shape, feeds[role.key].shape, strict=True):
                if not isinstance(d, int) and d.is_Symbol:
                    env[d.name] = size
    return env


def interpret(imported: Any, feeds: Arrays, passes: bool) -> list[np.ndarray]:
    module = imported.module
    if passes:
        run_passes(module, validate=True)
    program = module.programs["forward"]
    arguments = []
    for role in program.params:
        if role.key in module.folded:
            folded = module.folded[role.key]
            arguments.append(run_graph(folded.graph, [imported.read(s) for s in folded.sources], {})[0])
        else:
            arguments.append(feeds[role.key] if role.kind == "input" else imported.read(role.key))
    return run_graph(program.graph, arguments, sizes_of(module, feeds), module)


def check(model: onnx.ModelProto, *calls: Arrays) -> None:
    """The interpreter on the import, before and after the passes, against onnxruntime."""
    for passes in (False, True):
        for feeds in calls:
            for got, want in zip(interpret(load_onnx(model), feeds, passes), expected_of(model, feeds), strict=True):
                assert got.shape == want.shape
                if want.dtype.kind == "f":
                    scale = max(float(np.abs(want).max(initial=0.0)), 1e-6)
                    assert float(np.abs(got - want).max(initial=0.0)) <= TOLERANCE * scale
                else:
                    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", CASES)
def test_hand_made_model(name: str) -> None:
    nodes, inputs, outputs, weights, calls = CASES[name]
    check(make_model(nodes, inputs, outputs, weights), *calls)


def test_every_covered_operator_is_tested() -> None:
    tested = {node.op_type for nodes, *_ in CASES.values() for node in nodes}
    tested |= {"Add", "Min", "Reciprocal", "Log", "Sin", "Cos", "Round", "Floor", "Neg", "And", "LessOrEqual", "Greater"}
    tested |= {"ConstantOfShape", "Constant", "Identity", "Size", "Squeeze", "ReduceProd", "ReduceL1", "ReduceSumSquare",
               "CastLike", "RMSNormalization", "SimplifiedLayerNormalization", "Swish", "Gelu", "Dropout"}  # fmt: skip
    assert set(covered()) == tested


def test_the_rest_of_the_operators() -> None:
    ops = ["Reciprocal", "Sin", "Cos", "Round", "Floor", "Neg"]
    nodes = [N(op, ["p" if op == "Log" else "x"], [op]) for op in ops]
    nodes += [N("Exp", ["x"], ["p"]), N("Log", ["p"], ["Log"]), N("Min", ["x", "p", "Neg"], ["Min"])]
    nodes += [N("Greater", ["x", "Neg"], ["g"]), N("LessOrEqual", ["x", "p"], ["l"]), N("And", ["g", "l"], ["And"])]
    nodes += [
        N("ReduceL1", ["x", "one"], ["L1"]),
        N("ReduceSumSquare", ["x", "one"], ["SS"]),
        N("CastLike", ["g", "x"], ["cl"]),
    ]
    nodes += [
        N("Shape", ["x"], ["s"]),
        N("ReduceProd", ["s"], ["n"], keepdims=0),
        N("Size", ["x"], ["n2"]),
        N("Sub", ["n", "n2"], ["zero"]),
    ]
    nodes += [N("Identity", ["x"], ["id"]), N("Dropout", ["id"], ["do"]), N("Constant", [], ["c"], value_float=2.0)]
    nodes += [N("ConstantOfShape", ["s"], ["z"], value=numpy_helper.from_array(np.asarray([3], np.float32)))]
    nodes += [N("Mul", ["z", "c"], ["z2"]), N("Unsqueeze", ["x", "one"], ["u"]), N("Squeeze", ["u", "one"], ["sq"])]
    outputs = [*ops, "Log", "Min", "And", "L1", "SS", "cl", "zero", "do", "z2", "sq"]
    check(make_model(nodes, X, outputs, {"one": vector(1)}), *CALLS)
    check(make_model([N("Gelu", ["x"], ["a"]), N("Gelu", ["x"], ["b"], approximate="tanh")], X, ["a", "b"], {}, 20), *CALLS)


def test_norms_and_swish_of_later_opsets() -> None:
    """onnxruntime is asked in standard operators of opset 18."""
    new = make_model(
        [N("RMSNormalization", ["x", "g"], ["h"], epsilon=1e-5), N("Swish", ["h"], ["y"])], X, ["y"], {"g": rnd(6)}, 24
    )
    old = make_model(
        [N("Mul", ["x", "x"], ["q"]), N("ReduceMean", ["q", "last"], ["m"]), N("Add", ["m", "eps"], ["e"]), N("Sqrt", ["e"], ["r"]),
         N("Div", ["x", "r"], ["d"]), N("Mul", ["d", "g"], ["h"]), N("Sigmoid", ["h"], ["s"]), N("Mul", ["h", "s"], ["y"])],
        X, ["y"], {"g": rnd(6), "last": vector(-1), "eps": np.float32(1e-5)},
    )  # fmt: skip
    for feeds in CALLS:
        np.testing.assert_allclose(interpret(load_onnx(new), feeds, False)[0], expected_of(old, feeds)[0], 2e-5, 1e-6)


def test_local_functions_are_inlined() -> None:
    body = [N("MatMul", ["a", "w"], ["h"]), N("Relu", ["h"], ["y"])]
    function = helper.make_function("own", "dense", ["a", "w"], ["y"], body, [helper.make_opsetid("", 18)])
    nodes = [N("dense", ["x", "w"], ["h"], domain="own"), N("dense", ["h", "v"], ["y"], domain="own")]
    model = make_model(nodes, X, ["y"], {"w": rnd(6, 5), "v": rnd(5, 4)}, functions=[function])
    check(model, *CALLS)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (N("Conv", ["x", "w"], ["y"], name="first"), r"ONNX operator Conv \(first\): this operator is not covered"),
        (N("Own", ["x"], ["y"], domain="com.example"), "domain com.example has no rule"),
        (N("Reshape", ["x", "i"], ["y"]), "the shape depends on data, which is not covered"),
        (N("Mod", ["x", "x"], ["y"], fmod=1), "fmod=1 is not covered"),
        (N("ArgMax", ["x"], ["y"], select_last_index=1), "select_last_index=1 is not covered"),
        (N("Transpose", ["x"], ["y"], perm=[0, 0]), "ONNX operator Transpose .*not a permutation"),
        (N("Einsum", ["x", "x"], ["y"], equation="ij,kl->jl"), "sums over an axis of one operand"),
    ],
)
def test_what_is_not_covered_is_named(node: onnx.NodeProto, message: str) -> None:
    model = make_model([node], {"x": (F, ["N", 6]), "i": (I64, [2])}, ["y"], {"w": rnd(6, 6)})
    with pytest.raises(IRError, match=message):
        import_onnx(model)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IRError, match=r"absent\.onnx: cannot be read"):
        import_onnx(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(IRError, match="is not an ONNX model"):
        import_onnx(tmp_path / "text.onnx")
    old = make_model([N("Relu", ["x"], ["y"])], X, ["y"], opset=11)
    with pytest.raises(IRError, match="uses opset 11; at least 13 is needed"):
        import_onnx(old)
    half = make_model([N("Relu", ["x"], ["y"])], {"x": (TensorProto.STRING, ["N"])}, ["y"])
    with pytest.raises(IRError, match="ONNX element type STRING is not covered"):
        import_onnx(half)


def test_weights_in_a_data_file_are_mapped(tmp_path: Path) -> None:
    model = make_model([N("MatMul", ["x", "w"], ["y"])], X, ["y"], {"w": rnd(6, 900)})
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    imported = load_onnx(tmp_path / "m.onnx")
    assert isinstance(imported.arrays["w"], np.memmap)
    np.testing.assert_array_equal(imported.read("w"), rnd(6, 900))
    (tmp_path / "m.data").unlink()
    with pytest.raises(IRError, match=r"tensor w: its data in .*m\.data cannot be read"):
        load_onnx(tmp_path / "m.onnx")


def test_half_precision_weights_are_read_as_float32() -> None:
    w16, weight = rnd(6, 4).astype(np.float16), rnd(6, 4)
    bf16 = helper.make_tensor(
        "w", TensorProto.BFLOAT16, [6, 4], (weight.view(np.uint32) >> 16).astype("<u2").tobytes(), raw=True
    )
    nodes = [N("Cast", ["w"], ["f"], to=F), N("MatMul", ["x", "f"], ["y"])]
    model = make_model(nodes, X, ["y"], {"w": w16})
    check(model, *CALLS)
    del model.graph.initializer[:]
    model.graph.initializer.append(bf16)
    check(model, *CALLS)
