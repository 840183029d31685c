"""Modules that are traced once per structure: a 46-layer model is traced as its few kinds of layers.

`outlined(module, ...)` just calls the module, except while tracing: then it records one opaque operator, and the tracer
exports each distinct structure on its own. Two modules have the same structure when their classes, plain attributes,
submodules and parameter shapes are equal; anything unknown among the attributes makes a module unlike all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Recording:
    """Paths of the outlined modules met while tracing, in order of their calls; an operator's `key` is the position."""

    paths: list[str] = field(default_factory=list)
    shapes: list[Callable[[Sequence[Tensor]], list[Tensor]]] = field(default_factory=list)


_active: list[Recording] = []


@contextmanager
def recording() -> Iterator[Recording]:
    """While active, `outlined` records calls instead of making them."""
    record = Recording()
    _active.append(record)
    try:
        yield record
    finally:
        _active.pop()


@torch.library.custom_op("pangu_compile::outlined", mutates_args=())
def _operator(args: list[Tensor], key: int) -> list[Tensor]:
    raise RuntimeError("pangu_compile::outlined stands for a traced module; it does not run")


@_operator.register_fake
def _fake(args: list[Tensor], key: int) -> list[Tensor]:
    return _active[-1].shapes[key](args)


def outlined(
    module: nn.Module, path: str, args: Sequence[Tensor], shapes: Callable[[Sequence[Tensor]], list[Tensor]]
) -> list[Tensor]:
    """module(*args) as a list of tensors.

    `path` is the module's name in the traced program (torch hands out proxies of submodules while it traces, so the
    object does not tell); `shapes` gives empty tensors like the results, and is used while tracing alone.
    """
    if not _active:
        result = module(*args)
        return [result] if isinstance(result, Tensor) else list(result)
    record = _active[-1]
    record.paths.append(path)
    record.shapes.append(shapes)
    return list(torch.ops.pangu_compile.outlined(list(args), len(record.paths) - 1))


def structure(module: nn.Module) -> Any:
    """A hashable description; equal descriptions mean equal traces on inputs of equal types."""
    plain = []
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name == "training":
            continue
        if isinstance(value, (int, float, str, bool, type(None), torch.dtype, tuple)) or (
            is_dataclass(value) and getattr(value, "__hash__", None)
        ):
            plain.append((name, value))
        else:
            plain.append((name, id(value)))
    tensors = [(n, tuple(t.shape), t.dtype) for n, t in [*module._parameters.items(), *module._buffers.items()] if t is not None]
    children = [(n, structure(child)) for n, child in module._modules.items() if child is not None]
    return (type(module).__qualname__, id(type(module)), tuple(plain), tuple(tensors), tuple(children))
