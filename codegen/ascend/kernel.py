"""A generated AscendC kernel: its source, its arguments and how its launch is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent / "kernels"
HEADERS = tuple(sorted(p.name for p in HERE.glob("*.h")))
CORES = {"aiv": "vector", "aic": "cube", "mix": "cube"}


@dataclass(frozen=True)
class Argument:
    """A tensor in global memory; `note` says how it differs from the OpDef's operand.

    `shape` is numbers and tiling fields with commas, "tokens, 96"; where " + " joins several of these, their sizes add up.
    """

    name: str
    dtype: str  # C type of an element; "split": rows of twice as many bfloat16_t, their high and then their low parts
    shape: str
    role: str = "in"  # in, out, inout, workspace
    note: str = ""

    def __post_init__(self) -> None:
        if self.role not in ("in", "out", "inout", "workspace"):
            raise ValueError(f"argument {self.name}: role {self.role!r}")


def struct_name(kernel: str) -> str:
    """Of a kernel's tiling struct. The toolkit has an RmsNormTiling of its own, and more of the kind."""
    return "Pangu" + "".join(part.capitalize() for part in kernel.split("_")) + "Tiling"


@dataclass(frozen=True)
class Kernel:
    """Source of one kernel. Its C signature is `name(GM_ADDR per argument in order, Pangu<Name>Tiling tiling)`.

    `fields` are the uint32_t members of the tiling struct; those in `planned` are set by the host plan from the others and
    the core count, by the C expressions given there; `units` is the C expression of how many cores can have work.
    """

    name: str
    source: str
    arguments: tuple[Argument, ...]
    fields: tuple[str, ...]
    units: str
    core: str = "aiv"  # aiv, aic or mix
    planned: tuple[tuple[str, str], ...] = ()
    op: str = ""  # the OpDef that it computes, or a part of

    def __post_init__(self) -> None:
        if self.core not in CORES:
            raise ValueError(f"kernel {self.name}: core {self.core!r}")

    @property
    def struct(self) -> str:
        return struct_name(self.name)

    @property
    def file(self) -> str:
        return f"{self.name}.cpp"

    def tiling_header(self) -> str:
        """The struct that host and kernel share."""
        return render("tiling.h.jinja", kernel=self)


@cache
def environment(folder: Path) -> jinja2.Environment:
    """Templates of that folder."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def literal(value: float) -> str:
    """A C float literal that reads back as the same float32."""
    return f"{value!r}f" if "e" in repr(value) or "." in repr(value) else f"{value}.0f"


def render(template: str, **values: Any) -> str:
    return environment(HERE).get_template(template).render(f32=literal, **values)


def host_header(kernels: Sequence[Kernel]) -> str:
    """Host side: one inline function per kernel that completes its tiling struct and returns the block count."""
    return render("host_plan.h.jinja", kernels=kernels, core_kind=CORES)


def sources(kernels: Sequence[Kernel]) -> dict[str, str]:
    """Every file of these kernels, by name: sources, tiling structs, shared headers and the host plan."""
    files = {name: (HERE / name).read_text() for name in HEADERS}
    for k in kernels:
        if k.file in files:
            raise ValueError(f"two kernels are named {k.name}")
        files[k.file] = k.source
        files[f"{k.name}_tiling.h"] = k.tiling_header()
    files["pangu_host_plan.h"] = host_header(kernels)
    return files
