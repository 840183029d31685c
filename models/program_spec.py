"""What tracing needs to know of a program: its module, its arguments, its states."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class StateSpec:
    """One state buffer. `rows` is the ring length, or None for a cache that grows with the context."""

    name: str
    width: int
    rows: int | None
    owner: int  # 0: trunk, j: MTP head j


@dataclass(frozen=True)
class ProgramSpec:
    """What `pangu_compile.trace` needs: a module on the meta device and the meaning of its arguments.

    inputs: (name, example tensor, symbolic dim name of axis 0 or None); states follow the inputs in the call, and the
    new states follow `outputs` in the result. aliases: parameter FQN in `module` -> canonical checkpoint name.
    cached: owner of append caches -> the rows that these hold, as an expression in the dims; S where it is not listed.
    limits: dims that are never larger in a call of this program.
    """

    name: str
    module: nn.Module
    inputs: tuple[tuple[str, Tensor, str | None], ...]
    states: tuple[StateSpec, ...]
    outputs: tuple[str, ...]
    aliases: dict[str, str]
    role: str = "lm"
    cached: dict[int, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
