"""Properties of a whole build: reproducible, free of undefined behaviour, independent of depth, open to edited models."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pangu_compile
from pangu_compile.codegen.cpu import generate
from pangu_compile.ir.types import symbol
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.layers import MLP
from pangu_compile.models.loading import empty_model, load_reference
from pangu_compile.models.programs import build_programs
from pangu_compile.models.random_checkpoint import write_random_checkpoint
from pangu_compile.passes import run_passes
from pangu_compile.plan import Plan, PlanOptions, make_plan
from pangu_compile.runtime import Model
from pangu_compile.trace import trace_programs

from ..runtime.conftest import CONFIG
from ..runtime.test_runtime import C_PROGRAM

torch.set_num_threads(1)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    return Path(write_random_checkpoint(folder, OpenPanguConfig.from_dict(CONFIG), seed=3, dtype="f32"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_builds_are_byte_identical(checkpoint, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("PANGU_CACHE", str(tmp_path / name / "cache"))  # neither has the other's object files
        pangu_compile.build(checkpoint, tmp_path / name / f"{name}.pangu", max_context=64, opt_level=1)
    first, second = files(tmp_path / "one/one.pangu"), files(tmp_path / "two/two.pangu")
    assert list(first) == list(second)
    assert [n for n in first if first[n] != second[n]] == []
    assert not any(str(tmp_path).encode() in data for data in first.values())


def test_artifact_sources_run_clean_under_sanitizers(checkpoint, tmp_path):
    """The artifact's own sources, rebuilt with the address and undefined-behaviour sanitizers, around a C program."""
    out = tmp_path / "model.pangu"
    pangu_compile.build(checkpoint, out, max_context=64, max_chunk=8, opt_level=1)
    (tmp_path / "main.c").write_text(C_PROGRAM)
    flags = ["-O0", "-g1", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]
    subprocess.run(["gcc", "-std=c99", *flags, "-I", str(out / "include"), "-c", "main.c"], cwd=tmp_path, check=True)
    sources = [str(p) for p in sorted((out / "src").glob("*.cpp"))]
    includes = [f"-I{folder}" for folder in sorted({p.parent for p in (out / "src").rglob("*.h")} | {out / "include"})]
    subprocess.run(["g++", "-std=c++17", *flags, *includes, *sources, "main.o", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "main"), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with Model(out) as model, model.session() as session:
        assert [int(t) for t in done.stdout.split()] == session.generate([3, 1, 4, 1, 5, 9, 2, 6, 5], max_new_tokens=40).tokens


class GeluMLP(MLP):
    """A user's edit: another activation in every dense and shared FFN."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))


def edit(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if type(module) is MLP:
            module.__class__ = GeluMLP
    return model


def test_an_edited_reference_compiles(checkpoint, tmp_path):
    config = OpenPanguConfig.from_file(checkpoint)
    out = tmp_path / "edited.pangu"
    pangu_compile.build(checkpoint, out, model=edit(empty_model(config)), max_context=64, opt_level=1)
    plain, edited = load_reference(checkpoint), edit(load_reference(checkpoint))
    with torch.no_grad():
        expected = edited(torch.tensor([PROMPT]))[0].numpy()
        unedited = plain(torch.tensor([PROMPT]))[0].numpy()
    with Model(out) as model, model.session() as session:
        got = session.prefill(PROMPT, all_logits=True)
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= 2e-4 * scale
    assert np.abs(got - unedited).max() > 1e-2 * scale


def planned(config: OpenPanguConfig) -> Plan:
    module = trace_programs(build_programs(config))
    return make_plan(run_passes(module), PlanOptions(max_context=64, max_chunk=8))


def deeper(layers: int) -> OpenPanguConfig:
    base = OpenPanguConfig.from_dict(CONFIG)
    swa = tuple(i for i in range(1, layers + 3) if i % 3)
    return dataclasses.replace(
        base, num_hidden_layers=layers, dsa_layers=tuple(range(0, layers, 3)), first_k_dense_replace=0,
        swa_layers=(*(i for i in swa if i < layers), *range(layers, layers + 3)), sliding_window_list=None,
    )  # fmt: skip


def test_generated_source_does_not_grow_with_layers():
    found = []
    for layers in (6, 24):
        plan = planned(deeper(layers))
        text = generate(plan, {w.name: 0 for w in plan.weights})["model.cpp"]
        kernels = {name: len(function.kernels) for name, function in plan.functions.items()}
        found.append((kernels, text.count("pangu::parallel(")))
    assert found[0] == found[1]


def test_windowed_layers_never_see_the_context_length():
    """S (rows already cached) sizes nothing in an SWA layer, scratch included; in a DSA layer only the caches and their readers."""
    plan = planned(deeper(6))
    s = symbol("S")
    swa = dsa = 0
    for function in plan.functions.values():
        attention = [n for n in function.graph.nodes if n.op.endswith("_attention")]
        touched = [
            n
            for n in function.graph.nodes
            if any(s in getattr(d, "free_symbols", ()) for v in (*n.inputs, *n.outputs) for d in v.type.shape)
        ]
        if touched:
            dsa += 1
            assert {n.op for n in touched} == {"mla_prologue", "index_prologue", "dsa_attention"}
            assert [n.attrs["topk"] for n in attention] == [CONFIG["index_topk"]]
        else:
            swa += len(attention)
            assert all(n.op == "swa_attention" for n in attention)
            assert all(s not in getattr(k.workspace, "free_symbols", ()) for k in function.kernels)
    assert swa > dsa > 0
