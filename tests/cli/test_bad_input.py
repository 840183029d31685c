"""Bad input: one line that says what and where, status 2 (1 for a failed compile), and nothing half-written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from .conftest import Result, edit_config, edit_tensors

Cli = Callable[..., Result]
Tensors = dict[str, torch.Tensor]


def refused(result: Result, *words: str, status: int = 2) -> str:
    """Checks the shape of an error and returns its line."""
    assert result.status == status, result
    assert result.out == ""
    line = result.err
    assert line.startswith("pangu-compile: error: ") and line.count("\n") == 1 and line.endswith("\n"), line
    assert "Traceback" not in line
    for word in words:
        assert word in line, line
    return line


def build(cli: Cli, checkpoint: Path, *more: object) -> Result:
    out = checkpoint.parent / "out.pangu"
    result = cli("build", checkpoint, "-o", out, *more)
    if result.status:
        left = [name for name in os.listdir(out.parent) if "out.pangu" in name]
        assert left == [], f"left behind: {left}"
    return result


def replace(file: Path, data: bytes) -> None:
    """New content in a new file: the old one may be the library that this very process has loaded."""
    file.unlink()
    file.write_bytes(data)


def test_usage(cli: Cli, tmp_path: Path) -> None:
    refused(cli("build"), "Missing argument")
    refused(cli("build", tmp_path), "Missing option")
    refused(cli("build", tmp_path, "-o", tmp_path / "x", "--target", "gpu"), "--target")
    refused(cli("build", tmp_path, "-o", tmp_path / "x", "--max-context", "many"), "--max-context")
    refused(cli("nonsense"), "No such command")
    refused(cli("run", tmp_path, "--bogus"), "--bogus")
    refused(cli("run", tmp_path), "exactly one of --prompt")
    refused(cli("run", tmp_path, "--prompt", "a", "--tokens", "1"), "exactly one of --prompt")
    refused(cli("inspect", tmp_path, "--onnx", "x"), "config.json")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--target", "ascend910b", "--weights", "f32"), "weights"), (("--weights", "int3"), "weights"),
        (("--ranks", "2"), "ranks"),
        (("--max-context", "0"), "max-context"), (("--max-context", "97"), "max_position_embeddings 96"),
    ],
)  # fmt: skip
def test_options(cli: Cli, checkpoint: Path, options: tuple[str, ...], word: str) -> None:
    refused(build(cli, checkpoint, *options), word)


def test_missing_extra_misshapen_tensors(cli: Cli, small_checkpoint: Path) -> None:
    whole = load_file(small_checkpoint / "model.safetensors")
    name = "model.layers.1.self_attn.o_proj.weight"

    def restore(change: Callable[[Tensors], object]) -> None:
        tensors = dict(whole)
        change(tensors)
        save_file(tensors, small_checkpoint / "model.safetensors")

    restore(lambda t: t.pop(name))
    refused(build(cli, small_checkpoint), name, "missing")
    restore(lambda t: t.update(stranger=torch.zeros(2)))
    refused(build(cli, small_checkpoint), "stranger")
    restore(lambda t: t.update({name: t[name].t().contiguous()}))
    refused(build(cli, small_checkpoint), name, "shape")
    restore(lambda t: t.update({name: t[name].to(torch.int32)}))
    refused(build(cli, small_checkpoint), name, "dtype")
    restore(lambda t: t.update({name: torch.full_like(t[name], float("nan"))}))
    refused(build(cli, small_checkpoint), name, "NaN")


def test_damaged_files(cli: Cli, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    data = file.read_bytes()
    for cut in (0, 5, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        refused(build(cli, checkpoint), str(file))
    file.write_bytes(data[:20] + b"\x00" + data[21:])
    refused(build(cli, checkpoint), str(file), "corrupt")
    file.write_bytes(b"not safetensors at all" * 10)
    refused(build(cli, checkpoint), str(file))


def test_index_naming_a_missing_shard(cli: Cli, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").rename(checkpoint / "model-1.safetensors")
    where = dict.fromkeys(tensors, "model-1.safetensors")
    where["lm_head.weight"] = "model-2.safetensors"
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    refused(build(cli, checkpoint), "model-2.safetensors", "missing")


def test_config(cli: Cli, checkpoint: Path) -> None:
    edit_config(checkpoint, secret_switch=1)
    refused(build(cli, checkpoint), "config.json", "secret_switch")
    edit_config(checkpoint, secret_switch=None)
    (checkpoint / "config.json").write_text("{not json")
    refused(build(cli, checkpoint), "config.json", "not JSON")
    (checkpoint / "config.json").unlink()
    refused(build(cli, checkpoint), "config.json")
    refused(build(cli, checkpoint / "nowhere"), "does not exist")


def test_output_that_cannot_be_written(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(cli("build", checkpoint, "-o", tmp_path / "file" / "m.pangu"), "cannot write")
    refused(cli("build", checkpoint, "-o", "/proc/m.pangu"), "/proc/m.pangu")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").write_text("x")
    refused(cli("build", checkpoint, "-o", tmp_path / "photos"), "not an artifact")
    assert (tmp_path / "photos" / "cat").exists()


def test_disk_full_keeps_the_good_artifact(cli: Cli, small_checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if os.getuid() != 0 or os.system(f"mount -t tmpfs -o size=96k none '{mount}' 2>/dev/null") != 0:
        pytest.skip("needs root and mount")
    try:
        refused(cli("build", small_checkpoint, "-o", mount / "m.pangu"), "m.pangu", "No space left on device")
        assert os.listdir(mount) == []
    finally:
        os.system(f"umount '{mount}'")


def test_no_compiler(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "empty"))
        patch.delenv("CXX", raising=False)
        refused(build(cli, checkpoint), "no C++ compiler")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    refused(build(cli, checkpoint), "/no/such/compiler")


def test_failing_compiler_is_status_one(
    cli: Cli, small_checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "badcc"
    script = 'case "$*" in *-c*) echo "x.cpp:1:1: error: out of luck" >&2; exit 1;; esac\nexec g++ "$@"\n'
    fake.write_text("#!/bin/sh\n" + script)
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    before = (artifact / "SHA256SUMS").read_bytes()
    refused(cli("build", small_checkpoint, "-o", artifact), "out of luck", status=1)
    assert (artifact / "SHA256SUMS").read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if re.match(r"\.copy\.pangu\.", name)]


def test_prompt(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    refused(cli("run", artifact, "--tokens", "1,61"), "61")
    refused(cli("run", artifact, "--tokens", "-1"), "-1")
    refused(cli("run", artifact, "--tokens", "1,x"), "'x'")
    refused(cli("run", artifact, "--tokens", ""), "token")
    refused(cli("run", artifact, "--tokens", ",".join(["1"] * 97)), "97", "96")
    refused(cli("run", artifact, "--tokens", "1", "--max-new-tokens", "-1"), "max")
    refused(cli("run", artifact, "--tokens", "1", "--temperature", "-1"), "temperature")
    refused(cli("run", artifact, "--tokens", "1", "--top-p", "2"), "top")
    refused(cli("run", artifact, "--tokens", "1", "--threads", "0"), "threads")
    refused(cli("run", artifact, "--prompt", "text"), "tokenizer.json")
    refused(cli("run", artifact, "--prompt-file", tmp_path / "nowhere"), "tokenizer.json")


def test_artifact_of_another_version_or_missing(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    text = (artifact / "manifest.json").read_text()
    (artifact / "manifest.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    for command in (("run", artifact, "--tokens", "1"), ("inspect", artifact), ("bench", artifact)):
        refused(cli(*command), "version 2")
    refused(cli("run", tmp_path / "nothing.pangu", "--tokens", "1"), "does not exist")
    refused(cli("run", tmp_path, "--tokens", "1"), "not an artifact")


def test_one_flipped_byte_anywhere(cli: Cli, artifact: Path) -> None:
    for file in sorted(p for p in artifact.rglob("*") if p.is_file()):
        data = file.read_bytes()
        at = len(data) // 2
        replace(file, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        line = refused(cli("run", artifact, "--tokens", "1,2", "--max-new-tokens", "2"))
        assert str(artifact) in line or file.name in line, line
        replace(file, data)
    assert cli("run", artifact, "--tokens", "1,2", "--max-new-tokens", "2").status == 0


def test_verify_against_another_checkpoint(cli: Cli, artifact: Path, checkpoint: Path) -> None:
    edit_config(checkpoint, rms_norm_eps=1e-3)
    refused(cli("verify", artifact, "--against", checkpoint), "config.json differ")


def test_wrong_weights_fail_verification(cli: Cli, artifact: Path, checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda t: t.update({"model.norm.weight": t["model.norm.weight"] * 1.01}))
    result = cli("verify", artifact, "--against", checkpoint, "--tokens", 12, "--json")
    assert result.status == 1 and json.loads(result.out)["passed"] is False
