"""Speed of the matrix kernels beside a plain read of the same bytes, and beside numpy's sgemm.

python benchmarks/linear.py [--threads N] [--repeats N] [--tokens 1,4,512] [--json]

One token is a read of weights: GB/s of the kernel, of a plain read in the same loop, and their ratio. Many tokens are
arithmetic: GFLOP/s. With one thread the time is that thread's processor time, so that other jobs disturb it less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-pthread"]


def kernels(threads: int, repeats: int, tokens: list[int]) -> list[dict[str, Any]]:
    """The rows that linear.cpp prints."""
    with tempfile.TemporaryDirectory(prefix="pangu-linear-") as folder:
        program = Path(folder) / "linear"
        sources = [ROOT / "benchmarks/linear.cpp", ROOT / "runtime/core/pool.cpp"]
        includes = [f"-I{ROOT / 'codegen/cpu/kernels'}", f"-I{ROOT / 'runtime/core'}"]
        subprocess.run(["g++", *FLAGS, *includes, *sources, "-o", program], check=True)
        command = [program, str(threads), str(repeats), *map(str, tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def sgemm(threads: int, repeats: int, rows: int, columns: int, tokens: int) -> dict[str, Any]:
    """numpy's float32 product of the same sizes; the thread count must be in the environment before numpy is loaded."""
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    import numpy as np

    clock = time.thread_time if threads == 1 else time.perf_counter
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((n, columns), np.float32) for n in (tokens, rows))
    out, best = np.empty((tokens, rows), np.float32), 1e9
    for _ in range(repeats):
        begin = clock()
        np.matmul(x, w.T, out=out)
        best = min(best, clock() - begin)
    gflops = 2 * rows * columns * tokens / best / 1e9
    return {"format": "numpy", "O": rows, "I": columns, "T": tokens, "threads": threads,
            "seconds": round(best, 6), "gflops": round(gflops, 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tokens", default="1,4,512")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    tokens = [int(t) for t in options.tokens.split(",")]
    results = kernels(options.threads, options.repeats, tokens)
    large = next((r for r in results if r["T"] > 8), None)
    if large is not None:
        results.append(sgemm(options.threads, options.repeats, large["O"], large["I"], large["T"]))
    for r in results:
        if options.json:
            print(json.dumps(r))
            continue
        read = f"{r['gbytes_per_s']:7.2f} GB/s of {r['read_gbytes_per_s']:6.2f} ({r['share']:4.0%})" if "share" in r else ""
        rate = f"{r['seconds'] * 1e3:9.3f} ms {r['gflops']:7.1f} GFLOP/s"
        print(f"T={r['T']:<4d} {r['format']:6s} {r['O']:6d} x {r['I']:<6d} {rate} {read}")


if __name__ == "__main__":
    main()
