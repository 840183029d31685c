"""The torch reference as a peer of side_by_side.py, eager or through torch.compile: prefill alone, logits of the last row.

python benchmarks/side_by_side.py --ours bf16=build/bf16.pangu --contexts "" --prompts 512 \\
    --peer bf16='python benchmarks/torch_peer.py build/flash-slice --dtype bfloat16 --compile'

Each prompt length is compiled (and run twice) before it is timed. The reference is written to be read and traced, not to be fast;
what is timed is what torch makes of it. It recomputes everything for each new token, so decoding is not offered.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from pangu_compile.models.loading import load_reference


class Peer:
    """One model; `compiled` holds the prompt lengths that have been warmed up."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, compiled: bool):
        self.model = load_reference(checkpoint, dtype=dtype, mtp=False)
        self.vocabulary = self.model.config.vocab_size
        self.run = torch.compile(self._last, dynamic=False) if compiled else self._last
        self.warm: set[tuple[int, int]] = set()

    def _last(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.logits_from_hidden(self.model.hidden(tokens)[:, -1:])

    def prefill(self, threads: int, count: int) -> tuple[float, float]:
        """Seconds by the clock and of the processor for one prompt of `count` random tokens."""
        torch.set_num_threads(threads)
        tokens = torch.randint(0, self.vocabulary, (1, count))
        with torch.inference_mode():
            if (threads, count) not in self.warm:
                self.run(tokens)
                self.run(tokens)
                self.warm.add((threads, count))
            wall, cpu = time.perf_counter(), time.process_time()
            self.run(tokens)
            return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    peer = Peer(options.checkpoint, getattr(torch, options.dtype), options.compile)
    print("ready", flush=True)
    for line in sys.stdin:
        kind, *numbers = line.split()
        if kind != "prefill":
            raise SystemExit(f"torch_peer: {kind} is not offered; give --contexts '' to side_by_side.py")
        print(*peer.prefill(*map(int, numbers)), flush=True)


if __name__ == "__main__":
    main()
