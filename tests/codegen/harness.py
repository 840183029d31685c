"""Compiles an IR module with the CPU code generator and runs its programs through ctypes, without the runtime."""

from __future__ import annotations

import ctypes as C
import subprocess
from pathlib import Path

import numpy as np

from pangu_compile.codegen.cpu import generate
from pangu_compile.driver.packing import pack
from pangu_compile.ir import Module, evaluate_dim
from pangu_compile.plan import PlanOptions, make_plan

ROOT = Path(__file__).resolve().parents[2]
PACKED = ("bf16", "q8", "q4")
# undefined behaviour aborts the test; the whole runtime runs under the address sanitizer in tests/e2e
SANITIZED = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")
SHIM = r"""
#include "pangu_abi.h"
extern "C" void pangu_parallel_for(pangu_pool *, int64_t n, int64_t grain,
    void (*body)(void *, int64_t, int64_t, int32_t), void *arg) {
  for (int64_t i = 0; i < n; i += grain) body(arg, i, i + grain < n ? i + grain : n, 0);
}
extern "C" int32_t pangu_pool_threads(const pangu_pool *) { return 1; }
extern "C" void shim_run(int i, const pangu_exec *exec) { pangu_generated_model.programs[i].run(exec); }
extern "C" int64_t shim_arena(int i) { return pangu_generated_model.programs[i].arena_bytes; }
"""


class Exec(C.Structure):
    _fields_ = [
        ("dim", C.c_void_p), ("input", C.c_void_p), ("out", C.c_void_p), ("state", C.c_void_p),
        ("weight", C.c_void_p), ("arena", C.c_void_p), ("pool", C.c_void_p), ("derived", C.c_void_p),
    ]  # fmt: skip


def _pointers(arrays: list[np.ndarray]) -> tuple[C.Array, list[np.ndarray]]:
    return (C.c_void_p * max(1, len(arrays)))(*[a.ctypes.data for a in arrays]), arrays


class Compiled:
    """A module compiled at -O1 (or with sanitizers); `run` takes and returns numpy arrays by role key."""

    def __init__(self, module: Module, folder: Path, flags: tuple[str, ...] = SANITIZED, options: PlanOptions | None = None):
        self.module = module
        self.plan = make_plan(module, options or PlanOptions(max_context=64, max_chunk=16))
        for name, text in generate(self.plan, {w.name: 0 for w in self.plan.weights}).items():
            (folder / name).write_text(text)
        (folder / "shim.cpp").write_text(SHIM)
        library = folder / "model.so"
        command = ["g++", "-std=c++17", "-fPIC", "-shared", "-Wall", "-march=native", *flags, "-I", str(folder),
                   "-I", str(ROOT / "runtime/core"), "model.cpp", "shim.cpp", "-o", str(library)]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        self.warnings = done.stderr
        self.library = C.CDLL(str(library))
        self.library.shim_arena.restype = C.c_int64

    def run(self, program: str, dims: dict[str, int], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """arrays: inputs, states (capacity-sized, updated in place) and weights by key."""
        plan = self.plan.programs[program]
        number = list(self.plan.programs).index(program)
        weights = [w.compute(lambda name: arrays[name]) for w in self.plan.weights]
        weights = [pack(w.dtype, a) if w.dtype in PACKED else a for w, a in zip(self.plan.weights, weights, strict=True)]
        inputs = [np.ascontiguousarray(arrays[r.key]) for r in plan.params if r.kind == "input"]
        states = [arrays.get(s.name, np.zeros(0, np.float32)) for s in self.plan.states]
        outputs = {}
        for role, value in zip(plan.outputs, plan.function.graph.outputs, strict=True):
            if role.kind == "output":
                shape = tuple(evaluate_dim(d, dims) for d in value.type.shape)
                outputs[role.key] = np.full(shape, -77, value.type.dtype.numpy)
        arena = np.full(self.library.shim_arena(number) + 64, 0xA5, np.uint8)
        base = (arena.ctypes.data + 63) // 64 * 64
        sizes = np.array([dims.get(d, 0) for d in plan.dims] or [0], np.int64)
        keep = [_pointers(a) for a in (inputs, list(outputs.values()), states, weights)]
        fields = [C.cast(k[0], C.c_void_p) for k in keep]
        exec_ = Exec(sizes.ctypes.data, fields[0], fields[1], fields[2], fields[3], base, None, None)
        self.library.shim_run(number, C.byref(exec_))
        return outputs
