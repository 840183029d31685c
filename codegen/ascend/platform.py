"""The chips that kernels are tiled for: core counts and memory sizes of the toolkit's platform description files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("platforms.json")
# The smallest member of each family: what fits there fits in every member, and the core count is read at run time.
TARGETS = {"ascend910b": "Ascend910B4", "ascend910_93": "Ascend910_9362"}


@dataclass(frozen=True)
class Platform:
    """One chip. Sizes in bytes; `cores` are AI cores (cube), `vector_cores` the vector cores beside them."""

    name: str
    cores: int
    vector_cores: int
    ub: int
    l1: int
    l0a: int
    l0b: int
    l0c: int


@cache
def platform(name: str) -> Platform:
    """The chip of that name, or the smallest of a target's family. KeyError lists the known names."""
    chips = json.loads(_FILE.read_text())
    chip = TARGETS.get(name, name)
    if chip not in chips:
        raise KeyError(f"unknown chip {name!r}: one of {', '.join([*TARGETS, *chips])}")
    c = chips[chip]
    return Platform(
        chip, c["cube_core_cnt"], c["vector_core_cnt"], c["ub_size"], c["l1_size"], c["l0_a_size"], c["l0_b_size"], c["l0_c_size"]
    )
