"""Time and memory from Flash's config.json to plan and generated sources (meta weights, nothing is read or compiled).

    python benchmarks/flash_plan.py CONFIG.json [--max-context 524288]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from pangu_compile.codegen.cpu import generate
from pangu_compile.driver.build import make_model_plan
from pangu_compile.driver.options import make_options
from pangu_compile.driver.progress import Silent
from pangu_compile.models.config import OpenPanguConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--max-context", type=int, default=4096)
    parser.add_argument("--weights", default="bf16")
    options = parser.parse_args()
    config = OpenPanguConfig.from_dict(json.loads(options.config.read_text()), str(options.config))
    begin, begin_cpu = time.perf_counter(), time.process_time()
    chosen = make_options(weights=options.weights, max_context=options.max_context)
    plan = make_model_plan(config, chosen, options.max_context, None, Silent())
    planned = time.perf_counter()
    sources = generate(plan, {w.name: 0 for w in plan.weights})
    done = time.perf_counter()
    print(f"CPU time            {time.process_time() - begin_cpu:6.1f} s")
    print(f"trace, passes, plan {planned - begin:6.1f} s ({config.num_layers} layers as {len(plan.functions)} functions)")
    print(f"generated sources   {done - planned:6.1f} s ({sum(map(len, sources.values())) / 1e3:.0f} kB)")
    print(f"peak memory         {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:6.0f} MB")


if __name__ == "__main__":
    main()
