"""ONNX files on disk: write_onnx of checkpoints, of a bare config.json and of artifacts; compile_onnx down to the artifact."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import pangu_compile
from pangu_compile.driver.onnx_io import write_onnx
from pangu_compile.errors import CompileError, UserError
from pangu_compile.models.loading import load_reference
from pangu_compile.models.random_checkpoint import random_config, write_random_checkpoint
from pangu_compile.runtime import Model

from .hand_made import CASES, F, N, make_model, rnd
from .running import open_session

SEED = 19  # one layer, no MTP head: every call traces it again


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = dataclasses.replace(random_config(SEED), max_position_embeddings=256)
    return write_random_checkpoint(tmp_path_factory.mktemp("onnx") / "checkpoint", config, SEED, dtype="f32")


def logits_of(path: Path, rows: int = 0) -> np.ndarray:
    """Logits of a short prompt."""
    session = open_session(str(path))
    feeds = {"tokens": np.arange(5), "start": np.asarray(0), "rows": np.arange(5)}
    for info in session.get_inputs():
        if info.name not in feeds:
            feeds[info.name] = np.zeros([rows if isinstance(d, str) else d for d in info.shape], np.float32)
    return session.run(["logits"], feeds)[0]


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> np.ndarray:
    with torch.no_grad():
        return load_reference(checkpoint, dtype=torch.float64)(torch.arange(5)[None])[0].numpy()


def test_checkpoint_to_file(checkpoint: Path, expected: np.ndarray, tmp_path: Path) -> None:
    for external in (False, True):
        out = tmp_path / f"{external}.onnx"
        write_onnx(checkpoint, out, external=external)
        onnx.checker.check_model(str(out), full_check=True)
        assert (tmp_path / f"{external}.onnx.data").exists() == external
        assert float(np.abs(logits_of(out) - expected).max()) <= 2e-4 * float(np.abs(expected).max())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["False.onnx", "True.onnx", "True.onnx.data"]
    tensors = onnx.load(str(tmp_path / "True.onnx"), load_external_data=False).graph.initializer
    offsets = [int(e.value) for t in tensors for e in t.external_data if e.key == "offset"]
    assert offsets and all(offset % 4096 == 0 for offset in offsets)


def test_bare_config(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path / "config.json")
    write_onnx(tmp_path, tmp_path / "step.onnx", "step")
    model = onnx.load(str(tmp_path / "step.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert not model.graph.initializer
    assert "model.embed_tokens.weight" in [i.name for i in model.graph.input]


@pytest.mark.parametrize("weights", ["f32", "int8"])
def test_artifact_to_file(weights: str, checkpoint: Path, tmp_path: Path) -> None:
    """The numbers that packed weights stand for: the file computes what the artifact does."""
    artifact = pangu_compile.build(checkpoint, tmp_path / "m.pangu", weights=weights, max_context=64, opt_level=0, jobs=1)
    write_onnx(tmp_path / "m.pangu", tmp_path / "m.onnx")
    with Model(artifact.path) as model, model.session() as session:
        expected = session.prefill(list(range(5)), all_logits=True)
    assert float(np.abs(logits_of(tmp_path / "m.onnx") - expected).max()) <= 2e-4 * float(np.abs(expected).max())


def test_bad_requests_leave_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="program 'nonsense' is not one of step"):
        write_onnx(checkpoint, tmp_path / "m.onnx", "nonsense")
    with pytest.raises(UserError, match="its folder does not exist"):
        write_onnx(checkpoint, tmp_path / "absent" / "m.onnx")
    assert list(tmp_path.iterdir()) == []


# compile_onnx


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    nodes, inputs, outputs, weights, _ = CASES["mlp"]
    onnx.save(make_model(nodes, inputs, outputs, weights), str(tmp_path / "mlp.onnx"))
    return tmp_path / "mlp.onnx"


def test_compiled_artifact(mlp: Path, tmp_path: Path) -> None:
    artifact = pangu_compile.compile_onnx(mlp, tmp_path / "mlp.pangu", max_sizes={"N": 16}, validate=True, opt_level=0)
    manifest = artifact.reload().manifest
    assert manifest["role"] == "module" and manifest["max_sizes"] == {"N": 16}
    assert manifest["programs"]["forward"]["inputs"] == ["x"] and manifest["programs"]["forward"]["outputs"] == ["y"]
    assert (tmp_path / "mlp.pangu" / "lib" / "libpangu_model.so").exists()
    data = (tmp_path / "mlp.pangu" / "weights.safetensors").read_bytes()
    entry = manifest["tensors"]["w"]
    stored = np.frombuffer(data, "<f4", 9 * 6, entry["offset"]).reshape(9, 6)
    np.testing.assert_array_equal(stored, rnd(9, 6))
    json.loads((tmp_path / "mlp.pangu" / "plan.json").read_text())


def test_compile_refuses_what_it_cannot(mlp: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no maximum for the symbolic size 'N'"):
        pangu_compile.compile_onnx(mlp, tmp_path / "m.pangu")
    with pytest.raises(UserError, match=r"absent\.onnx is not a file"):
        pangu_compile.compile_onnx(tmp_path / "absent.onnx", tmp_path / "m.pangu")
    conv = make_model([N("Conv", ["x", "w"], ["y"], name="first")], {"x": (F, [1, 3, 8, 8])}, ["y"], {"w": rnd(2, 3, 3, 3)})
    onnx.save(conv, str(tmp_path / "conv.onnx"))
    with pytest.raises(CompileError, match=r"conv\.onnx: ONNX operator Conv \(first\): this operator is not covered"):
        pangu_compile.compile_onnx(tmp_path / "conv.onnx", tmp_path / "m.pangu")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["conv.onnx", "mlp.onnx"]
