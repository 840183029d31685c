"""Generated sources against the toolkit's own headers: every kernel and host file is type-checked, nothing is linked or run.

The headers are the vendor's and not part of this project: CANN_HEADERS names a folder of the toolkit (the one that has
aarch64-linux/ and tools/), as `make test-cann CANN_HEADERS=...` does. Without it these tests are skipped.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pangu_compile.codegen.ascend.host import HostProgram, generate
from pangu_compile.driver.optimise import optimise, traced_model
from pangu_compile.driver.options import make_options
from pangu_compile.driver.progress import Silent
from pangu_compile.driver.targets.ascend import STEPS
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import SMALL, random_config
from tests.ascend.host.conftest import CONFIG
from tests.models.test_config import FLASH

TOOLKIT = os.environ.get("CANN_HEADERS")
JOBS = 2
CORE = Path(__file__).resolve().parents[2] / "runtime"
DEVICE = ["-DASCENDC_CPU_DEBUG=1", "-D__CCE_KT_TEST__=1", "-D__CCE_AICORE__=220"]
UNITS = {"aiv": ["VEC"], "aic": ["CUBE"], "mix": ["VEC", "CUBE"]}  # a mixed kernel is compiled for both cores
FORMATS = [("bf16", "float32"), ("int8", "float32"), ("w8a16", "float32"), ("w8a8", "float32"), ("bf16", "bf16"), ("int8", "bf16")]
MODELS = {
    "odd": lambda: OpenPanguConfig.from_dict(CONFIG),
    "small-3": lambda: random_config(3, SMALL),
    "small-12": lambda: random_config(12, SMALL),
    "flash": lambda: OpenPanguConfig.from_dict(FLASH),
}

pytestmark = pytest.mark.skipif(TOOLKIT is None, reason="CANN_HEADERS names no folder of the toolkit")
checked: set[str] = set()  # by flags and text: most kernels come up again


def device_flags(unit: str) -> list[str]:
    root = Path(TOOLKIT or "")
    ascendc = root / "aarch64-linux/ascendc/include"
    parts = ["", "basic_api", "basic_api/interface", "basic_api/impl", "highlevel_api", "highlevel_api/impl"]
    folders = [root / "tools/tikicpulib/lib/include", *(ascendc / p for p in parts), root / "aarch64-linux/include"]
    return [*DEVICE, f"-D__DAV_C220_{unit}__", *(f"-I{f}" for f in folders)]


def host_flags() -> list[str]:
    root = Path(TOOLKIT or "")
    vendor = [root / "aarch64-linux/include", root / "opp/built-in/op_impl/ai_core/tbe/op_api/include"]
    return [f"-I{f}" for f in [*vendor, CORE / "core", CORE / "include"]]


def complaint(source: Path, flags: list[str]) -> str:
    """What the compiler says of a file; empty where it is right, or was checked before."""
    headers = b"".join(p.read_bytes() for p in sorted(source.parent.glob("*.h")))
    digest = hashlib.sha256(" ".join(flags).encode() + source.read_bytes() + headers).hexdigest()
    if digest in checked:
        return ""
    command = ["g++", "-std=c++17", "-w", "-fsyntax-only", *flags, f"-I{source.parent}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        checked.add(digest)
        return ""
    return f"{source.name} {flags[3] if flags[0] == DEVICE[0] else 'host'}: {done.stderr[:1500]}"


def generated(config: OpenPanguConfig, weights: str, activations: str, target: str) -> HostProgram:
    """The sources; weights are not read."""
    options = make_options(target=target, weights=weights, activations=activations)
    module = traced_model(config, options, Silent(), None, STEPS)
    optimise(module, options, Silent())
    return generate(module, target, options.context(config.max_position_embeddings), options.max_chunk, activations)


@pytest.mark.parametrize("target", ["ascend910b", "ascend910_93"])
@pytest.mark.parametrize(("weights", "activations"), FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_types(name: str, weights: str, activations: str, target: str, tmp_path: Path) -> None:
    host = generated(MODELS[name](), weights, activations, target)
    offsets = {w.planned.name: 0 for w in host.weights}
    for file, text in {**host.files, "host/model.cpp": host.model(offsets)}.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    jobs = [(tmp_path / f"kernels/{k.file}", device_flags(unit)) for k in host.kernels for unit in UNITS[k.core]]
    jobs += [(path, [*host_flags(), f"-I{tmp_path / 'kernels'}"]) for path in sorted((tmp_path / "host").glob("*.cpp"))]
    assert len(host.kernels) > 10 and len(jobs) > len(host.kernels)
    with ThreadPoolExecutor(JOBS) as pool:
        wrong = [said for said in pool.map(lambda job: complaint(*job), jobs) if said]
    assert not wrong, "\n".join(wrong)
