"""Random small checkpoints: the simulated Ascend artifact against the CPU artifact of the same weights, and float64.

    python benchmarks/ascend_agreement.py --seeds 30 [--sizes small] [--first 0] [--weights int8] [--json FILE]
        [--activations bf16]

Sizes: small has hidden 64 to 192, 1 to 7 heads and 5 to 16 experts; tiny has hidden 9 to 40, 1 to 5 heads and 3 to 9 experts.
With int8 the CPU artifact is that of `--weights w8a16`: the same weights, but activations of 16 bits, not 24. With w8a16 it has the
same formats; with w8a8, and int8 with `--activations bf16`, that of w8a8 has the same integers as well.
One line a checkpoint: the largest |logit difference| in percent of the largest |logit|, how often the top token is the same, and on
how many rows of the prompt the difference is within the limit: of the Ascend artifact against the CPU's; of either against torch
in float64; of either against "stored", the optimised graph in float64 arithmetic with the weights as they are stored, which leaves
only how activations are rounded; and of "bf16 alone" against float64: the same with the weights as they were given, and its
operators' results rounded to bf16 where the device would store them so. Where a router's or an indexer's scores nearly tie, any
such rounding may choose otherwise, and these rows tell nothing of kernels.
Then the same for the first 1 to 70 of these tokens, a length that the seed draws: the longer a prompt, the more near ties it has.
Then whether greedy tokens agree with the CPU's, and with and without drafts. Everything of the Ascend artifact is simulated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import parser, random_checkpoint, save, seeds_and_folders

from pangu_compile.driver.artifact import ArtifactWriter
from pangu_compile.driver.bf16 import from_bf16, to_bf16
from pangu_compile.driver.build import canonical_reader, load_config
from pangu_compile.driver.checkpoint import Checkpoint
from pangu_compile.driver.emit import Job, emit
from pangu_compile.driver.execute import open_model
from pangu_compile.driver.optimise import optimise, traced_model
from pangu_compile.driver.options import make_options
from pangu_compile.driver.packing import pack, unpack
from pangu_compile.driver.progress import Silent
from pangu_compile.driver.targets.ascend import STEPS, Request, write_artifact
from pangu_compile.driver.toolchain import find_compiler
from pangu_compile.ir import DType, Graph, Module, Value, evaluate_dim, opdef
from pangu_compile.models.loading import load_reference
from pangu_compile.plan import PlanOptions, make_plan
from pangu_compile.plan.plan import PlannedWeight, _weights

CONTEXT = 256
WIDE_RESULTS = {"new_post", "new_res", "new_x", "weight", "iw"}  # float32 on the device
WIDE_OPERATORS = {"rotary_table", "attention_output", "dense_ffn", "broadcast"}
LIMIT, SAME = 0.02, 0.98
CPU_FORMATS = {"w8a24": "w8a16"}  # where a CPU has not what Ascend has: the same weights
Agreement = tuple[float, float, int]


def compare(got: np.ndarray, want: np.ndarray) -> Agreement:
    """Largest difference over the largest |logit| of `want`, share of rows with the same top token, count of rows within LIMIT."""
    rows = np.abs(got - want).max(-1) / np.abs(want).max()
    return float(rows.max()), float((got.argmax(-1) == want.argmax(-1)).mean()), int((rows <= LIMIT).sum())


def within(agreement: Agreement) -> bool:
    return agreement[0] <= LIMIT and agreement[1] >= SAME


def rounded(values: np.ndarray) -> np.ndarray:
    return from_bf16(to_bf16(values.astype(np.float32))).astype(np.float64)


def stored(weight: PlannedWeight, values: np.ndarray) -> np.ndarray:
    """A weight's values after packing."""
    layout = DType(weight.dtype).layout
    return unpack(layout, pack(layout, values), values.shape).reshape(values.shape) if layout != "f32" else values


class InFloat64:
    """The program `step` in float64. bf16: operators' results are rounded where the device stores bf16; else weights are packed."""

    def __init__(self, module: Module, read: Any, bf16: bool):
        self.module, self.bf16 = module, bf16
        values = {w.name: (w, w.compute(read)) for w in _weights(module)}
        self.weights = {n: (v if bf16 else stored(w, v)).astype(np.float64) for n, (w, v) in values.items()}

    def logits(self, tokens: list[int]) -> np.ndarray:
        program, arrays = self.module.programs["step"], []
        given = {"tokens": np.asarray(tokens), "start": np.asarray(0), "rows": np.arange(len(tokens))}
        for role in program.params:
            if role.kind == "state":
                state = self.module.states[role.key]
                arrays.append(np.zeros((state.rows or 0, state.width)))
            else:
                arrays.append(given[role.key] if role.kind == "input" else self.weights[role.key])
        return self._run(program.graph, arrays, {"T": len(tokens), "S": 0, "M": len(tokens)}, set(program.graph.outputs[:1]))[0]

    def _run(self, graph: Graph, arrays: list[np.ndarray], env: dict[str, int], exact: set[Value]) -> list[np.ndarray]:
        held = dict(zip(graph.params, arrays, strict=True))
        whole: dict[Value, np.ndarray] = {}  # before rounding: what a router reads
        for node in graph.nodes:
            operands = [whole.get(v, held[v]) if node.op == "moe_gate" else held[v] for v in node.inputs]
            if node.op == "call":
                inner = {**env, **{name: evaluate_dim(d, env) for name, d in node.dims.items()}}
                results = self._run(self.module.functions[node.attrs["function"]], operands, inner, set())
            else:
                results = opdef(node.op).evaluate(operands, node.attrs, env)
                names = node.attrs.get("results") or [""] * len(results)
                for i, (name, value) in enumerate(zip(names, node.outputs, strict=True)):
                    wide = name in WIDE_RESULTS or node.op in WIDE_OPERATORS or value in exact
                    if self.bf16 and results[i].dtype.kind == "f" and not wide:
                        whole[value] = results[i]
                        results[i] = rounded(results[i])
            held.update(zip(node.outputs, results, strict=True))
        return [held[v] for v in graph.outputs]


def generated(model: Any, prompt: list[int], count: int) -> dict[str, list[int]]:
    found = {}
    for name, speculate in (("plain", False), ("drafted", True)):
        with model.session(speculate=speculate) as session:
            found[name] = list(session.generate(prompt, max_new_tokens=count, speculate=speculate).tokens)
    return found


def build_both(checkpoint: Path, folder: Path, weights: str, activations: str, target: str) -> tuple[Module, Any]:
    """One trace, both artifacts; the module and its weights' reader."""
    opened = Checkpoint.open(checkpoint)
    config = load_config(opened)
    common: dict[str, Any] = {"jobs": 1, "opt_level": 1, "activations": activations}
    options = {target: make_options(target=target, weights=weights, **common)}
    stored = options[target].stored_weights
    options["cpu"] = make_options(weights=CPU_FORMATS.get(stored, stored), **common)
    read = canonical_reader(opened, config)
    module = traced_model(config, options[target], Silent(), steps=STEPS)
    optimise(module, options[target], Silent())
    sizes = {"vocab_size": config.vocab_size, "hidden_size": config.hidden_size, "num_drafts": config.num_nextn_predict_layers}
    manifest = {**sizes, "eos_token_ids": []}
    with ArtifactWriter(folder / "cpu.pangu") as writer:
        plan = make_plan(module, PlanOptions(max_context=CONTEXT))
        emit(Job(plan, read, options["cpu"], find_compiler(None), manifest, (), read.parts), writer, Silent())
    request = Request(module, read, read.parts, options[target], CONTEXT, manifest)
    write_artifact(request, folder / "npu.pangu", Silent())
    return module, read


def check(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build both artifacts of the seed's checkpoint and compare them."""
    config, checkpoint = random_checkpoint(seed, folder, options.sizes, 512)
    module, read = build_both(checkpoint, folder, options.weights, options.activations, options.target)
    rng = np.random.default_rng(seed + 1000)
    prompt = rng.integers(0, config.vocab_size, options.tokens).tolist()
    length = int(rng.integers(1, options.tokens + 1))
    with torch.no_grad():
        want = load_reference(checkpoint, dtype=torch.float64)(torch.tensor([prompt]))[0].numpy()
    logits, found = {"bf16": InFloat64(module, read, True).logits(prompt)}, {}
    packed = InFloat64(module, read, False).logits(prompt)
    for name, simulate in (("cpu", False), ("npu", True)):
        _, model = open_model(folder / f"{name}.pangu", 1, simulate)
        with model:
            with model.session(speculate=False) as session:
                logits[name] = session.prefill(prompt, all_logits=True)
            found[name] = generated(model, prompt[:length], options.generate)
    whole, drawn = compare(logits["npu"], logits["cpu"]), compare(logits["npu"][:length], logits["cpu"][:length])
    exact = {f"{name}_float64": compare(values, want) for name, values in logits.items()}
    exact |= {f"{name}_stored": compare(logits[name], packed) for name in ("npu", "cpu")}
    alone = compare(logits["bf16"][:length], want[:length])  # of a row, whatever follows it: attention is causal
    return {
        "seed": seed, "npu_cpu": whole, **exact, "within": within(whole), "length": length, "drawn_npu_cpu": drawn,
        "drawn_within": within(drawn), "drawn_bf16_float64": alone,
        "greedy_as_cpu": found["npu"]["plain"] == found["cpu"]["plain"],
        "drafts_change_nothing": found["npu"]["plain"] == found["npu"]["drafted"],
    }  # fmt: skip


def line(r: dict[str, Any], seconds: float) -> str:
    def share(found: Agreement) -> str:
        return f"{found[0]:.3%}/{found[1]:.1%}/{found[2]}"

    words = "ok  " if r["within"] else "OVER"
    parts = [f"npu-cpu {share(r['npu_cpu'])}  against float64:"]
    parts += [f"{label} {share(r[f'{name}_float64'])}" for label, name in (("npu", "npu"), ("cpu", "cpu"), ("bf16 alone", "bf16"))]
    parts.append(f" stored: npu {share(r['npu_stored'])} cpu {share(r['cpu_stored'])}")
    parts.append(f" {r['length']} tokens {'ok' if r['drawn_within'] else 'OVER'} {share(r['drawn_npu_cpu'])}")
    parts.append(f" greedy {'same' if r['greedy_as_cpu'] else 'differs'}")
    parts.append(f" drafts {'same' if r['drafts_change_nothing'] else 'DIFFER'}  {seconds:.0f} s")
    return f"seed {r['seed']:3d} {words} " + " ".join(parts)


def main() -> None:
    options_parser = parser(__doc__, 30, ("bf16", "int8", "w8a16", "w8a8"))
    options_parser.add_argument("--target", default="ascend910b")
    options = options_parser.parse_args()
    records: list[dict[str, Any]] = []
    for seed, folder in seeds_and_folders(options):
        begin = time.perf_counter()
        try:
            records.append(check(seed, folder, options))
            print(line(records[-1], time.perf_counter() - begin), flush=True)
        except Exception as error:
            print(f"seed {seed:3d} FAILED {type(error).__name__}: {error}", flush=True)
        save(records, options)
    for key, words in (("within", f"{options.tokens} tokens"), ("drawn_within", "prompts of the lengths drawn")):
        print(f"{sum(r[key] for r in records)} of {options.seeds} within {LIMIT:.0%} and {SAME:.0%} on {words} (simulated)")


if __name__ == "__main__":
    main()
