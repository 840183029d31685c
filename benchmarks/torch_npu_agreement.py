"""Random small checkpoints: the torch_npu program on CPU reference implementations (simulated) against the CPU artifact.

    python benchmarks/torch_npu_agreement.py --seeds 9 [--sizes small] [--first 0] [--weights f32]
        [--activations bf16] [--json FILE]

Both have the same weights. One line a checkpoint: the largest |logit difference| on the prompt, over all its tokens and of the
median one, as a share of the largest |logit|, and how often the top token is the same; how many of the greedy tokens agree (up to
the first that differs), with drafts and without; and of the sampled ones (temperature 20: drafts are accepted and refused), of the
same seed. Sizes as in `ascend_agreement.py`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from agreement import parser, random_checkpoint, save, seeds_and_folders

import pangu_compile
from pangu_compile.driver.execute import open_model
from pangu_compile.runtime import Sampling

CONTEXT = 256
SAMPLED = Sampling(temperature=20.0, seed=1)
RUNS = {"plain": (Sampling(), False), "drafted": (Sampling(), True), "sampled": (SAMPLED, True)}


def run(path: Path, prompt: list[int], count: int) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Logits [tokens, vocab] of the prompt, and the tokens of every run."""
    _, model = open_model(path, 1)
    with model:
        with model.session(speculate=False) as session:
            logits = session.prefill(prompt, all_logits=True)
        found = {}
        for name, (sampling, speculate) in RUNS.items():
            with model.session(speculate=speculate) as session:
                found[name] = list(session.generate(prompt, count, sampling, speculate).tokens)
    return logits, found


def same(a: list[int], b: list[int]) -> int:
    """How many tokens agree before the first that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))


def check(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    config, checkpoint = random_checkpoint(seed, folder, options.sizes, CONTEXT)
    pangu_compile.build(checkpoint, folder / "cpu.pangu", weights=options.weights, opt_level=1)
    formats = {"weights": options.weights, "activations": options.activations}
    pangu_compile.build(checkpoint, folder / "npu.pangu", target="torch_npu", chip=options.chip, **formats)
    prompt = np.random.default_rng(seed + 1000).integers(0, config.vocab_size, options.tokens).tolist()
    (want, tokens), (got, ours) = (run(folder / f"{name}.pangu", prompt, options.generate) for name in ("cpu", "npu"))
    rows = np.abs(got - want).max(-1) / np.abs(want).max()
    return {
        "seed": seed, "largest": float(rows.max()), "median": float(np.median(rows)),
        "top": float((got.argmax(-1) == want.argmax(-1)).mean()),
        **{name: same(ours[name], tokens["plain" if name == "drafted" else name]) for name in RUNS},
    }  # fmt: skip


def main() -> None:
    options_parser = parser(__doc__, 9, ("bf16", "f32"))
    options_parser.add_argument("--chip", default="ascend910b")
    options = options_parser.parse_args()
    records = []
    for seed, folder in seeds_and_folders(options):
        begin = time.perf_counter()
        r = check(seed, folder, options)
        records.append(r)
        tokens = ", ".join(f"{name} {r[name]}" for name in RUNS)
        print(
            f"seed {seed:3d} {r['largest']:.2e} largest, {r['median']:.2e} median, top {r['top']:.1%}; of {options.generate} tokens"
            f" {tokens}  {time.perf_counter() - begin:.0f} s", flush=True,
        )  # fmt: skip
        save(records, options)
    for name in RUNS:
        equal = sum(r[name] == options.generate for r in records)
        print(f"{equal} of {options.seeds} with all {name} tokens the CPU's (simulated)")


if __name__ == "__main__":
    main()
