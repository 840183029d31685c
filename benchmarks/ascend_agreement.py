"""Random small checkpoints: the simulated Ascend artifact against the CPU artifact of the same weights, and float64.

    python benchmarks/ascend_agreement.py --seeds 30 [--first 0] [--weights bf16] [--target ascend910b] [--json FILE]

One line a checkpoint: the largest |logit difference| in percent of the largest |logit|, how often the top token is the same, and
the same two for each artifact against the torch reference in float64; then whether greedy tokens agree with the CPU's, and with
and without drafts. Everything of the Ascend artifact is simulated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pangu_compile
from pangu_compile.driver.execute import open_model
from pangu_compile.models.loading import load_reference
from pangu_compile.models.random_checkpoint import random_config, write_random_checkpoint

LIMIT, SAME = 0.02, 0.98


def compare(got: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """Largest difference over the largest |logit| of `want`, and the share of positions with the same top token."""
    return float(np.abs(got - want).max() / np.abs(want).max()), float((got.argmax(-1) == want.argmax(-1)).mean())


def generated(model: Any, prompt: list[int], count: int) -> dict[str, list[int]]:
    found = {}
    for name, speculate in (("plain", False), ("drafted", True)):
        with model.session(speculate=speculate) as session:
            found[name] = list(session.generate(prompt, max_new_tokens=count, speculate=speculate).tokens)
    return found


def check(seed: int, folder: Path, weights: str, target: str, tokens: int, count: int) -> dict[str, Any]:
    """Build both artifacts of the seed's checkpoint and compare them."""
    config = dataclasses.replace(random_config(seed), max_position_embeddings=512)
    checkpoint = write_random_checkpoint(folder / "checkpoint", config, seed=seed)
    common = {"weights": weights, "max_context": 256, "jobs": 1}
    pangu_compile.build(checkpoint, folder / "cpu.pangu", opt_level=1, **common)
    pangu_compile.build(checkpoint, folder / "npu.pangu", target=target, **common)
    prompt = np.random.default_rng(seed + 1000).integers(0, config.vocab_size, tokens).tolist()
    with torch.no_grad():
        want = load_reference(checkpoint, dtype=torch.float64)(torch.tensor([prompt]))[0].numpy()
    logits, found = {}, {}
    for name, simulate in (("cpu", False), ("npu", True)):
        _, model = open_model(folder / f"{name}.pangu", 1, simulate)
        with model:
            with model.session(speculate=False) as session:
                logits[name] = session.prefill(prompt, all_logits=True)
            found[name] = generated(model, prompt[: 1 + seed % 70], count)
    difference, same = compare(logits["npu"], logits["cpu"])
    return {
        "seed": seed, "difference": difference, "same": same, "npu_float64": compare(logits["npu"], want),
        "cpu_float64": compare(logits["cpu"], want), "greedy_as_cpu": found["npu"]["plain"] == found["cpu"]["plain"],
        "drafts_change_nothing": found["npu"]["plain"] == found["npu"]["drafted"],
        "within": difference <= LIMIT and same >= SAME,
    }  # fmt: skip


def line(r: dict[str, Any], seconds: float) -> str:
    def share(pair: tuple[float, float]) -> str:
        return f"{pair[0]:.2%}/{pair[1]:.1%}"

    words = "ok  " if r["within"] else "OVER"
    return (
        f"seed {r['seed']:3d} {words} npu-cpu {share((r['difference'], r['same']))}  npu-float64 {share(r['npu_float64'])}"
        f"  cpu-float64 {share(r['cpu_float64'])}  greedy {'same' if r['greedy_as_cpu'] else 'differs'}"
        f"  drafts {'same' if r['drafts_change_nothing'] else 'DIFFER'}  {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--weights", default="bf16", choices=("bf16", "int8"))
    parser.add_argument("--target", default="ascend910b")
    parser.add_argument("--tokens", type=int, default=70)
    parser.add_argument("--generate", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = []
    for seed in range(options.first, options.first + options.seeds):
        folder, begin = Path(tempfile.mkdtemp(prefix="pangu-agreement-")), time.perf_counter()
        try:
            records.append(check(seed, folder, options.weights, options.target, options.tokens, options.generate))
            print(line(records[-1], time.perf_counter() - begin), flush=True)
        except Exception as error:
            print(f"seed {seed:3d} FAILED {type(error).__name__}: {error}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if options.json:
            options.json.write_text(json.dumps(records, indent=1) + "\n")
    print(f"{sum(r['within'] for r in records)} of {options.seeds} within {LIMIT:.0%} and {SAME:.0%} (simulated)")


if __name__ == "__main__":
    main()
