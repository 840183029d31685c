"""Runs AscendC kernel files in the simulator: compiles them, launches them on numpy arrays, returns faults as exceptions."""

from __future__ import annotations

import ctypes
import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import numpy as np

KERNELS = pathlib.Path(__file__).parent / "kernels"
SIMULATOR = pathlib.Path(__file__).parents[3] / "codegen" / "ascend" / "simulator"
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{SIMULATOR / 'include'}", f"-I{SIMULATOR / 'src'}"]

# sim::Fault, in its order.
FAULTS = ("BufferOverflow", "Misaligned", "OutOfBounds", "EmptyQueue", "MissingSync", "CrossCoreRace", "Uninitialised",
          "Protocol", "Deadlock", "Unsupported")


class SimFault(Exception):
    """A rule of the chip was broken; `fault` is the name of the rule, the message the simulator's line."""

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def compile_object(sources: list[pathlib.Path], out: pathlib.Path, extra: tuple[str, ...] = ()) -> pathlib.Path:
    """Compiles several sources as one translation unit, which is quicker than one by one."""
    unit = out.with_suffix(".unit.cpp")
    unit.write_text("".join(f'#include "{source}"\n' for source in sources))
    subprocess.run(["g++", *FLAGS, *extra, "-c", str(unit), "-o", str(out)], check=True)
    return out


class Simulation:
    """The simulator as an object file, and the kernel libraries made with it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.object = compile_object(sorted((SIMULATOR / "src").glob("*.cpp")), folder / "simulator.o")
        self.libraries: dict[str, KernelLibrary] = {}

    def kernels(self, name: str) -> KernelLibrary:
        """The kernels of kernels/NAME.cpp."""
        if name not in self.libraries:
            # Planted faults leave arguments and tensors unused.
            quiet = ("-Wno-unused-parameter", "-Wno-unused-but-set-variable")
            kernel = compile_object([KERNELS / f"{name}.cpp"], self.folder / f"{name}.o", quiet)
            library = self.folder / f"lib{name}.so"
            subprocess.run(["g++", "-shared", "-o", str(library), str(kernel), str(self.object)], check=True)
            self.libraries[name] = KernelLibrary(library)
        return self.libraries[name]


class Output(np.ndarray):
    """An array whose contents count as unwritten device memory."""


def unwritten(shape: int | tuple[int, ...], dtype: Any) -> Output:
    return np.full(shape, 77, dtype).view(Output)


class KernelLibrary:
    def __init__(self, path: pathlib.Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.pangu_sim_error.restype = ctypes.c_char_p
        self.library.pangu_sim_reports.restype = ctypes.c_char_p
        self.configure()

    def configure(self, platform: Mapping[str, Any] | None = None, auto_sync: bool = False) -> None:
        lines = "\n".join(f"{key}={value}" for key, value in (platform or {}).items())
        self._check(self.library.pangu_sim_configure(lines.encode(), int(auto_sync), 1))

    def launch(self, kernel: str, blocks: int, **arguments: np.ndarray | int) -> dict[str, Any]:
        """Runs a kernel; arrays become device memory of their argument's name. Returns the launch's report.

        Raises SimFault when the kernel breaks a rule of the chip.
        """
        arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
        values = [value.ctypes.data if isinstance(value, np.ndarray) else int(value) for value in arguments.values()]
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            self._check(self.library.pangu_sim_gm_register(
                ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(array.nbytes), name.encode(), not isinstance(array, Output)))
        self.library.pangu_sim_clear_reports()
        try:
            self._check(self.library.pangu_sim_launch(
                kernel.encode(), ctypes.cast(getattr(self.library, kernel), ctypes.c_void_p), ctypes.c_uint32(blocks),
                (ctypes.c_uint64 * len(values))(*values), ctypes.c_uint32(len(values))))
        finally:
            for array in arrays.values():
                self.library.pangu_sim_gm_unregister(ctypes.c_void_p(array.ctypes.data))
        report: dict[str, Any] = json.loads(self.library.pangu_sim_reports())[0]
        return report

    def _check(self, status: int) -> None:
        if status == 0:
            return
        message = self.library.pangu_sim_error().decode()
        raise SimFault(FAULTS[status - 1], message) if status <= len(FAULTS) else RuntimeError(message)
