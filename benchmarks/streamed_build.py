"""Peak memory of a build with real weights: weights are streamed, so it stays near the largest tensor.

    python benchmarks/checkpoints.py several-gb build/several-gb
    python benchmarks/streamed_build.py build/several-gb --weights bf16

Prints the checkpoint's size, its largest tensor, the largest tensor of the artifact, and the peak resident memory of
the build process above what importing and tracing alone take (a first run on the same config.json, with no weights).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAN_ONLY = """
import sys
from pangu_compile.driver.build import load_config, make_model_plan
from pangu_compile.driver.checkpoint import Checkpoint
from pangu_compile.driver.options import make_options
from pangu_compile.driver.progress import Silent
import resource
opened = Checkpoint.open(sys.argv[1])
options = make_options(weights=sys.argv[2])
config = load_config(opened)
make_model_plan(config, options, options.context(config.max_position_embeddings), None, Silent())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
BUILD = """
import sys, resource
import pangu_compile
pangu_compile.build(sys.argv[1], sys.argv[3], weights=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run(script: str, *args: str) -> tuple[int, float]:
    """Peak resident bytes of a process, and its seconds."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *args], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--weights", default="bf16")
    options = parser.parse_args()
    from pangu_compile.driver.checkpoint import Checkpoint

    opened = Checkpoint.open(options.checkpoint)
    sizes = {name: info.nbytes for name, info in opened.tensors.items()}
    planned, _ = run(PLAN_ONLY, str(options.checkpoint), options.weights)
    with tempfile.TemporaryDirectory(dir=options.checkpoint.parent) as scratch:
        out = Path(scratch) / "model.pangu"
        peak, seconds = run(BUILD, str(options.checkpoint), options.weights, str(out))
        tensors = json.loads((out / "manifest.json").read_text())["tensors"]
        artifact = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    largest = max(sizes, key=lambda name: sizes[name])
    built = max(tensors, key=lambda name: tensors[name]["nbytes"])
    mb = 1e6
    whole = f"{sum(sizes.values()) / 1e9:8.2f} GB in {len(sizes)} tensors"
    print(f"checkpoint          {whole}; largest {sizes[largest] / mb:.0f} MB ({largest})")
    print(f"artifact            {artifact / 1e9:8.2f} GB; largest tensor {tensors[built]['nbytes'] / mb:.0f} MB ({built})")
    print(f"peak, plan only     {planned / mb:8.0f} MB (imports, tracing, passes, plan)")
    print(f"peak, whole build   {peak / mb:8.0f} MB in {seconds:.0f} s")
    print(f"for the weights     {(peak - planned) / mb:8.0f} MB = {(peak - planned) / sum(sizes.values()):.1%} of the checkpoint")


if __name__ == "__main__":
    main()
