"""Rendered sources: the same bytes every time, self-contained, and, where the toolkit's headers are at hand, accepted by them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import catalogue
import pytest

from pangu_compile.codegen.ascend.kernel import Kernel, sources

TOOLKIT = os.environ.get("PANGU_CANN")  # a toolkit folder, the one that holds tools/ and aarch64-linux/


def test_sources_are_reproducible() -> None:
    again = [builder(catalogue.CHIP, name, **spec) for name, (builder, spec) in catalogue.SPECS.items()]
    assert sources(again) == sources(list(catalogue.KERNELS.values()))


@pytest.mark.parametrize("name", list(catalogue.KERNELS))
def test_no_template_is_left_over(name: str) -> None:
    kernel = catalogue.KERNELS[name]
    assert "{{" not in kernel.source and "{%" not in kernel.source
    assert f'extern "C" __global__ __aicore__ void {name}(' in kernel.source
    signature = kernel.source.split(f"void {name}(")[1].split(")")[0]
    assert signature == ", ".join([*(f"GM_ADDR {a.name}" for a in kernel.arguments), f"{kernel.struct} tiling"])


def test_two_kernels_of_one_name_are_refused() -> None:
    kernel = catalogue.KERNELS["rms_96"]
    with pytest.raises(ValueError, match="rms_96"):
        sources([kernel, kernel])


def test_unknown_roles_and_cores_are_refused() -> None:
    kernel = catalogue.KERNELS["rms_96"]
    with pytest.raises(ValueError, match="role 'input'"):
        type(kernel.arguments[0])("x", "float", "1", "input")
    with pytest.raises(ValueError, match="core 'gpu'"):
        Kernel("k", "", (), (), "1", core="gpu")


@pytest.mark.skipif(TOOLKIT is None, reason="PANGU_CANN does not name a toolkit with its headers")
@pytest.mark.parametrize("name", list(catalogue.KERNELS))
def test_the_toolkit_headers_accept_it(name: str, tmp_path: Path) -> None:
    kernel = catalogue.KERNELS[name]
    for file, text in sources([kernel]).items():
        (tmp_path / file).write_text(text)
    root = Path(str(TOOLKIT))
    library = root / "aarch64-linux/ascendc/include"
    folders = [
        root / "tools/tikicpulib/lib/include",
        library,
        *(library / f for f in ("basic_api", "basic_api/interface", "basic_api/impl", "highlevel_api", "highlevel_api/impl")),
        root / "aarch64-linux/include",
    ]
    for unit in {"aiv": ["VEC"], "aic": ["CUBE"], "mix": ["VEC", "CUBE"]}[kernel.core]:
        command = [
            "g++",
            "-std=c++17",
            "-w",
            "-fsyntax-only",
            "-DASCENDC_CPU_DEBUG=1",
            "-D__CCE_KT_TEST__=1",
            "-D__CCE_AICORE__=220",
            f"-D__DAV_C220_{unit}__",
            *(f"-I{f}" for f in folders),
            f"-I{tmp_path}",
            str(tmp_path / kernel.file),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[:4000]
