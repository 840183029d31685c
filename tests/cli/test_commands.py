"""The commands on good input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pangu_compile.driver.artifact import list_files

from .conftest import SMALL, Result, make_checkpoint

Cli = Callable[..., Result]


def test_run_with_token_ids(cli: Cli, shared_artifact: Path) -> None:
    plain = cli("run", shared_artifact, "--tokens", "1,2,3", "--max-new-tokens", "12")
    assert plain.status == 0 and "tokens" in plain.err
    ids = [int(word) for word in plain.out.split()]
    record = json.loads(cli("run", shared_artifact, "--tokens", "1,2,3", "--max-new-tokens", 12, "--json").out)
    assert record["prompt_tokens"] == [1, 2, 3] and record["tokens"] == ids and len(ids) == 12
    assert record["text"] is None and record["stats"]
    off = cli("run", shared_artifact, "--tokens", "1,2,3", "--max-new-tokens", "12", "--no-speculate", "--json")
    assert json.loads(off.out)["tokens"] == ids
    one = json.loads(cli("run", shared_artifact, "--tokens", "1,2,3", "--max-new-tokens", 12, "--drafts", 1, "--json").out)
    assert one["tokens"] == ids and one["stats"]["drafted"][0] > 0 and not any(one["stats"]["drafted"][1:])
    for wrong in (("--drafts", 9), ("--drafts", 1, "--no-speculate")):
        result = cli("run", shared_artifact, "--tokens", "1", *wrong)
        assert result.status == 2 and "drafts" in result.err, result.err


def test_sampling_is_repeatable(cli: Cli, shared_artifact: Path) -> None:
    def tokens(*options: object) -> list[int]:
        result = cli("run", shared_artifact, "--tokens", "5", "--max-new-tokens", 20, "--json", *options)
        assert result.status == 0, result.err
        found: list[int] = json.loads(result.out)["tokens"]
        return found

    warm = ("--temperature", "1.5", "--top-p", "0.95", "--top-k", "30")
    assert tokens(*warm, "--seed", 1) == tokens(*warm, "--seed", 1)
    assert tokens(*warm, "--seed", 1) != tokens(*warm, "--seed", 2)


def test_verify_passes(cli: Cli, shared_artifact: Path, shared_checkpoint: Path) -> None:
    result = cli("verify", shared_artifact, "--against", shared_checkpoint, "--tokens", 40)
    assert result.status == 0, result.out + result.err
    assert "passed" in result.out
    record = json.loads(cli("verify", shared_artifact, "--against", shared_checkpoint, "--tokens", 20, "--json").out)
    assert record["passed"] and record["ratio"] <= 2e-4 and record["speculation_identical"]


def test_inspect(cli: Cli, shared_artifact: Path, shared_checkpoint: Path, tmp_path: Path) -> None:
    text = cli("inspect", shared_artifact)
    assert text.status == 0 and "MTP head 1" in text.out and "program step" in text.out
    assert cli("inspect", shared_artifact, "--json", tmp_path / "a.json").status == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["kind"] == "artifact" and "moe_ffn" in record["fused"] and "mtp" in record
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((shared_checkpoint / "config.json").read_text())
    bare = json.loads(cli("inspect", tmp_path / "bare", "--json", "-").out)
    assert bare["kind"] == "checkpoint" and bare["plan"]["weight_bytes"] == record["plan"]["weight_bytes"]
    assert "step" in cli("inspect", shared_artifact, "--ir").out


def test_bench_and_doctor(cli: Cli, shared_artifact: Path) -> None:
    result = cli("bench", shared_artifact, "--prompt-tokens", 16, "--new-tokens", 8, "--threads", 1, "--json")
    assert result.status == 0, result.err
    record = json.loads(result.out)
    assert record["decode_tokens_per_second"] > 0 and record["share_of_read"] > 0 and record["random_prompt"]
    heads = len(record["speculation"]) - 1
    assert [s["drafts"] for s in record["speculation"]] == [*range(1, heads + 1), None] and heads > 0
    assert all(s["tokens_per_second"] > 0 and len(s["acceptance"]) == heads for s in record["speculation"])
    text = cli("bench", shared_artifact, "--tokens", "1,2,3", "--new-tokens", 4)
    assert text.status == 0 and "of a plain read" in text.out and "(this prompt)" in text.out and "as chosen" in text.out
    assert cli("bench", shared_artifact, "--tokens", "1", "--prompt-file", "x").status == 2
    report = cli("doctor", shared_artifact)
    assert report.status == 0 and "all sums right" in report.out


def test_two_builds_are_equal(cli: Cli, shared_artifact: Path, shared_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "another" / "place.pangu"
    assert cli("build", shared_checkpoint, "-o", out).status == 0
    assert list_files(out) == list_files(shared_artifact)
    for name in list_files(out):
        assert (out / name).read_bytes() == (shared_artifact / name).read_bytes(), name


def test_python_dash_m_and_torch_free_run(shared_artifact: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'sympy', 'safetensors', 'networkx', 'jinja2'): sys.modules[name] = None\n"
        f"from pangu_compile.cli import main\n"
        f"sys.exit(main(['run', {str(shared_artifact)!r}, '--tokens', '1,2', '--max-new-tokens', '3']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "pangu_compile", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "verify" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_leaves_nothing(tmp_path: Path, number: int) -> None:
    checkpoint = make_checkpoint(tmp_path / "ck", SMALL)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pangu_compile", "build", str(checkpoint), "-o", str(out / "m.pangu")]
    # A job in a shell's background ignores SIGINT, and its children do: not this one.
    heed = partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not any(out.glob(".m.pangu.tmp-*")):
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    assert "Traceback" not in err
    assert list(out.iterdir()) == []
