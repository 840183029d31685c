"""Many cases of fused operators in one compiled library, one program each, run on a pool of any number of threads."""

from __future__ import annotations

import ctypes as C
import subprocess
from pathlib import Path

import numpy as np

from pangu_compile.codegen.cpu import generate
from pangu_compile.ir import Graph, Module, Program, Role, StateInfo, Value, evaluate_dim, make_node, opdef, verify_module
from pangu_compile.plan import PlanOptions, make_plan
from tests.codegen.harness import Exec
from tests.ir.fused_cases import Case

ROOT = Path(__file__).resolve().parents[3]
MAX_CONTEXT, MAX_TOKENS = 64, 20
SHIM = """
#include "pangu_abi.h"
#include "pool.h"
extern "C" void shim_run(int i, pangu_exec *exec, int threads) {
  if (threads == 0) { exec->pool = nullptr; return pangu_generated_model.programs[i].run(exec); }
  pangu_pool pool(threads);
  exec->pool = &pool;
  pangu_generated_model.programs[i].run(exec);
}
extern "C" int64_t shim_arena(int i) { return pangu_generated_model.programs[i].arena_bytes; }
"""
SHARED = "-DPANGU_SERIAL_WORK=64"  # even loops as short as these are shared between threads
PLAIN = ("-O2", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
RACES = ("-O1", "-fsanitize=thread")


def updated(case: Case) -> dict[str, str]:
    """Result -> the operand that it replaces."""
    results = case.attrs.get("results", ())
    return {result: slot for result, slot in opdef(case.op).updates.items() if result in results}


def add_case(module: Module, number: int, case: Case, in_place: bool) -> None:
    """One program. in_place: what the operator updates are states; else plain inputs, which must stay as they are. Operands in a
    format of weights are weights."""
    graph = Graph(f"case{number}")
    graph.params = [Value(n, t) for n, t in case.operands.items()]
    node = make_node(case.op, graph.params, case.attrs)
    graph.nodes.append(node)
    updates = updated(case) if in_place else {}
    results = case.attrs.get("results", [f"out{i}" for i in range(len(node.outputs))])
    roles = {slot: Role("state", f"{number}.{slot}") for slot in updates.values()}
    for slot, type_ in case.operands.items():
        if type_.dtype.is_packed:
            roles[slot] = Role("weight", f"{number}.{slot}")
            module.weights[roles[slot].key] = type_
    params = [roles.get(n, Role("input", n)) for n in case.operands]
    outputs = [Role("output", name) if name not in updates else roles[updates[name]] for name in results]
    order = sorted(range(len(outputs)), key=lambda i: params.index(outputs[i]) if outputs[i].kind == "state" else -1)
    graph.outputs = [node.outputs[i] for i in order]
    graph.rename()
    for slot, role in roles.items():
        if role.kind == "weight":
            continue
        rows, width = case.operands[slot].shape
        fixed = int(rows) if isinstance(rows, int) else None
        module.states[role.key] = StateInfo(role.key, "f32", int(width), fixed, 0)
    module.programs[f"case{number}"] = Program(graph, params, [outputs[i] for i in order], ("T", "S"))


class Library:
    """`run` takes operands by slot and returns results by name; operands are never changed."""

    def __init__(self, cases: list[Case], folder: Path, max_tokens: int = MAX_TOKENS):
        self.cases, self.folder = cases, folder
        module = Module(info={"role": "module"})
        for number, case in enumerate(cases):
            add_case(module, number, case, in_place=number % 4 != 3)
        verify_module(module)
        self.plan = make_plan(module, PlanOptions(max_context=MAX_CONTEXT, max_chunk=max_tokens))

    def compile(self, flags: tuple[str, ...]) -> str:
        """Build model.so in the folder; returns the compiler's warnings."""
        folder = self.folder
        for name, text in generate(self.plan, {w.name: 0 for w in self.plan.weights}).items():
            (folder / name).write_text(text)
        (folder / "shim.cpp").write_text(SHIM)
        command = ["g++", "-std=c++17", "-fPIC", "-shared", "-Wall", "-Wextra", "-pthread", "-march=native", SHARED, *flags,
                   *(f"-I{ROOT / 'runtime' / part}" for part in ("core", "include")), "-I.",
                   "model.cpp", "shim.cpp", str(ROOT / "runtime/core/pool.cpp"), "-o", "model.so"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:6000]
        return done.stderr

    def load(self) -> None:
        self.library = C.CDLL(str(self.folder / "model.so"))
        self.library.shim_arena.restype = C.c_int64

    def run(self, number: int, dims: dict[str, int], operands: dict[str, np.ndarray], threads: int = 0) -> dict[str, np.ndarray]:
        name = f"case{number}"
        plan, updates = self.plan.programs[name], updated(self.cases[number])
        states = []
        for info in self.plan.states:
            owner, slot = info.name.split(".")
            rows = (info.rows or MAX_CONTEXT + MAX_TOKENS) if int(owner) == number else 0
            state = np.full((rows, info.width), 1e30, np.float32)
            if rows:
                state[: len(operands[slot])] = operands[slot]
            states.append(state)
        owners = [w.name.split(".") for w in self.plan.weights]
        weights = [operands[slot] if int(owner) == number else np.zeros(0, np.uint8) for owner, slot in owners]
        inputs = [np.array(operands[r.key], order="C") for r in plan.params if r.kind == "input"]
        before = [a.tobytes() for a in inputs]
        outputs = {}
        for role, value in zip(plan.outputs, plan.function.graph.outputs, strict=True):
            if role.kind == "output":
                shape = tuple(evaluate_dim(d, dims) for d in value.type.shape)
                outputs[role.key] = np.full(shape, -77, value.type.dtype.numpy)
        program, sizes = list(self.plan.programs).index(name), [dims[d] for d in plan.dims]
        self._call(program, sizes, inputs, list(outputs.values()), states, weights, threads)
        assert all(a.tobytes() == b for a, b in zip(inputs, before, strict=True)), "an input was changed"
        for result, slot in updates.items():
            for info, state in zip(self.plan.states, states, strict=True):
                if info.name == f"{number}.{slot}":
                    rows = evaluate_dim(self.cases[number].operands[slot].shape[0], dims)
                    outputs[result] = state[: rows + (dims["T"] if info.rows is None else 0)]
        return outputs

    def _call(self, program: int, dims: list[int], inputs: list[np.ndarray], outputs: list[np.ndarray], states: list[np.ndarray],
              weights: list[np.ndarray], threads: int) -> None:  # fmt: skip
        arena = np.full(self.library.shim_arena(program) + 64, 0xA5, np.uint8)
        base = (arena.ctypes.data + 63) // 64 * 64
        sizes = np.array(dims, np.int64)
        tables = [(C.c_void_p * max(1, len(a)))(*[x.ctypes.data for x in a]) for a in (inputs, outputs, states, weights)]
        at = [C.cast(t, C.c_void_p) for t in tables]
        exec_ = Exec(sizes.ctypes.data, at[0], at[1], at[2], at[3], base, None, None)
        self.library.shim_run(program, C.byref(exec_), threads)
