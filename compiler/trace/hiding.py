"""Parameters that a program does not read itself are hidden while it is exported.

torch.export lifts every parameter into the graph's inputs, used or not, under each of its names: for a program of 46
outlined layers, whose parameters only the layers read, that is nearly all of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pangu_compile.models.outlining import recording


class _Reads(TorchFunctionMode):
    """Collects the parameters that operators are given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._collect((args, kwargs))
        return func(*args, **(kwargs or {}))

    def _collect(self, value: Any) -> None:
        if isinstance(value, (tuple, list)):
            for item in value:
                self._collect(item)
        elif isinstance(value, dict):
            self._collect(list(value.values()))
        elif isinstance(value, torch.Tensor):
            self.seen.add(id(value))


def _unread(module: torch.nn.Module, args: Sequence[torch.Tensor]) -> set[int]:
    """Ids of the parameters that no operator reads, found by running on the meta device (outlined modules do not run)."""
    reads = _Reads()
    with torch.no_grad(), recording(), reads:
        module(*args)
    return {id(p) for p in module.parameters()} - reads.seen


@contextmanager
def unread_parameters_hidden(module: torch.nn.Module, args: Sequence[torch.Tensor]) -> Iterator[None]:
    """While active, parameters that `module` does not read are plain attributes. For meta arguments; else nothing changes."""
    changed: list[tuple[torch.nn.Module, dict[str, torch.nn.Parameter | None]]] = []
    hidden = _unread(module, args) if all(a.device.type == "meta" for a in args) else set()
    for child in module.modules():
        kept = {name: p for name, p in child._parameters.items() if p is None or id(p) not in hidden}
        if len(kept) < len(child._parameters):
            changed.append((child, child._parameters))
            child.__dict__.update({name: p for name, p in child._parameters.items() if name not in kept})
            child.__dict__["_parameters"] = kept
    try:
        yield
    finally:
        for child, parameters in changed:
            for name in parameters.keys() - child._parameters.keys():
                del child.__dict__[name]
            child.__dict__["_parameters"] = parameters
