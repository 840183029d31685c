"""compile_module: artifacts of small torch modules, down to the bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import pangu_compile
from pangu_compile.driver.artifact import Artifact, list_files
from pangu_compile.errors import CompileError, UserError

pytestmark = pytest.mark.usefixtures("stub_core")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.linear(x), -1)


def compile_small(out: Path, **options: object) -> Artifact:
    torch.set_num_threads(1)
    return pangu_compile.compile_module(
        Small(), [torch.zeros(4, 6)], out, dynamic=[{0: "N"}], max_sizes={"N": 64}, **options
    )


def test_artifact_is_complete_and_reproducible(tmp_path: Path) -> None:
    one = compile_small(tmp_path / "one.pangu")
    two = compile_small(tmp_path / "elsewhere" / "quite deep" / "two.pangu")
    names = list_files(one.path)
    assert names == list_files(two.path)
    for name in names:
        data = (one.path / name).read_bytes()
        assert data == (two.path / name).read_bytes(), name
        assert str(tmp_path).encode() not in data, name
    assert {"manifest.json", "SHA256SUMS", "plan.json", "weights.safetensors", "lib/libpangu_model.so",
            "src/CMakeLists.txt", "src/model.cpp", "include/pangu_runtime.h"} <= set(names)  # fmt: skip
    assert one.reload().manifest["role"] == "module"


def test_weights_and_offsets(tmp_path: Path) -> None:
    artifact = compile_small(tmp_path / "m.pangu")
    raw = (artifact.path / "weights.safetensors").read_bytes()
    loaded = safetensors.numpy.load(raw)
    weight = Small().linear.weight.detach().numpy()
    name = next(n for n, a in loaded.items() if a.shape in ((5, 6), (6, 5)))
    np.testing.assert_array_equal(loaded[name].reshape(-1).sum(), weight.reshape(-1).sum())
    for entry in artifact.manifest["tensors"].values():
        assert entry["offset"] % 4096 == 0
    json.loads((artifact.path / "plan.json").read_text())


def test_sources_build_with_cmake(tmp_path: Path) -> None:
    artifact = compile_small(tmp_path / "m.pangu")
    build = tmp_path / "cmake"
    for command in (["cmake", "-S", str(artifact.path / "src"), "-B", str(build)], ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (build / "libpangu_model.so").exists()


def test_validate_and_dump(tmp_path: Path) -> None:
    compile_small(tmp_path / "m.pangu", validate=True, dump_ir=tmp_path / "ir")
    assert any(p.name.startswith("00-") for p in (tmp_path / "ir").iterdir())


def test_failing_compiler_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_small(tmp_path / "m.pangu")
    before = (tmp_path / "m.pangu" / "SHA256SUMS").read_bytes()
    fake = tmp_path / "badcc"
    script = "case \"$*\" in *-c*) echo \"x.cpp:1:1: error: out of luck\" >&2; exit 1;; esac\nexec g++ \"$@\"\n"
    fake.write_text("#!/bin/sh\n" + script)
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(CompileError, match="out of luck"):
        compile_small(tmp_path / "m.pangu")
    assert (tmp_path / "m.pangu" / "SHA256SUMS").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["badcc", "m.pangu"]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no maximum for the symbolic size 'N'"):
        pangu_compile.compile_module(Small(), [torch.zeros(4, 6)], tmp_path / "m", dynamic=[{0: "N"}])
    with torch.device("meta"):
        empty = nn.Linear(3, 3)
    with pytest.raises(UserError, match="has no data"):
        pangu_compile.compile_module(empty, [torch.zeros(2, 3, device="meta")], tmp_path / "m.pangu")
    assert list(tmp_path.iterdir()) == []
