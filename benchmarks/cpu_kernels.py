"""Speed of the CPU kernels at the widths of openPangu-2.0-Flash, against a plain read of the same bytes.

    python benchmarks/cpu_kernels.py [--tokens 1,4] [--context 4096] [--threads 2] [--weights f32|bf16|q8|q4] [--only NAME,..]

Every operator is one program of one library, compiled with the flags of `pangu-compile build`. Weights and caches exist
in as many copies as it takes to leave the processor's cache before they come round again. "bytes" is what the
operator's cost model says must move; "read" is how fast a loop over all threads sums as many bytes of the same memory.
"""

from __future__ import annotations

import argparse
import ctypes as C
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pangu_compile.codegen.cpu import generate
from pangu_compile.driver.options import make_options
from pangu_compile.driver.toolchain import compile_flags, find_compiler
from pangu_compile.ir import DType, Graph, Module, Program, Role, StateInfo, TensorType, Value, make_node, opdef, symbol, tensor
from pangu_compile.ir.types import evaluate_dim
from pangu_compile.plan import PlanOptions, make_plan

ROOT = Path(__file__).resolve().parents[1]
T, S = symbol("T"), symbol("S")
F32, I64 = DType.f32, DType.i64
COLD = 256 << 20  # bytes touched before the same operand is read again
SHIM = Path(__file__).with_name("cpu_kernels_shim.cpp")


def f32(*shape: Any) -> TensorType:
    return tensor(F32, *shape)


def operators(weights: DType, experts: int, window: int) -> dict[str, tuple[str, dict[str, TensorType], dict[str, Any]]]:
    """name -> operator, operands, attributes: one decoder layer of Flash."""

    def w(*shape: int) -> TensorType:
        return tensor(weights, *shape)

    hidden, low, latent, rope, nope, v, heads, streams = 2560, 1024, 512, 64, 128, 128, 48, 4
    width, inner = latent + rope, 1024
    start = {"start": tensor(I64)}
    attend = {"nope": nope, "v": v, "scale": 192**-0.5, "expand_from": 0}
    tail = {"kv_b": w(heads * (nope + v), latent), "sinks": f32(128, width)}
    prologue = {
        "u": f32(T, hidden), "q_a": w(low, hidden), "q_conv": f32(low, 1, 3), "q_ring": f32(5, low), "q_norm": f32(low),
        "q_b": w(heads * 192, low), "kv_a": w(width, hidden), "kv_conv": f32(latent, 1, 3), "kv_ring": f32(5, latent),
        "kv_norm": f32(latent), "table": f32(T, rope), **start, "cache": f32(S, width),
    }  # fmt: skip
    index = {
        "u": f32(T, hidden), "qr": f32(T, low), "wq_b": w(24 * 128, low), "wk": w(128, hidden), "k_gamma": f32(128),
        "weights_proj": w(24, hidden), "table": f32(T, rope), "cache": f32(S, 128),
    }  # fmt: skip
    swa = {"q": f32(T, heads, 192), "latent": f32(T, width), "ring": f32(window + 3, width), **start, **tail}
    dsa = {"q": f32(T, heads, 192), "cache": f32(S + T, width), "iq": f32(T, 24, 128), "iw": f32(T, 24),
           "index_cache": f32(S + T, 128), **tail}  # fmt: skip
    output = {"a": f32(T, heads * v), "o_conv": f32(heads * v, 1, 3), "o_ring": f32(5, heads * v), **start,
              "o_proj": w(hidden, heads * v)}  # fmt: skip
    chain = {
        "x": f32(T, streams, hidden), "out": f32(T, hidden), "post": f32(T, streams), "res": f32(T, streams, streams),
        "out_norm": f32(hidden), "phi": f32(24, streams * hidden), "alpha": f32(3), "beta": f32(24),
        "gamma": f32(streams * hidden), "norm": f32(hidden),
    }  # fmt: skip
    moe = {"x": f32(T, hidden), "index": tensor(I64, T, 8), "weight": f32(T, 8), "gate_up": w(experts, 2 * inner, hidden),
           "down": w(experts, hidden, inner), "shared_gate": w(inner, hidden), "shared_up": w(inner, hidden),
           "shared_down": w(hidden, inner)}  # fmt: skip
    gate = {"x": f32(T, hidden), "router": f32(experts, hidden), "bias": f32(experts)}
    eps = {"pre_eps": 1e-5, "norm_eps": 1e-5, "mhc_eps": 1e-6, "iterations": 20, "out_eps": 1e-5, "block_eps": 1e-5}
    made = {
        "mhc_post_pre": ("mhc_post_pre", chain, ("new_x", "y", "new_post", "new_res"), eps),
        "mla_prologue": ("mla_prologue", prologue, ("q", "qr", "new_cache", "new_q_ring", "new_kv_ring"),
                         {"heads": heads, "head_dim": 192, "q_eps": 1e-5, "kv_eps": 1e-5}),
        "index_prologue": ("index_prologue", index, ("iq", "iw", "new_cache"), {"heads": 24, "k_eps": 1e-6, "scale": 24**-0.5}),
        "swa_attention": ("swa_attention", swa, ("out", "new_ring"), {**attend, "window": window}),
        "dsa_attention": ("dsa_attention", dsa, ("out",), {**attend, "topk": 2048, "index_scale": 128**-0.5}),
        "swa_expanded": ("swa_attention", swa, ("out", "new_ring"), {**attend, "window": window, "expand_from": 1}),
        "attention_output": ("attention_output", output, ("out", "new_o_ring"), {}),
        "moe_gate": ("moe_gate", gate, ("index", "weight"), {"k": 8, "normalise": True, "scale": 2.5, "eps": 1e-20}),
        "moe_ffn": ("moe_ffn", moe, ("out",), {}),
    }  # fmt: skip
    table = {n: (op, t, {"slots": tuple(t), "results": results, **a}) for n, (op, t, results, a) in made.items()}
    ffn = {"x": f32(T, hidden), "gate": w(9216, hidden), "up": w(9216, hidden), "down": w(hidden, 9216)}
    return {**table, "dense_ffn": ("dense_ffn", ffn, {})}


def program(module: Module, name: str, op: str, operands: dict[str, TensorType], attrs: dict[str, Any]) -> None:
    """Matrices and parameters are weights, what the operator updates is a state, the rest are inputs."""
    graph = Graph(name)
    graph.params = [Value(n, t) for n, t in operands.items()]
    node = make_node(op, graph.params, attrs)
    graph.nodes.append(node)
    updates = {slot: result for result, slot in opdef(op).updates.items() if result in attrs.get("results", ())}
    params = []
    for slot, type_ in operands.items():
        symbolic = any(not isinstance(d, int) for d in type_.shape) or type_.dtype is I64
        kind = "state" if slot in updates else "input" if symbolic else "weight"
        params.append(Role(kind, f"{name}.{slot}"))
        if kind == "weight":
            module.weights[params[-1].key] = type_
        elif kind == "state":
            rows = type_.shape[0] if isinstance(type_.shape[0], int) else None
            module.states[params[-1].key] = StateInfo(params[-1].key, "f32", int(type_.shape[1]), rows, 0)
    names = attrs.get("results", ("out",))
    slot_of = {result: slot for slot, result in updates.items()}
    roles = [Role("state", f"{name}.{slot_of[r]}") if r in slot_of else Role("output", r) for r in names]
    keys = [p.key for p in params]
    order = sorted(range(len(roles)), key=lambda i: keys.index(roles[i].key) if roles[i].kind == "state" else -1)
    graph.outputs, outputs = [node.outputs[i] for i in order], [roles[i] for i in order]
    graph.rename()
    module.programs[name] = Program(graph, params, outputs, ("T", "S"))


class Bench:
    """The compiled library, and the memory of one program."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args = args
        table = operators(DType(args.weights), args.experts, args.window)
        self.table = {n: x for n, x in table.items() if not args.only or n in args.only.split(",")}
        module = Module(info={"role": "module"})
        for name, (op, operands, attrs) in self.table.items():
            program(module, name, op, operands, attrs)
        self.tokens = [int(t) for t in args.tokens.split(",")]
        self.plan = make_plan(module, PlanOptions(max_context=args.context + max(self.tokens), max_chunk=max(self.tokens)))
        for file, text in generate(self.plan, {w.name: 0 for w in self.plan.weights}).items():
            (folder / file).write_text(text)
        options, tools = make_options(arch="native"), find_compiler()
        includes = [f"-I{ROOT / 'runtime' / part}" for part in ("core", "include")]
        command = [*tools.command, *compile_flags(tools, options), "-shared", *includes, "-I.",
                   "model.cpp", str(SHIM), str(ROOT / "runtime/core/pool.cpp"), "-o", "bench.so"]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True)
        self.library = C.CDLL(str(folder / "bench.so"))
        self.library.bench_run.restype = self.library.bench_read.restype = C.c_double
        self.rng = np.random.default_rng(0)

    def fill(self, type_: TensorType, env: dict[str, int]) -> np.ndarray:
        shape = tuple(evaluate_dim(d, env) for d in type_.shape)
        if type_.dtype is I64:
            limit = self.args.experts if shape else 1
            if len(shape) == 2:
                return np.stack([self.rng.choice(limit, shape[1], replace=False) for _ in range(shape[0])])
            return np.asarray(env["S"], np.int64)
        if type_.dtype is F32:
            return (self.rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(np.float32)
        return np.zeros(evaluate_dim(type_.nbytes, env) + 64, np.uint8)

    def measure(self, name: str, tokens: int) -> dict[str, Any]:
        op, operands, attrs = self.table[name]
        plan, env = self.plan.programs[name], {"T": tokens, "S": self.args.context}
        node = make_node(op, [Value(n, t) for n, t in operands.items()], attrs)
        cost = opdef(op).cost(list(operands.values()), [v.type for v in node.outputs], attrs)
        nbytes, flops = evaluate_dim(cost.bytes, env), evaluate_dim(cost.flops, env)
        types = dict(zip((r.key for r in plan.params), operands.values(), strict=True))
        size = sum(evaluate_dim(t.nbytes, env) for t in types.values())
        copies = max(1, min(24, math.ceil(COLD / size)))
        sets = [self._operands(plan, types, env) for _ in range(copies)]
        runs = [self._exec(name, *operands_, env) for operands_ in sets]
        table = (C.c_void_p * copies)(*[C.addressof(r[0]) for r in runs])
        number = list(self.plan.programs).index(name)
        times, reads = [], []
        for _ in range(self.args.repeat):
            count = max(2, min(200, int(0.3e9 / max(nbytes, flops / 20))))
            times.append(self.library.bench_run(number, table, copies, count, self.args.threads, self.args.processor_time))
            reads.append(self.library.bench_read(C.c_int64(nbytes), count, self.args.threads, self.args.processor_time))
        middle = min if self.args.processor_time else statistics.median
        seconds, read = middle(times), middle(reads)
        return {"operator": name, "tokens": tokens, "microseconds": seconds * 1e6, "bytes": nbytes, "flops": flops,
                "gigabytes_per_second": nbytes / seconds / 1e9, "read_gigabytes_per_second": nbytes / read / 1e9,
                "share_of_read": read / seconds, "gigaflops": flops / seconds / 1e9}  # fmt: skip

    def _operands(self, plan: Any, types: dict[str, TensorType], env: dict[str, int]) -> tuple[list[np.ndarray], ...]:
        inputs = [self.fill(types[r.key], env) for r in plan.params if r.kind == "input"]
        grown = {**env, "S": env["S"] + env["T"]}
        states = [self.fill(types[s.name], grown) if s.name in types else np.zeros(1) for s in self.plan.states]
        weights = [self.fill(types[w.name], env) if w.name in types else np.zeros(1) for w in self.plan.weights]
        outputs = []
        for role, value in zip(plan.outputs, plan.function.graph.outputs, strict=True):
            if role.kind == "output":
                outputs.append(np.zeros(evaluate_dim(value.type.nbytes, env), np.uint8))
        return inputs, outputs, states, weights

    def _exec(self, name: str, inputs: Any, outputs: Any, states: Any, weights: Any, env: dict[str, int]) -> tuple[Any, ...]:
        arena = np.zeros(self.plan.programs[name].arena_bytes + 64, np.uint8)
        sizes = np.array([env["T"], env["S"]], np.int64)
        tables = [(C.c_void_p * max(1, len(a)))(*[x.ctypes.data for x in a]) for a in (inputs, outputs, states, weights)]
        fields = [sizes.ctypes.data, *[C.addressof(t) for t in tables], (arena.ctypes.data + 63) // 64 * 64, 0]
        return (C.c_void_p * 7)(*fields), arena, sizes, tables, inputs, outputs, states, weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1,4")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", choices=("f32", "bf16", "q8", "q4"), default="f32")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a machine that is busy")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cpu-kernels-") as folder:
        begin = time.perf_counter()
        bench = Bench(args, Path(folder))
        print(f"compiled in {time.perf_counter() - begin:.0f} s, {args.threads} threads, weights {args.weights}", file=sys.stderr)
        rows = []
        for tokens in bench.tokens:
            for name in bench.table:
                row = bench.measure(name, tokens)
                rows.append(row)
                if not args.json:
                    print(
                        f"T={tokens:<4d} {name:18s} {row['microseconds']:10.1f} us  {row['bytes'] / 1e6:8.2f} MB  "
                        f"{row['gigabytes_per_second']:6.2f} GB/s of "
                        f"{row['read_gigabytes_per_second']:6.2f} ({row['share_of_read']:4.0%})  "
                        f"{row['gigaflops']:7.1f} GFLOP/s", flush=True,
                    )  # fmt: skip
        if args.json:
            print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
