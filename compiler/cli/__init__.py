"""The command line: `pangu-compile` and `python -m pangu_compile`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 fine, 1 the work failed, 2 bad usage or input."""
    try:
        from .app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(
            f"pangu-compile: error: the command line needs {error.name}; pip install 'pangu-compile[compile]'",
            file=sys.stderr,
        )
        return 2
    return run(list(args) if args is not None else None)
