"""Whole generated programs, on the CPU reference implementations: the torch reference's tokens, drafts or not, on every chip."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import pangu_compile
from pangu_compile.cli import main
from pangu_compile.codegen.torch_npu import CHIPS, exists
from pangu_compile.codegen.torch_npu.choose import Target
from pangu_compile.codegen.torch_npu.support import reference
from pangu_compile.driver.artifact import Artifact
from pangu_compile.driver.targets.program import ProgramModel
from pangu_compile.errors import UserError
from pangu_compile.ir.ops.mtp import distribution, draw
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.loading import load_reference
from pangu_compile.models.random_checkpoint import write_random_checkpoint
from pangu_compile.models.reference import OpenPanguForCausalLM
from pangu_compile.report.text import render_text
from pangu_compile.runtime import Model, Sampling
from tests.report.test_page import check

from .conftest import CONTEXT, FLASH, Traced

torch.set_num_threads(1)
reference.register()
Get = Callable[[str], Traced]
NEW = 20


def prompt(traced: Traced, length: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(length).integers(0, traced.config.vocab_size, length)]


def logits(model: OpenPanguForCausalLM, tokens: Sequence[int]) -> np.ndarray:
    with torch.no_grad():
        values: np.ndarray = model(torch.tensor([list(tokens)]))[0].numpy()
    return values


def generate(model: ProgramModel | Model, tokens: Sequence[int], speculate: bool, new: int = NEW, **sampling: float) -> list[int]:
    with model.session(speculate=speculate) as session:
        return list(session.generate(tokens, new, Sampling(**sampling), speculate).tokens)  # type: ignore[arg-type]


def check_greedy(traced: Traced, chip: str, seed: int, length: int) -> None:
    """The program's tokens are the reference's, with drafts and without, and so are its logits in any chunks."""
    oracle, model, tokens = traced.reference(seed), traced.model(chip, "f32", seed), prompt(traced, length)
    plain = generate(model, tokens, False)
    expected = logits(oracle, tokens + plain)
    assert expected[length - 1 : -1].argmax(-1).tolist() == plain
    assert generate(model, tokens, True) == plain
    with model.session() as session:
        fewer = session.generate(tokens, NEW, drafts=1)
        assert fewer.tokens == plain and fewer.stats.drafted[0] > 0 and not any(fewer.stats.drafted[1:])
    with model.session() as session:
        parts = [session.prefill((tokens + plain)[: length + 5], all_logits=True)]
        parts += [session.decode(t)[None] for t in plain[5:8]]
    got = np.concatenate(parts)
    assert np.abs(got - expected[: len(got)]).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name,seed,length", [("flash", 0, 40), ("flash", 1, 1), ("plain", 0, 70), ("plain", 2, 3)])
def test_tokens_are_the_references(traced: Get, name: str, seed: int, length: int, chip: str) -> None:
    check_greedy(traced(name), chip, seed, length)


def test_vendor_operators_compute_the_same_program(traced: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their 16-bit rule suspended, the references compute in float32: then 950's program gives the reference's tokens too."""
    monkeypatch.setattr(Target, "sixteen", property(lambda self: True))
    monkeypatch.setattr(reference, "SIXTEEN", (torch.bfloat16, torch.float16, torch.float32))
    flash = traced("flash")
    flash.artifact("ascend950", "f32", 3)
    used = json.loads((flash.artifact("ascend950", "f32", 3) / "plan.json").read_text())["vendor_operators"]
    assert {"npu_mhc_pre", "npu_mhc_sinkhorn", "npu_mhc_post", "npu_fused_causal_conv1d", "npu_lightning_indexer",
            "npu_sparse_flash_attention", "npu_moe_gating_top_k", "npu_grouped_matmul"} <= set(used)  # fmt: skip
    check_greedy(flash, "ascend950", 3, 33)


@pytest.mark.parametrize("chip", ["ascend910b", "ascend950"])
def test_bf16(traced: Get, chip: str) -> None:
    """Rounding moves logits by a few percent of the largest; a token whose experts or sparse rows change moves more."""
    flash = traced("flash")
    tokens = prompt(flash, 60)
    expected = logits(flash.reference(0), tokens)
    with flash.model(chip, "bf16", 0).session() as session:
        got = session.prefill(tokens, all_logits=True)
    moved = np.abs(got - expected).max(-1) / np.abs(expected).max()
    assert np.median(moved) <= 0.06
    plan = json.loads((flash.artifact(chip, "bf16", 0) / "plan.json").read_text())
    assert all(exists(name, chip) for name in plan["vendor_operators"])
    assert "npu_sparse_flash_attention" in plan["vendor_operators"]
    assert ("npu_mhc_pre" in plan["vendor_operators"]) == (chip == "ascend950")


def test_storage(traced: Get) -> None:
    flash = traced("flash")
    out = flash.artifact("ascend950", "bf16", 0)
    with safe_open(str(out / "weights.safetensors"), framework="pt") as file:
        assert file.get_tensor("model.layers.0.self_attn.qa_conv.weight").shape == (3, 128)
        assert file.get_tensor("model.layers.0.self_attn.q_b_proj.weight").dtype == torch.bfloat16
        assert file.get_tensor("model.layers.1.mlp.gate.weight").dtype == torch.float32
        assert file.get_tensor("model.layers.1.mlp_mhc_module.branch_alpha").dtype == torch.float32
    assert flash.artifact("ascend950", "bf16", 0, "again").joinpath("SHA256SUMS").read_bytes() == (out / "SHA256SUMS").read_bytes()


def test_an_artifact_stands_alone(traced: Get, tmp_path: Path) -> None:
    flash = traced("flash")
    out = flash.artifact("ascend910_93", "f32", 0)
    Artifact.open(out)
    command = [sys.executable, str(out / "src" / "model.py"), "--tokens", "1,2,3", "--max-new-tokens", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    record = json.loads(done.stdout)
    assert record["tokens"] == generate(flash.model("ascend910_93", "f32", 0), [1, 2, 3], True, 5)
    assert record["ran"].startswith("simulated")
    assert "pangu_compile" not in "".join(p.read_text() for p in (out / "src").glob("*.py"))


def test_sampling_is_the_runtimes(traced: Get) -> None:
    """Without drafts the tokens follow the IR's definition of sampling, drawn with the runtime's random numbers."""
    plain = traced("plain")
    model, tokens = plain.model("ascend910b", "f32", 0), prompt(plain, 6)
    settings = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 7}
    got = generate(model, tokens, False, 8, **settings)
    random = model._globals["Random"](7)
    sequence = list(tokens)
    with model.session(speculate=False) as session:
        row = session.prefill(sequence)
        for _ in range(8):
            sequence.append(draw(distribution(row, 0.8, 20, 0.9), random.uniform()))
            row = session.decode(sequence[-1])
    assert sequence[len(tokens) :] == got
    assert len(generate(model, tokens, True, 8, **settings)) == 8
    assert generate(model, tokens, True, 8, **{**settings, "top_k": 1}) == generate(model, tokens, False, 8)


def test_limits_are_errors(traced: Get) -> None:
    model = traced("plain").model("ascend910b", "f32", 0)
    long = [1] * (CONTEXT + 1)
    for tokens, new, message in (([], 4, "no tokens"), ([10**6], 4, "outside the vocabulary"), (long, 1, "context full")):
        with model.session() as session, pytest.raises(UserError, match=message):
            session.generate(tokens, new)
    with model.session() as session, pytest.raises(UserError, match="context full"):
        session.generate([1] * (CONTEXT - 2), 9)


def check_report(artifact: Artifact, folder: Path) -> None:
    """report.html, `inspect` and the source tell of the same calls."""
    assert "report.html" in artifact.manifest["files"]
    assert main(["inspect", str(artifact.path), "--json", str(folder / "r.json")]) == 0
    record = json.loads((folder / "r.json").read_text())
    calls = record["torch_npu"]
    assert record["plan_agrees"] and calls["chip"] == "ascend950" and calls["vendor_calls"] > 0
    assert f"{calls['vendor_calls']}calls of torch_npu" in check((artifact.path / "report.html").read_text()).text
    assert "simulated" in render_text(record)


def check_accuracy(checkpoint: Path, artifact: Path) -> None:
    """Weights of 16 bits are stored so and computed with in float32, unless activations of 16 bits are asked for."""
    narrow = pangu_compile.build(
        checkpoint, artifact.parent / "narrow.pangu", target="torch_npu", chip="ascend950", max_context=64, activations="bf16"
    )
    tokens, difference = [5, 9, 2, 77, 30, 8], {}
    expected = logits(load_reference(checkpoint, dtype=torch.float32), tokens)
    for path in (artifact, narrow.path):
        with safe_open(str(path / "weights.safetensors"), framework="pt") as file:
            assert file.get_tensor("model.layers.0.self_attn.q_b_proj.weight").dtype == torch.bfloat16
        with ProgramModel(path).session() as session:
            difference[path] = np.abs(session.prefill(tokens, all_logits=True) - expected).max() / np.abs(expected).max()
    assert difference[artifact] <= 1e-4 < difference[narrow.path]
    assert "npu_fused_causal_conv1d" in json.loads((narrow.path / "plan.json").read_text())["vendor_operators"]


def test_build_and_its_options(tmp_path: Path) -> None:
    raw = {k: v for k, v in FLASH.items() if not k.startswith(("use_mhc", "mhc_", "dsa", "swa", "index", "sliding"))}
    raw |= {"num_hidden_layers": 1, "num_nextn_predict_layers": 0, "block_post_layernorm_idx": []}
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint", OpenPanguConfig.from_dict(raw), 0)
    artifact = pangu_compile.build(checkpoint, tmp_path / "x.pangu", target="torch_npu", chip="ascend950", max_context=64)
    manifest = artifact.manifest
    assert (manifest["target"], manifest["chip"], manifest["weights"]) == ("torch_npu", "ascend950", "bf16")
    assert len(generate(ProgramModel(artifact.path), [1, 2], True, 3)) == 3
    check_report(artifact, tmp_path)
    check_accuracy(checkpoint, artifact.path)
    again = pangu_compile.build(checkpoint, tmp_path / "again.pangu", target="torch_npu", chip="ascend950", max_context=64)
    assert (again.path / "SHA256SUMS").read_bytes() == (artifact.path / "SHA256SUMS").read_bytes()
    with pytest.raises(UserError, match="not one of ascend910b"):
        pangu_compile.build(checkpoint, tmp_path / "y.pangu", target="torch_npu", chip="ascend310")
    for weights, message in (("int8", "not available for torch_npu"), ("f32", "needs activations float32")):
        with pytest.raises(UserError, match=message):
            pangu_compile.build(checkpoint, tmp_path / "y.pangu", target="torch_npu", weights=weights, activations="bf16")


def test_sampled_drafts_are_the_cpus(traced: Get) -> None:
    """The same seed gives the CPU artifact's tokens, drafts accepted and refused among them."""
    plain, accepted, refused = traced("plain"), 0, 0
    program, tokens = plain.model("ascend910b", "f32", 0), prompt(plain, 12)
    with Model(plain.cpu(0), threads=1) as model:
        assert generate(program, tokens, True) == generate(model, tokens, False)
        for settings in ({"temperature": 20.0, "seed": 3}, {"temperature": 9.0, "top_k": 40, "top_p": 0.95, "seed": 11}):
            with model.session() as session:
                want = session.generate(tokens, 40, Sampling(**settings), True)  # type: ignore[arg-type]
            assert generate(program, tokens, True, 40, **settings) == list(want.tokens)
            accepted += sum(want.stats.accepted)
            refused += sum(want.stats.drafted) - sum(want.stats.accepted)
    assert accepted > 3 and refused > 3


def test_verify(traced: Get, capfd: pytest.CaptureFixture[str]) -> None:
    plain = traced("plain")
    command = ["verify", str(plain.artifact("ascend910b", "f32", 0)), "--against", str(plain.checkpoint(0))]
    assert main([*command, "--tokens", "20"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("simulated: ") and "limit 2e-04 of it on every token" in out and "same tokens as without  ok" in out
    assert main([*command, "--simulate"]) == 2 and "--simulate is for Ascend artifacts" in capfd.readouterr().err
    other = [*command[:-1], str(plain.checkpoint(1))]
    assert main([*other, "--tokens", "8"]) == 1 and "FAILED" in capfd.readouterr().out
