"""What the host program knows of an IR value, and how that reads in C++.

Activations are float32 or split on the device (with `--activations bf16`: bf16, a few float32), indices int32. A split row of n
float32 values is 2n bf16: their high parts, bf16(x), then their low parts, bf16(x - high); cube kernels read such rows.
Scalars, and vectors of consecutive positions, are never on the device: the host computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pangu_compile.ir import IRError
from pangu_compile.ir.types import Dim, dim, product

from ...dims import c_dim

# How a weight lies in memory -> its elements. taps: [C, 1, k] as [k, C]. int8: rows, then at a multiple of SCALES_ALIGN their
# float32 scales; where two weights are joined, the rows of both, then the scales of both.
STORED_TYPES = {"taps": "f32", "int8": "int8", "int8 joined": "int8"}
SCALES_ALIGN = 64
FLOATS = ("bf16", "f32", "split")
BYTES = {"bf16": 2, "f32": 4, "split": 4, "i32": 4, "i64": 8, "int8": 1}
DIGITS = {"w8a8": 1, "q8": 2, "w8a24": 3}  # of int8 in which rows are stored that a product with weights of that format reads
C_TYPES = {"bf16": "bfloat16_t", "f32": "float", "split": "split", "i32": "int32_t", "int8": "int8_t"}  # of kernels' arguments


@dataclass(eq=False)
class Buffer:
    """Memory in the function's frame; alive from the step `first` to the step `last`, both included."""

    name: str
    nbytes: Dim
    first: int = -1
    last: int = -1

    def touch(self, step: int) -> None:
        self.first = step if self.first < 0 else self.first
        self.last = step


@dataclass(frozen=True)
class Tensor:
    """Device memory: a C++ pointer expression, its element type, and the buffer that it lies in (None: not the frame's)."""

    text: str
    dtype: str
    buffer: Buffer | None = None

    def at(self, elements: Dim) -> Tensor:
        """From that element on (of split rows: the first of a row)."""
        nbytes = c_dim(elements * BYTES[self.dtype])
        return self if nbytes == "0" else Tensor(f"at({self.text}, {nbytes})", self.dtype, self.buffer)


@dataclass(frozen=True)
class Number:
    """A host integer."""

    text: str


@dataclass(frozen=True)
class Positions:
    """Consecutive integers, as many as the value's type says: the first of them."""

    first: str


@dataclass(frozen=True)
class Verdict:
    """Results of mtp_verify that the host reads back: the drafts and [accepted, next token] lie on the device."""

    drafts: Tensor
    result: Tensor
    count: int
    start: str
    name: str = ""


@dataclass(eq=False)
class Weight:
    """A parameter of the model; its stored format is settled by the operators that read it."""

    text: str
    shape: tuple[int, ...]
    ir_dtype: str
    formats: set[str] = field(default_factory=set)

    def stored(self, form: str) -> Tensor:
        """The weight, stored in that format. IRError where another operator wants another one."""
        self.formats.add(form)
        if len(self.formats) > 1:
            raise IRError(f"ascend: weight {self.text} is wanted as {' and as '.join(sorted(self.formats))}")
        return Tensor(self.text, STORED_TYPES.get(form, form))


Held = Tensor | Number | Positions | Verdict | Weight


@dataclass(frozen=True)
class View:
    """A tensor as an aclnn operator sees it. strides None: contiguous."""

    tensor: Tensor
    dims: tuple[Dim, ...]
    strides: tuple[Dim, ...] | None = None

    def __str__(self) -> str:
        parts = [self.tensor.text, _list(self.dims)]
        if self.strides is not None:
            parts.append(_list(self.strides))
        return f"{self.tensor.dtype}({', '.join(parts)})"

    @property
    def halves(self) -> View:
        """Split rows as bf16 rows of twice the width, for operators that only move rows."""
        if self.tensor.dtype != "split" or self.strides is not None:
            raise IRError(f"ascend: {self.tensor.text} is not contiguous split rows")
        return View(Tensor(self.tensor.text, "bf16", self.tensor.buffer), (*self.dims[:-1], dim(self.dims[-1] * 2)))

    @property
    def transposed(self) -> View:
        """The last two axes exchanged."""
        strides = self.strides or tuple(product(self.dims[i + 1 :]) for i in range(len(self.dims)))
        return View(self.tensor, _swapped(self.dims), _swapped(strides))


def _swapped(items: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return (*items[:-2], items[-1], items[-2])


def _list(dims: Sequence[Dim]) -> str:
    return "{" + ", ".join(c_dim(d) for d in dims) + "}"


def int8_scales(rows: Tensor, nbytes: int) -> Tensor:
    """The scales behind `nbytes` of int8 rows."""
    at = rows.at(-(-nbytes // SCALES_ALIGN) * SCALES_ALIGN)
    return Tensor(at.text, "f32", at.buffer)


@dataclass(frozen=True)
class Step:
    """One call of the host program: a function of pangu_device.h, a launch, or another function of the model."""

    call: str
    arguments: tuple[str, ...]
    comment: str = ""
