"""Generated kernels on the simulator: numpy arrays in, numpy arrays out."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np

from pangu_compile.codegen.ascend.kernel import HEADERS, Argument, Kernel, sources

SIMULATOR = Path(__file__).parents[3] / "codegen" / "ascend" / "simulator"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", f"-I{SIMULATOR / 'include'}", f"-I{SIMULATOR / 'src'}"]
PEAKS = {1: 127, 2: 32639, 3: 8355584}  # by digits: what the largest value of a row becomes
DTYPES = {"float": np.float32, "bfloat16_t": np.uint16, "split": np.uint16, "int8_t": np.int8, "int32_t": np.int32}


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Nearest bf16, ties to even, as uint16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def to_split(x: np.ndarray) -> np.ndarray:
    """Rows of high parts and of low parts, as uint16 of twice the width."""
    high = to_bf16(x)
    return np.concatenate([high, to_bf16(np.asarray(x, np.float32) - from_bf16(high).astype(np.float32))], -1)


def from_split(x: np.ndarray) -> np.ndarray:
    """The sums of both parts; x[..., 2n] -> [..., n]."""
    high, low = np.split(from_bf16(x), 2, axis=-1)
    return high + low


def digits_value(y: np.ndarray, shape: tuple[int, ...], digits: int) -> np.ndarray:
    """The integers that rows of int8 [..., digits n] stand for: of each value the sum of its digits, the highest first."""
    parts = y.reshape(*shape[:-1], digits, shape[-1]).astype(np.int64)
    return (parts * 256 ** np.arange(digits - 1, -1, -1)[:, None]).sum(-2)


def quantised(y: np.ndarray, scale: np.ndarray, want: np.ndarray, digits: int) -> bool:
    """Are rows of int8 digits what they should be, but for half a step and a few float32 roundings of their largest value?"""
    peak = PEAKS[digits]
    step = np.abs(want).max(-1) / peak
    steps = np.divide(want, step[:, None], out=np.zeros_like(want), where=step[:, None] > 0)
    off = np.abs(digits_value(y, want.shape, digits) - steps).max()
    return bool(np.allclose(scale, step, rtol=4e-6, atol=0) and off <= 0.5 + peak * 4e-6)


def ulps(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference of bf16 `got` from `want`, in units of bf16's last place at the scale of each row's values."""
    got, want = np.atleast_2d(from_bf16(got)), np.atleast_2d(want)
    scale = np.maximum(np.abs(want), np.sqrt((want * want).mean(-1, keepdims=True)))
    unit = 2.0 ** (np.floor(np.log2(np.maximum(scale, 1e-30))) - 7)
    return float((np.abs(got - want) / unit).max())


def close(got: np.ndarray, want: np.ndarray, dtype: str = "bfloat16_t", ulp: float = 0.51) -> bool:
    """Is a kernel's result of that type what it should be, but for the rounding to the type and a few float32 roundings?"""
    if dtype == "bfloat16_t":
        return ulps(got.reshape(want.shape), want) <= ulp
    values = from_split(got.reshape(*want.shape[:-1], -1)) if dtype == "split" else got.reshape(want.shape)
    roundings = 4e-6 * np.abs(want).max() + (2.0**-17 * np.abs(want) if dtype == "split" else 0.0)
    return bool((np.abs(values - want) <= roundings).all())


class SimulationFault(Exception):
    """The simulator refused a launch."""


class Library:
    """Kernels compiled together with the simulator into one shared library in `folder`."""

    def __init__(self, kernels: Sequence[Kernel], folder: Path) -> None:
        self.kernels = {k.name: k for k in kernels}
        for name, text in sources(kernels).items():
            (folder / name).write_text(text)
        template = jinja2.Template((Path(__file__).parent / "runner.cpp.jinja").read_text(), undefined=jinja2.StrictUndefined)
        headers = [*HEADERS, *(f"{k.name}_tiling.h" for k in kernels)]
        (folder / "runner.cpp").write_text(template.render(kernels=kernels, headers=headers))
        simulator = "".join(f'#include "{path}"\n' for path in sorted((SIMULATOR / "src").glob("*.cpp")))
        (folder / "simulator.cpp").write_text(simulator)
        library = folder / "libkernels.so"
        units = [str(folder / "runner.cpp"), str(folder / "simulator.cpp")]
        subprocess.run(["g++", *FLAGS, "-shared", f"-I{folder}", "-o", str(library), *units], check=True)
        self.library = ctypes.CDLL(str(library))

    def run(self, name: str, fields: Mapping[str, int], cores: int = 40, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        """Plans and launches. Arrays of missing outputs and workspaces are made, unwritten. Returns outputs by name."""
        kernel = self.kernels[name]
        planned = (ctypes.c_uint32 * len(kernel.fields))(*(fields.get(f, 0) for f in kernel.fields))
        blocks = int(getattr(self.library, f"plan_{name}")(planned, cores))
        sizes = {f: int(v) for f, v in zip(kernel.fields, planned, strict=True)}
        held, outputs = [], {}
        for a in kernel.arguments:
            given = arrays.get(a.name)
            if given is None and a.role == "in":
                raise KeyError(f"{name}: no array for {a.name}")
            array = np.ascontiguousarray(given) if given is not None else np.full(_count(a, sizes), 77, DTYPES[a.dtype])
            if array.dtype != DTYPES[a.dtype]:
                raise TypeError(f"{name}: {a.name} is {array.dtype}, not {a.dtype}")
            padded = _aligned(array)
            self.library.pangu_sim_gm_register(
                padded.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(padded.nbytes), a.name.encode(), int(given is not None)
            )
            held.append(padded)
            if a.role in ("out", "inout"):
                outputs[a.name] = padded
        pointers = (ctypes.c_void_p * len(held))(*(h.ctypes.data for h in held))
        message = ctypes.create_string_buffer(2048)
        status = getattr(self.library, f"run_{name}")(pointers, planned, blocks, message, 2048)
        for h in held:
            self.library.pangu_sim_gm_unregister(h.ctypes.data_as(ctypes.c_void_p))
        if status:
            raise SimulationFault(message.value.decode())
        return {n: np.array(a) for n, a in outputs.items()}


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy whose memory starts at a multiple of 512 bytes."""
    memory = np.empty(array.nbytes + 512, np.uint8)
    start = -memory.ctypes.data % 512
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _count(a: Argument, sizes: Mapping[str, int]) -> int:
    """Elements of a shape such as "slices, tokens, 32 + tokens, 96": parts are added. A split element is two."""
    parts = [[f.strip() for f in part.split(",")] for part in a.shape.split(" + ")]
    elements = sum(int(np.prod([sizes[f] if f in sizes else int(f) for f in part])) for part in parts)
    return max(1, elements * (2 if a.dtype == "split" else 1))
