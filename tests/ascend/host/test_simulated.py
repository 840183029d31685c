"""The whole Ascend artifact on the simulator against the CPU artifact of the same weights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pangu_compile.cli import main
from pangu_compile.driver.artifact import Artifact
from pangu_compile.driver.execute import open_model
from pangu_compile.models.random_checkpoint import SMALL, TINY, Sizes, random_config, write_random_checkpoint
from pangu_compile.runtime import Sampling

if TYPE_CHECKING:
    from conftest import Built

LIMIT, SAME = 0.02, 0.98


def opened(path: Path, simulate: bool) -> Any:
    return open_model(path, 1, simulate)[1]


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, 150, count)]


def generated(model: Any, prompt: list[int], speculate: bool) -> list[int]:
    with model.session(speculate=speculate) as session:
        return list(session.generate(prompt, max_new_tokens=12, speculate=speculate).tokens)


def whole(model: Any, prompt: list[int]) -> np.ndarray:
    with model.session() as session:
        logits: np.ndarray = session.prefill(prompt, all_logits=True)
    return logits


def prefilled(path: Path, simulate: bool, prompt: list[int]) -> np.ndarray:
    with opened(path, simulate) as model:
        return whole(model, prompt)


def test_logits_agree_with_the_cpu(built: Built) -> None:
    """No router and no indexer chooses otherwise: a hundred times closer than the limit."""
    prompt = tokens(70)
    want, got = prefilled(built.cpu, False, prompt), prefilled(built.npu, True, prompt)
    assert np.abs(got - want).max() <= LIMIT / 100 * np.abs(want).max()
    assert (got.argmax(-1) == want.argmax(-1)).all()


def agrees(got: np.ndarray, want: np.ndarray) -> bool:
    """Logits within LIMIT of the largest, and the same top token on SAME of the rows."""
    within = np.abs(got - want).max() <= LIMIT * np.abs(want).max()
    return bool(within and (got.argmax(-1) == want.argmax(-1)).mean() >= SAME)


@pytest.mark.parametrize(("sizes", "seed"), [(TINY, 7), (SMALL, 18)], ids=["tiny", "small"])
def test_random_checkpoints_agree(builder: Callable[..., Built], sizes: Sizes, seed: int, tmp_path: Path) -> None:
    """70 tokens and, as a row depends on no other row's call, prompts of any length below; then greedy tokens."""
    config = dataclasses.replace(random_config(seed, sizes), max_position_embeddings=256)
    pair = builder(write_random_checkpoint(tmp_path / "checkpoint", config, seed=seed), tmp_path, "bf16")
    prompt = [t % config.vocab_size for t in tokens(70, seed)]
    with opened(pair.cpu, False) as cpu, opened(pair.npu, True) as npu:
        assert agrees(whole(npu, prompt), whole(cpu, prompt))
        for length in (1, 30):
            assert generated(npu, prompt[:length], True) == generated(cpu, prompt[:length], False), length


def test_bf16_activations(built_bf16: Built) -> None:
    """Few enough tokens that no router's or indexer's near tie falls the other way in bf16; drafts change nothing."""
    prompt = tokens(30)
    want, got = prefilled(built_bf16.cpu, False, prompt), prefilled(built_bf16.npu, True, prompt)
    assert agrees(got, want)
    with opened(built_bf16.npu, True) as model:
        assert generated(model, tokens(9), False) == generated(model, tokens(9), True)


def test_a_result_does_not_depend_on_the_call(built: Built) -> None:
    """The same bits for a token alone, in pieces, and in one call: speculation cannot change a token."""
    prompt = tokens(70)
    want = prefilled(built.npu, True, prompt)
    with opened(built.npu, True) as model, model.session() as session:
        parts = [session.prefill(prompt[a:b], all_logits=True) for a, b in ((0, 1), (1, 4), (4, 40))]
        parts += [session.decode(t)[None] for t in prompt[40:]]
    assert (np.concatenate(parts) == want).all()


def test_int8_agrees_with_the_cpu(built_int8: Built) -> None:
    """Rows have 24 bits, the CPU's 16: no router and no indexer chooses otherwise, nor does a token; drafts change nothing."""
    prompt = tokens(70)
    with opened(built_int8.cpu, False) as cpu, opened(built_int8.npu, True) as npu:
        want, got = (whole(model, prompt) for model in (cpu, npu))
        assert np.abs(got - want).max() <= LIMIT / 100 * np.abs(want).max()
        assert (got.argmax(-1) == want.argmax(-1)).all()
        plain = generated(npu, tokens(9), False)
        assert plain == generated(npu, tokens(9), True) == generated(cpu, tokens(9), False)


def test_w8a8_agrees_with_the_cpu(built_w8a8: Built) -> None:
    """The same integers in weights and rows: equal but for float32's rounding, until a value near a tie becomes another integer."""
    prompt = tokens(24)
    kinds = {t.get("format") for t in json.loads((built_w8a8.cpu / "manifest.json").read_text())["tensors"].values()}
    assert "w8a8" in kinds
    with opened(built_w8a8.cpu, False) as cpu, opened(built_w8a8.npu, True) as npu:
        want, got = (whole(model, prompt) for model in (cpu, npu))
        moved = np.abs(got - want).max(-1) / np.abs(want).max()
        assert moved.max() <= LIMIT and (moved <= LIMIT / 1000).mean() >= 0.75
        assert generated(npu, prompt[:9], False) == generated(cpu, prompt[:9], False)


def test_sampled_drafts_are_the_cpus(built: Built) -> None:
    """The CPU's step is one program that samples and verifies; Ascend's runtime does it draft by draft, with the same numbers."""
    prompt, accepted, refused = tokens(9), 0, 0
    with opened(built.cpu, False) as cpu, opened(built.npu, True) as npu:
        for sampling in (Sampling(temperature=20.0, seed=3), Sampling(temperature=9.0, top_k=40, top_p=0.95, seed=11)):
            found = []
            for model in (cpu, npu):
                with model.session() as session:
                    found.append(session.generate(prompt, max_new_tokens=16, sampling=sampling))
            assert list(found[0].tokens) == list(found[1].tokens) and found[0].stats.accepted == found[1].stats.accepted
            accepted += sum(found[0].stats.accepted)
            refused += sum(found[0].stats.drafted) - sum(found[0].stats.accepted)
    assert accepted > 3 and refused > 3


def test_verify(built: Built, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["verify", str(built.npu), "--against", str(built.checkpoint), "--tokens", "9"]
    assert main(command) == 2
    refused = capfd.readouterr().err
    assert "--simulate" in refused and refused.count("\n") == 1
    assert main([*command, "--simulate", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["passed"] and record["simulated"] and record["speculation_identical"] and record["limit"] == 2e-4
    assert [m["mode"] for m in record["modes"]] == ["prefill", "prefill+decode", "chunks of 1", "chunks of 7"]


def test_greedy_tokens_with_and_without_drafts(built: Built) -> None:
    """Drafts change nothing, and the tokens are the CPU's."""
    with opened(built.cpu, False) as cpu, opened(built.npu, True) as npu:
        for length in (1, 2, 7, 33, 70):
            prompt = tokens(length, length)
            plain = generated(npu, prompt, False)
            assert plain == generated(npu, prompt, True) == generated(cpu, prompt, False), length


def test_sessions_are_saved_restored_and_cut(built: Built) -> None:
    prompt = tokens(30)
    with opened(built.npu, True) as model, model.session() as first, model.session() as second:
        first.prefill(prompt)
        saved = first.save()
        want = first.decode(5)
        second.restore(saved)
        assert (second.decode(5) == want).all()
        first.truncate(30)
        assert (first.decode(5) == want).all()
        first.reset()
        first.prefill(prompt)
        assert (first.decode(5) == want).all()


def test_command_line(built: Built, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(built.npu), "--tokens", "1,2,3"]) == 2
    refused = capfd.readouterr().err
    assert "--simulate" in refused and refused.count("\n") == 1
    assert main(["run", str(built.npu), "--tokens", "1,2,3", "--max-new-tokens", "4", "--simulate", "--json"]) == 0
    done = capfd.readouterr()
    record = json.loads(done.out)
    assert "simulated" in done.err and record["stats"]["simulated"] is True and len(record["tokens"]) == 4
    Artifact.open(built.npu)  # nothing was written into it
    assert main(["run", str(built.cpu), "--tokens", "1", "--simulate"]) == 2


def test_no_vendor_product_of_bf16_is_asked_for_float32(built: Built, built_bf16: Built, built_int8: Built) -> None:
    """It would be rounded to bf16 first: such results are our own kernel's."""
    for artifact in (built.npu, built_bf16.npu, built_int8.npu):
        program = (artifact / "src/host/model.cpp").read_text()
        products = [line for line in program.splitlines() if re.search(r"\b(batch_)?matmul\(", line)]
        assert products and not [line for line in products if re.search(r"\(d, bf16\(.* f32\(", line)]
        assert "launch_product" in program


def test_artifact_has_what_cann_needs(built: Built) -> None:
    for name in ("src/CMakeLists.txt", "src/host/model.cpp", "README.md", "include/pangu_runtime.h", "src/check.c"):
        assert str(built.npu.parent) not in (built.npu / name).read_text()
    project = (built.npu / "src/CMakeLists.txt").read_text()
    for source in sorted((built.npu / "src").rglob("*.cpp")):
        assert source.relative_to(built.npu / "src").as_posix() in project
