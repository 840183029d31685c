"""In the emulated machine: the checks of compiled families of fused operators. On the host: the files that this takes.

    python -m tests.emulated.guest check FOLDER FAMILY...     FOLDER/FAMILY/model.so has that family's cases
    python -m tests.emulated.guest files                      runs the same without libraries, and prints what it has read
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.codegen.kernels.cases import FAMILIES, cases
from tests.codegen.kernels.checks import run_all
from tests.codegen.kernels.library import Library


class Unloaded(Library):
    """Computes nothing, so that every check fails."""

    def load(self) -> None:
        pass

    def _call(self, *args: Any) -> None:
        pass


def check(folder: Path, families: list[str]) -> int:
    """Prints each family with its number of cases, and a line for every check that fails."""
    failures = 0
    for family in families:
        library = Library(cases(family), folder / family)
        library.load()
        failed = list(run_all(library))
        failures += len(failed)
        print(f"{family}: {len(library.cases)} cases, {len(failed)} failures", *failed, sep="\n", flush=True)
    return 1 if failures else 0


def files() -> int:
    """Sources of the modules loaded, their compiled forms, and all files in memory: shared libraries and the interpreter."""
    if not all([list(run_all(Unloaded(cases(family), Path()))) for family in FAMILIES]):
        print("the checks do not see that nothing was computed", file=sys.stderr)
        return 1
    found = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    for module in list(sys.modules.values()):
        found |= {f for f in (getattr(module, "__file__", None), getattr(module, "__cached__", None)) if f is not None}
    for folder in map(Path, sys.path):
        found |= {str(f) for f in folder.glob("*.pth")}
    found |= {str(f) for f in (Path(sys.prefix) / "pyvenv.cfg",) if f.exists()}
    print("\n".join(sorted(f for f in found if Path(f).is_file())))
    return 0


if __name__ == "__main__":
    sys.exit(files() if sys.argv[1:] == ["files"] else check(Path(sys.argv[2]), sys.argv[3:]))
