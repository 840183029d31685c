"""The kernels that a module's operators ask for: one for every shape, each named once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from pangu_compile.ir import IRError

from ..kernel import Kernel
from ..platform import Platform
from ..tiling import TilingError

Builder = Callable[..., Kernel]


class Kernels:
    """Kernels by what they compute; `made` in the order of first use."""

    def __init__(self, chip: Platform):
        self.chip = chip
        self.made: dict[Hashable, Kernel] = {}
        self._names: dict[str, int] = {}

    def get(self, builder: Builder, base: str, **shape: Any) -> Kernel:
        """The kernel of that builder and shape; a new one is named after `base`. IRError where the chip cannot hold it."""
        key = (builder.__name__, tuple(sorted(shape.items())))
        if key not in self.made:
            count = self._names.get(base, 0)
            self._names[base] = count + 1
            try:
                self.made[key] = builder(self.chip, base if count == 0 else f"{base}_{count}", **shape)
            except TilingError as error:
                raise IRError(f"ascend: {error}") from error
        return self.made[key]

    def all(self) -> list[Kernel]:
        return list(self.made.values())


def workspace_bytes(kernel: Kernel) -> str | None:
    """C++ expression of the workspace's size over the planned tiling `t`; None where there is none."""
    shapes = [a.shape for a in kernel.arguments if a.role == "workspace"]
    if not shapes:
        return None
    terms = []
    for term in shapes[0].split(" + "):
        factors = [f if f.strip().isdigit() else f"t.{f.strip()}" for f in term.split(",")]
        terms.append(" * ".join(["uint64_t{4}", *(f.strip() for f in factors)]))
    return " + ".join(terms)
