"""`python -m pangu_compile.models.train`: trains the checkpoint and writes its report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pangu_compile.errors import UserError


def main() -> int:
    """Trains (or resumes) and then evaluates; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pangu_compile.models.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/openpangu-2.0-tiny"), help="checkpoint folder")
    parser.add_argument("--work", type=Path, default=Path("build/train"), help="corpus cache and snapshots")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: those of the shipped checkpoint)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    from pangu_compile.models.train.data import load_corpus
    from pangu_compile.models.train.train import Options, Run

    if args.steps is not None and args.steps < 1:
        parser.error("--steps must be at least 1")
    try:
        args.work.mkdir(parents=True, exist_ok=True)
        extra = {"steps": args.steps} if args.steps is not None else {}
        run = Run(Options(out=args.out, work=args.work, threads=args.threads, **extra))
        run.resume()
        run.run()
        from pangu_compile.models.train.evaluate import report

        result = report(args.out, load_corpus(args.work)[1])
        print(f"held-out bits/byte {result['bits_per_byte']:.4f}, acceptance per head {result['acceptance']}")
    except UserError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
