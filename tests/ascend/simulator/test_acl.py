"""The acl and aclnn subset: a host program built and run, and each vendor operator against numpy."""

from __future__ import annotations

import ctypes
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from simulated import FLAGS, KERNELS, Simulation, compile_object

HOST = pathlib.Path(__file__).parent / "host"
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int8): 2, np.dtype(np.int32): 3, np.dtype(np.int64): 9}
BF16 = 27  # carried as uint16


def bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


class Device:
    """acl through ctypes: numpy arrays to device tensors, operators in their two phases, results back."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.acl = library
        for name in ("aclCreateTensor", "aclCreateTensorList", "aclCreateScalar"):
            getattr(library, name).restype = ctypes.c_void_p
        library.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.memory: list[tuple[ctypes.c_void_p, np.ndarray]] = []

    def tensor(self, array: np.ndarray, written: bool = True, transposed: bool = False) -> ctypes.c_void_p:
        """A tensor of the array's shape, or of its transpose over the same memory."""
        address = ctypes.c_void_p()
        assert self.acl.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(max(array.nbytes, 1)), 0) == 0
        if written:
            data = ctypes.c_void_p(array.ctypes.data)
            assert self.acl.aclrtMemcpy(address, ctypes.c_size_t(array.nbytes), data, ctypes.c_size_t(array.nbytes), 1) == 0
        self.memory.append((address, array))
        shape, strides = list(array.shape), [stride // array.itemsize for stride in array.strides]
        if transposed:
            shape[-2:], strides[-2:] = shape[:-3:-1], strides[:-3:-1]
        dims = (ctypes.c_int64 * array.ndim)(*shape)
        kind = BF16 if array.dtype == np.uint16 else TYPES[array.dtype]
        return ctypes.c_void_p(self.acl.aclCreateTensor(
            dims, ctypes.c_uint64(array.ndim), kind, (ctypes.c_int64 * array.ndim)(*strides), ctypes.c_int64(0), 2, dims,
            ctypes.c_uint64(array.ndim), address))

    def list(self, *tensors: ctypes.c_void_p) -> ctypes.c_void_p:
        values = (ctypes.c_void_p * len(tensors))(*(tensor.value for tensor in tensors))
        return ctypes.c_void_p(self.acl.aclCreateTensorList(values, ctypes.c_uint64(len(tensors))))

    def run(self, operator: str, *arguments: Any) -> None:
        """Both phases; raises RuntimeError with acl's message. Integers travel as int64."""
        size, executor = ctypes.c_uint64(), ctypes.c_void_p()
        passed = [ctypes.c_int64(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in arguments]
        first = getattr(self.acl, f"{operator}GetWorkspaceSize")
        if first(*passed, ctypes.byref(size), ctypes.byref(executor)) != 0:
            raise RuntimeError(self.acl.aclGetRecentErrMsg().decode())
        if getattr(self.acl, operator)(None, size, executor, None) != 0:
            raise RuntimeError(self.acl.aclGetRecentErrMsg().decode())

    def fetch(self) -> None:
        """Copies every tensor's memory back into its array."""
        for address, array in self.memory:
            data = ctypes.c_void_p(array.ctypes.data)
            assert self.acl.aclrtMemcpy(data, ctypes.c_size_t(array.nbytes), address, ctypes.c_size_t(array.nbytes), 2) == 0

    def close(self) -> None:
        for address, _ in self.memory:
            self.acl.aclrtFree(address)


@pytest.fixture
def device(simulation: Simulation) -> Iterator[Device]:
    device = Device(simulation.kernels("vector_add").library)
    yield device
    device.close()


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["wrong address"], 1)])
def test_host_program(simulation: Simulation, tmp_path: pathlib.Path, arguments: list[str], status: int) -> None:
    program = simulation.folder / "add_and_multiply"
    if not program.exists():
        (simulation.folder / "aclrtlaunch_vector_add.h").write_text(
            '#include "kernel_operator.h"\n#include "sim/aclrtlaunch.h"\n'
            'extern "C" void vector_add(GM_ADDR x, GM_ADDR y, GM_ADDR z, uint32_t total, uint32_t tile);\n'
            "SIM_ACLRT_LAUNCH(vector_add)\n")
        kernel = compile_object([KERNELS / "vector_add.cpp"], tmp_path / "kernel.o")
        source = str(HOST / "add_and_multiply.cpp")
        subprocess.run(["g++", *FLAGS, f"-I{simulation.folder}", "-o", str(program), source, str(kernel),
                        str(simulation.object)], check=True)
    result = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == status
    if status == 0:
        assert result.stdout == "36 36 1\n"
    else:
        assert "kernel 'vector_add'" in result.stderr and "no device memory" in result.stderr


@pytest.mark.parametrize("transposed", [False, True])
def test_matmul(device: Device, random: np.random.Generator, transposed: bool) -> None:
    a, b = bfloat16(random.standard_normal((5, 70))), bfloat16(random.standard_normal((70, 9)))
    out = np.zeros((5, 9), np.uint16)
    stored = np.ascontiguousarray(b.T) if transposed else b
    device.run("aclnnMatmul", device.tensor(a), device.tensor(stored, transposed=transposed), device.tensor(out, written=False),
               ctypes.c_int8(0))
    device.fetch()
    np.testing.assert_allclose(widened(out), widened(a) @ widened(b), rtol=2**-7, atol=1e-2)


def test_batch_matmul(device: Device, random: np.random.Generator) -> None:
    a, b = random.standard_normal((3, 4, 8)).astype(np.float32), random.standard_normal((3, 8, 5)).astype(np.float32)
    out = np.zeros((3, 4, 5), np.float32)
    device.run("aclnnBatchMatMul", device.tensor(a), device.tensor(b), device.tensor(out, written=False), ctypes.c_int8(0))
    device.fetch()
    np.testing.assert_allclose(out, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_a_wide_result_is_no_finer_than_the_operands(device: Device, random: np.random.Generator, batched: bool) -> None:
    """The vendor's product has the type of its operands, and is cast to the result's."""
    shape = (2,) if batched else ()
    a, b = bfloat16(random.standard_normal((*shape, 5, 70))), bfloat16(random.standard_normal((*shape, 70, 9)))
    out = np.zeros((*shape, 5, 9), np.float32)
    device.run("aclnnBatchMatMul" if batched else "aclnnMatmul", device.tensor(a), device.tensor(b),
               device.tensor(out, written=False), ctypes.c_int8(0))
    device.fetch()
    assert (out.view(np.uint32) & 0xFFFF == 0).all()
    np.testing.assert_allclose(out, widened(a) @ widened(b), rtol=2**-7, atol=1e-2)


def test_quant_matmul(device: Device, random: np.random.Generator) -> None:
    x, w = random.integers(-127, 128, (6, 4096)).astype(np.int8), random.integers(-127, 128, (7, 4096)).astype(np.int8)
    scale, rows = random.uniform(0.5, 1, 7).astype(np.float32), random.uniform(0.5, 1, 6).astype(np.float32)
    bias, out = random.integers(-1000, 1000, 7).astype(np.int32), np.zeros((6, 7), np.uint16)
    device.run("aclnnQuantMatmulV4", device.tensor(x), device.tensor(w), device.tensor(scale), None, device.tensor(rows),
               device.tensor(bias), False, True, device.tensor(out, written=False))
    device.fetch()
    expected = (x.astype(np.int64) @ w.T.astype(np.int64) + bias) * scale * rows[:, None]
    np.testing.assert_allclose(widened(out), expected, rtol=2**-8)


def test_integer_sums_are_exact(device: Device, random: np.random.Generator) -> None:
    """With int32 results: no rounding to float32 on the way."""
    x, w = random.integers(120, 128, (6, 4096)).astype(np.int8), random.integers(120, 128, (3, 7, 4096)).astype(np.int8)
    scale, ends = np.ones(7, np.float32), np.array([2, 2, 6], np.int64)
    out, grouped = np.zeros((6, 7), np.int32), np.zeros((6, 7), np.int32)
    device.run("aclnnQuantMatmulV4", device.tensor(x), device.tensor(w[1]), device.tensor(scale), None, None, None, False, True,
               device.tensor(out, written=False))
    device.run("aclnnGroupedMatmulV4", device.list(device.tensor(x)), device.list(device.tensor(w, transposed=True)), None, None,
               None, None, None, None, device.tensor(ends), None, None, None, 2, 0, 0, 0,
               device.list(device.tensor(grouped, written=False)), None, None)
    device.fetch()
    wide = x.astype(np.int64)
    assert (out == wide @ w[1].T.astype(np.int64)).all() and (out > 2**24).all()
    assert (grouped == np.einsum("mk,mnk->mn", wide, w[[0, 0, 2, 2, 2, 2]].astype(np.int64))).all()


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_grouped_matmul(device: Device, random: np.random.Generator, cumulative: bool, quantised: bool) -> None:
    counts = np.array([3, 0, 5, 1], np.int64)
    if quantised:
        x, w = random.integers(-9, 9, (9, 16)).astype(np.int8), random.integers(-9, 9, (4, 16, 6)).astype(np.int8)
    else:
        x, w = bfloat16(random.standard_normal((9, 16))), bfloat16(random.standard_normal((4, 16, 6)))
    scale, rows = random.uniform(0.5, 1, (4, 6)).astype(np.float32), random.uniform(0.5, 1, 9).astype(np.float32)
    out = np.zeros((9, 6), np.uint16)
    groups = device.tensor(np.cumsum(counts) if cumulative else counts)
    device.run("aclnnGroupedMatmulV4", device.list(device.tensor(x)), device.list(device.tensor(w)), None,
               device.list(device.tensor(scale)) if quantised else None, None, None, None,
               device.list(device.tensor(rows)) if quantised else None, groups, None, None, None, 3, 0, 0 if cumulative else 1, 0,
               device.list(device.tensor(out, written=False)), None, None)
    device.fetch()
    expert = np.repeat(np.arange(4), counts)
    left, right = (x.astype(np.float32), w.astype(np.float32)) if quantised else (widened(x), widened(w))
    expected = np.einsum("mk,mkn->mn", left, right[expert]) * (scale[expert] * rows[:, None] if quantised else 1)
    np.testing.assert_allclose(widened(out), expected, rtol=2**-7, atol=1e-2)


def test_routing_there_and_back(device: Device, random: np.random.Generator) -> None:
    """Init routing sorts tokens by expert, finalize routing brings them back weighted: the sum over a token's experts."""
    x, experts = bfloat16(random.standard_normal((6, 8))), np.stack([random.permutation(5)[:2] for _ in range(6)]).astype(np.int32)
    scales = random.uniform(0, 1, (6, 2)).astype(np.float32)
    expanded, rows, counts = np.zeros((12, 8), np.uint16), np.zeros(12, np.int32), np.zeros(5, np.int32)
    out = np.zeros((6, 8), np.float32)
    moved, where = device.tensor(expanded, written=False), device.tensor(rows, written=False)
    device.run("aclnnMoeInitRoutingV2", device.tensor(x), device.tensor(experts), 0, 0, 5, 0, 2, False, moved, where,
               device.tensor(counts, written=False), None)
    device.run("aclnnMoeFinalizeRoutingV2", moved, where, None, None, None, device.tensor(scales), None, 2,
               device.tensor(out, written=False))
    device.fetch()
    order = np.argsort(experts.reshape(-1), kind="stable")
    np.testing.assert_array_equal(expanded, x[order // 2])
    np.testing.assert_array_equal(rows[order], np.arange(12))
    np.testing.assert_array_equal(counts, np.bincount(experts.reshape(-1), minlength=5))
    np.testing.assert_allclose(out, widened(x) * scales.sum(axis=1, keepdims=True), rtol=1e-5)


def test_permute_and_unpermute(device: Device, random: np.random.Generator) -> None:
    x, experts = random.standard_normal((5, 4)).astype(np.float32), random.integers(0, 3, (5, 2)).astype(np.int32)
    probs = random.uniform(0, 1, (5, 2)).astype(np.float32)
    permuted, where, out = np.zeros((10, 4), np.float32), np.zeros(10, np.int32), np.zeros((5, 4), np.float32)
    moved, sorted_ = device.tensor(permuted, written=False), device.tensor(where, written=False)
    device.run("aclnnMoeTokenPermute", device.tensor(x), device.tensor(experts), 10, False, moved, sorted_)
    device.run("aclnnMoeTokenUnpermute", moved, sorted_, device.tensor(probs), False, None, device.tensor(out, written=False))
    device.fetch()
    np.testing.assert_array_equal(permuted, x[np.argsort(experts.reshape(-1), kind="stable") // 2])
    np.testing.assert_allclose(out, x * probs.sum(axis=1, keepdims=True), rtol=1e-5)


def test_gating_softmax(device: Device, random: np.random.Generator) -> None:
    x = random.standard_normal((4, 8)).astype(np.float32)
    x[2, 1] = x[2, 5] = 4.0
    y, experts, rows = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.int32), np.zeros((4, 3), np.int32)
    device.run("aclnnMoeGatingTopKSoftmax", device.tensor(x), None, 3, device.tensor(y, written=False),
               device.tensor(experts, written=False), device.tensor(rows, written=False))
    device.fetch()
    order = np.argsort(-x, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(experts, order)
    weights = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y, np.take_along_axis(weights, order, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(rows, np.arange(3)[None, :] * 4 + np.arange(4)[:, None])


def test_dynamic_quant(device: Device, random: np.random.Generator) -> None:
    x = bfloat16(random.standard_normal((4, 40)))
    x[3] = 0
    y, scale = np.zeros((4, 40), np.int8), np.zeros(4, np.float32)
    device.run("aclnnDynamicQuant", device.tensor(x), None, device.tensor(y, written=False), device.tensor(scale, written=False))
    device.fetch()
    np.testing.assert_allclose(scale, np.abs(widened(x)).max(axis=1) / 127, rtol=1e-6)
    np.testing.assert_allclose(y * scale[:, None], widened(x), atol=scale.max() * 0.51)
    assert not y[3].any()


def test_swiglu_and_norm(device: Device, random: np.random.Generator) -> None:
    x, gamma = random.standard_normal((3, 16)).astype(np.float32), random.standard_normal(16).astype(np.float32)
    gated, normed, root = np.zeros((3, 8), np.float32), np.zeros((3, 16), np.float32), np.zeros((3, 1), np.float32)
    device.run("aclnnSwiGlu", device.tensor(x), -1, device.tensor(gated, written=False))
    device.run("aclnnRmsNorm", device.tensor(x), device.tensor(gamma), ctypes.c_double(1e-6), device.tensor(normed, written=False),
               device.tensor(root, written=False))
    device.fetch()
    a, b = x[:, :8], x[:, 8:]
    np.testing.assert_allclose(gated, a / (1 + np.exp(-a)) * b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normed, x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-6) * gamma, rtol=1e-5)


def test_lookups_and_joins(device: Device, random: np.random.Generator) -> None:
    table, index = bfloat16(random.standard_normal((10, 6))), np.array([3, 0, 9, 3], np.int64)
    rows, columns, joined = np.zeros((4, 6), np.uint16), np.zeros((10, 4), np.uint16), np.zeros((10, 10), np.uint16)
    index[2] = 5
    device.run("aclnnEmbedding", device.tensor(table), device.tensor(index), device.tensor(rows, written=False))
    selected = device.tensor(columns, written=False)
    device.run("aclnnIndexSelect", device.tensor(table), 1, device.tensor(index), selected)
    device.run("aclnnCat", device.list(device.tensor(table), selected), -1, device.tensor(joined, written=False))
    device.fetch()
    np.testing.assert_array_equal(rows, table[index])
    np.testing.assert_array_equal(joined, np.concatenate([table, table[:, index]], axis=1))


def test_casts_and_arithmetic(device: Device, random: np.random.Generator) -> None:
    x, bias = random.standard_normal((4, 6)).astype(np.float32) * 10, random.standard_normal(6).astype(np.float32)
    narrow, whole, total = np.zeros((4, 6), np.uint16), np.zeros((4, 6), np.int32), np.zeros((4, 6), np.float32)
    scaled, largest = np.zeros((4, 6), np.float32), np.zeros(4, np.int64)
    two = ctypes.c_float(2.0)
    alpha = ctypes.c_void_p(device.acl.aclCreateScalar(ctypes.byref(two), 0))
    device.run("aclnnCast", device.tensor(x), ctypes.c_int(BF16), device.tensor(narrow, written=False))
    device.run("aclnnCast", device.tensor(x), ctypes.c_int(3), device.tensor(whole, written=False))
    device.run("aclnnAdd", device.tensor(x), device.tensor(bias), alpha, device.tensor(total, written=False))
    device.run("aclnnMul", device.tensor(x), device.tensor(bias), device.tensor(scaled, written=False))
    factor = ctypes.c_void_p(device.acl.aclCreateScalar(ctypes.byref(ctypes.c_int32(2)), 3))
    counts, doubled = np.array([0, 3, 2**24 + 1], np.int32), np.zeros(3, np.int32)
    device.run("aclnnMuls", device.tensor(counts), factor, device.tensor(doubled, written=False))
    device.run("aclnnArgMax", device.tensor(x), 1, False, device.tensor(largest, written=False))
    device.fetch()
    np.testing.assert_array_equal(narrow, bfloat16(x))
    np.testing.assert_array_equal(whole, np.trunc(x).astype(np.int32))
    np.testing.assert_allclose(total, x + 2 * bias, rtol=1e-6)
    np.testing.assert_allclose(scaled, x * bias, rtol=1e-6)
    np.testing.assert_array_equal(doubled, 2 * counts)
    np.testing.assert_array_equal(largest, x.argmax(axis=1))


def test_operators_refuse_what_does_not_fit(device: Device) -> None:
    a, b, out = np.ones((2, 3), np.float32), np.ones((4, 5), np.float32), np.zeros((2, 5), np.float32)
    with pytest.raises(RuntimeError, match=r"aclnnMatmulGetWorkspaceSize: shapes \[2, 3\] x \[4, 5\]"):
        device.run("aclnnMatmul", device.tensor(a), device.tensor(b), device.tensor(out), ctypes.c_int8(0))
    with pytest.raises(RuntimeError, match="aclnnSwiGlu: uninitialised read"):
        device.run("aclnnSwiGlu", device.tensor(np.ones((2, 4), np.float32), written=False), -1,
                   device.tensor(np.ones((2, 2), np.float32)))
