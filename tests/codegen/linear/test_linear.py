"""The matrix kernels: check.cpp under every instruction set that this machine can run, sanitized, and under an emulator.

AVX-512 is compiled here and run by tests/emulated.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pangu_compile.driver.packing import pack, packed_bytes, unpack
from pangu_compile.ir import DType

ROOT = Path(__file__).resolve().parents[3]
INCLUDES = [f"-I{ROOT / 'codegen/cpu/kernels'}", f"-I{ROOT / 'runtime/core'}"]
# As the toolchain compiles generated code.
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
SOURCES = [str(Path(__file__).parent / "check.cpp"), str(ROOT / "runtime/core/pool.cpp")]
VARIANTS = {
    "native": ["-O3", "-march=native"],
    "sanitized": ["-O1", "-g1", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "no_vector_units": ["-O2"],
    "portable_with_fma": ["-O2", "-march=native", "-DPANGU_PORTABLE"],
}
ARM = {"neon": ["-O2", "-march=armv8-a"], "dotprod": ["-O2", "-march=armv8.2-a+dotprod"]}


def compile_to(output: Path, compiler: str, flags: list[str], sources: list[str] = SOURCES) -> None:
    command = [compiler, *FLAGS, *flags, *INCLUDES, *sources, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stderr == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_bits(variant: str, tmp_path: Path) -> None:
    compile_to(tmp_path / "check", "g++", VARIANTS[variant])
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 failures\n"), done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("variant", ARM)
def test_values_and_bits_on_arm(variant: str, tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    compile_to(tmp_path / "check", "aarch64-linux-gnu-g++", [*ARM[variant], "-static"])
    done = subprocess.run(["qemu-aarch64", tmp_path / "check", "quick"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 failures\n"), done.stdout[-2000:]


@pytest.mark.parametrize("arch", ["x86-64-v4", "icelake-server"])  # without and with VNNI
def test_avx512_compiles(arch: str, tmp_path: Path) -> None:
    if subprocess.run(["g++", "-dumpmachine"], capture_output=True, text=True, check=True).stdout.split("-")[0] != "x86_64":
        pytest.skip("a compiler for x86-64")
    compile_to(tmp_path / "check", "g++", ["-O1", f"-march={arch}"])
    text = subprocess.run(["objdump", "-d", tmp_path / "check"], capture_output=True, text=True, check=True).stdout
    assert ("vpdpwssd" in text) == (arch == "icelake-server") and "%zmm" in text


@pytest.mark.parametrize("fmt", ["f32", "bf16", "bf16c", "q8", "q8i", "q4"])
@pytest.mark.parametrize("shape", [(3, 7), (5, 64), (2, 3, 95), (2, 300)])
def test_kernels_read_what_is_packed(fmt: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """weight_row of every row of a packed file is bit for bit what unpack says."""
    shape = (*shape[:-2], DType(fmt).rows_together * shape[-2], shape[-1])
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    raw = pack(fmt, values)
    assert raw.nbytes == packed_bytes(fmt, shape)
    rows, columns = values.size // shape[-1], shape[-1]
    (tmp_path / "raw").write_bytes(raw.tobytes())
    compile_to(
        tmp_path / "rows", "g++",
        [f"-DFORMAT=PANGU_{fmt.upper()}", f"-DROWS={rows}", f"-DCOLUMNS={columns}", f'-DFILE_NAME="{tmp_path / "raw"}"'],
        [str(Path(__file__).parent / "rows.cpp")],
    )  # fmt: skip
    done = subprocess.run([tmp_path / "rows"], capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(shape), unpack(fmt, raw, shape))
