"""Builds what is to run, boots one emulated machine after another, and says what ran and what failed.

    python -m tests.emulated [--cpu tigerlake] [--only linear,index,artifacts,families] [--families norm,...] [--weights bf16,...]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from tests.codegen.kernels.cases import FAMILIES

from .machine import MachineError, Result, boot, parts
from .programs import KINDS, PROCESSORS, ROOT, WEIGHTS, Processor, artifacts, families, index, linear, with_libraries

FOLDER = ROOT / "build/emulated"


def run(processor: Processor, args: argparse.Namespace) -> int:
    """All that was asked for on one processor; returns how many jobs failed."""
    made = {
        "linear": lambda folder: linear(folder, processor, args.quick),
        "index": lambda folder: index(folder, processor),
        "artifacts": lambda folder: artifacts(folder, processor, args.weights),
        "families": lambda folder: families(folder, processor, args.families),
    }
    jobs, files = [], {}
    programs = FOLDER / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for kind in args.only:
        print(f"building {KINDS[kind]} for {processor.level.name}", flush=True)
        more, needed = made[kind](programs)
        jobs += more
        files |= needed
    failures, begun = 0, time.monotonic()
    judges = {job.name: job.judge for job in jobs}
    for event in boot(FOLDER / processor.name, parts(FOLDER / "packages"), processor.name, jobs, with_libraries(files), args.limit):
        if not isinstance(event, Result):
            flags = sorted(word for word in event.split() if word.startswith("avx"))
            print(f"{processor.name} after {time.monotonic() - begun:.0f} s, emulated: {' '.join(flags)}", flush=True)
            continue
        wrong = judges[event.name](event.status, event.output)
        failures += bool(wrong)
        print(f"{'FAILED' if wrong else 'passed'} on {processor.name}: {event.name} ({event.seconds:.0f} s)", flush=True)
        if wrong or args.verbose:
            print(wrong or event.output, flush=True)
    return failures


def main() -> int:
    def names(allowed: tuple[str, ...]):
        def parse(text: str) -> list[str]:
            if unknown := set(text.split(",")) - set(allowed):
                raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(allowed)}")
            return text.split(",")

        return parse

    cpus = tuple(p.name for p in PROCESSORS)
    parser = argparse.ArgumentParser(prog="python -m tests.emulated", description=__doc__.split("\n")[0])
    for option, allowed in (("cpu", cpus), ("only", tuple(KINDS)), ("families", tuple(FAMILIES)), ("weights", WEIGHTS)):
        parser.add_argument(f"--{option}", type=names(allowed), default=list(allowed), help=f"default: {','.join(allowed)}")
    parser.add_argument("--quick", action="store_true", help="fewer tokens in the matrix kernels' check")
    parser.add_argument("--keep", action="store_true", help="take the programs that an earlier call has built")
    parser.add_argument("--verbose", action="store_true", help="print what every job prints")
    parser.add_argument("--limit", type=float, default=7200, help="seconds that a machine may run (default 7200)")
    args = parser.parse_args()
    if not args.keep:
        shutil.rmtree(FOLDER / "programs", ignore_errors=True)
    try:
        failures = sum(run(processor, args) for processor in PROCESSORS if processor.name in args.cpu)
    except MachineError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{failures} jobs failed" if failures else "all passed, emulated by Bochs")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
