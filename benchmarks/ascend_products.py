"""What a product costs on Ascend in each format, by the simulator's estimate: a weight [width, width], float32 rows in and out.

    python benchmarks/ascend_products.py [--width 2560] [--rows 1,128]

bf16 rows and split rows by bf16 weights: our kernel, simulated. Int8 weights: `quantise` and `dequantise`, simulated, and between
them the vendor's QuantMatmul, which is only a roofline (its rows are as many as their digits): int8 looks better than it will be.
SwiGLU and mHC quantise what they make, which saves a launch. Nothing was measured on a device.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import jinja2

from pangu_compile.codegen.ascend import kernel as kernels_of
from pangu_compile.codegen.ascend.convert_kernels import dequantise, quantise
from pangu_compile.codegen.ascend.kernel import HEADERS, Argument, Kernel, sources
from pangu_compile.codegen.ascend.platform import platform
from pangu_compile.codegen.ascend.product_kernels import product

HERE = Path(__file__).parent
SIMULATOR = Path(kernels_of.__file__).resolve().parent / "simulator"
SIZES = {"float": 4, "int32_t": 4, "bfloat16_t": 2, "split": 4, "int8_t": 1}
FLAGS = ["-std=c++17", "-O1", "-w", f"-I{SIMULATOR / 'include'}", f"-I{SIMULATOR / 'src'}"]


def kernels(width: int) -> list[Kernel]:
    chip = platform("ascend910b")
    types = {"bf16": "bfloat16_t", "split": "split"}
    made = [product(chip, f"product_{name}", depth=width, columns=width, x_type=x_type) for name, x_type in types.items()]
    for digits in (1, 2, 3):
        made.append(quantise(chip, f"quantise_{digits}", channels=width, digits=digits))
        made.append(dequantise(chip, f"dequantise_{digits}", columns=width, digits=digits))
    return made


def nbytes(argument: Argument) -> str:
    """C++ expression of an argument's size for `rows` tokens."""
    factors = ["rows" if f.strip() == "tokens" else f.strip() for f in argument.shape.split(",")]
    return " * ".join([f"uint64_t{{{SIZES[argument.dtype]}}}", *factors])


def estimates(width: int, rows: list[int], folder: Path) -> dict[tuple[int, str], float]:
    """Seconds by rows and kernel."""
    made = kernels(width)
    for name, text in sources(made).items():
        (folder / name).write_text(text)
    template = jinja2.Template((HERE / "ascend_products.cpp.jinja").read_text(), undefined=jinja2.StrictUndefined, trim_blocks=True)
    headers = [*HEADERS, *(f"{k.name}_tiling.h" for k in made)]
    (folder / "main.cpp").write_text(template.render(kernels=made, headers=headers, rows=rows, width=width, nbytes=nbytes))
    simulator = "".join(f'#include "{path}"\n' for path in sorted((SIMULATOR / "src").glob("*.cpp")))
    (folder / "simulator.cpp").write_text(simulator)
    units = [str(folder / "main.cpp"), str(folder / "simulator.cpp")]
    subprocess.run(["g++", *FLAGS, f"-I{folder}", "-o", str(folder / "main"), *units], check=True)
    done = subprocess.run([str(folder / "main")], check=True, capture_output=True, text=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return {(int(rows), name): float(seconds) for rows, name, seconds in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--rows", default="1,128")
    options = parser.parse_args()
    rows = [int(r) for r in options.rows.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        found = estimates(options.width, rows, Path(folder))
    for count in rows:
        for name in ("bf16", "split"):
            print(f"{count:5d} rows, {name:9s} {found[count, f'product_{name}'] * 1e6:6.1f} us")
        for digits in (1, 2, 3):
            parts = [found[count, f"{name}_{digits}"] * 1e6 for name in ("quantise", "quant_matmul", "dequantise")]
            print(f"{count:5d} rows, {digits} digits  {sum(parts):6.1f} us = " + " + ".join(f"{p:.1f}" for p in parts))


if __name__ == "__main__":
    main()
