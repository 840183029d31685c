"""Contexts so long that the indexer scans codes of its keys: a session, which keeps codes, gives the bits of a run without them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pangu_compile
from pangu_compile.models.random_checkpoint import random_config, write_random_checkpoint
from pangu_compile.runtime import Model

SEED = 8  # dense and sparse attention, windows, convolutions, four streams, experts, and two heads for drafts
CONTEXT = 900
FROM = 2**21 // (24 * 128) + 1  # rows from which on codes are scanned (pangu_index.h: kCodesFrom)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    config = dataclasses.replace(
        random_config(SEED), max_position_embeddings=CONTEXT, index_n_heads=24, index_head_dim=128, index_topk=50
    )
    assert config.dsa_layers and config.num_nextn_predict_layers
    write_random_checkpoint(folder / "checkpoint", config, seed=SEED)
    pangu_compile.build(folder / "checkpoint", folder / "model.pangu", max_context=CONTEXT, opt_level=1, jobs=1)
    return folder / "model.pangu"


def test_built_without(artifact: Path, tmp_path: Path) -> None:
    """--no-key-codes: less memory, and the same bits."""
    checkpoint, options = artifact.parent / "checkpoint", {"max_context": CONTEXT, "opt_level": 1, "jobs": 1}
    pangu_compile.build(checkpoint, tmp_path / "model.pangu", key_codes=False, **options)
    assert json.loads((artifact / "plan.json").read_text())["derived"]
    assert json.loads((tmp_path / "model.pangu/plan.json").read_text())["derived"] == []
    with Model(artifact) as model, Model(tmp_path / "model.pangu") as bare, model.session() as session, bare.session() as other:
        tokens = draw(FROM + 60, model)
        for part in (tokens[: FROM + 40], tokens[FROM + 40 : -1], tokens[-1:]):
            np.testing.assert_array_equal(session.prefill(part), other.prefill(part))


class Bare:
    """The program `step` on states of our own, which has nothing but them."""

    def __init__(self, model: Model, path: Path):
        self.model, self.length = model, 0
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
        self.chunk, self.hidden = manifest["max_chunk"], model.hidden_size
        self.states = [np.zeros((s["rows"] or CONTEXT, s["width"]), np.float32) for s in manifest["states"]]

    def run(self, tokens: list[int]) -> np.ndarray:
        """Logits of the last token."""
        for at in range(0, len(tokens), self.chunk):
            part = np.array(tokens[at : at + self.chunk], np.int64)
            n = len(part)
            logits, hidden = np.empty((1, self.model.vocab_size), np.float32), np.empty((n, self.hidden), np.float32)
            inputs = [part, np.array([self.length], np.int64), np.array([n - 1], np.int64)]
            self.model.run_program("step", [n, self.length, 1], inputs, [logits, hidden], self.states)
            self.length += n
        return logits[0]


def draw(count: int, model: Model, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.vocab_size, count).tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_as_without_codes(artifact: Path, threads: int) -> None:
    with Model(artifact, threads=threads) as model, model.session() as session:
        bare, tokens = Bare(model, artifact), draw(FROM + 120, model)
        at = 0
        for size in (FROM - 100, 90, 7, 1, 1, 1, 1, 1, 60, 1, 1, 2, 1):  # across the row from which on there are codes
            part = tokens[at : at + size]
            np.testing.assert_array_equal(session.prefill(part), bare.run(part), err_msg=f"{at} + {size}")
            at += size


def test_rows_that_are_replaced(artifact: Path) -> None:
    with Model(artifact) as model, model.session() as session:
        bare, tokens = Bare(model, artifact), draw(FROM + 20, model)
        session.prefill(tokens)
        bare.run(tokens)
        for back in (1, 2, 1):  # as many as are drafted: nothing is computed again
            session.truncate(session.length - back)
            bare.length -= back
            other = draw(back + 1, model, back)
            np.testing.assert_array_equal(session.prefill(other), bare.run(other))


def test_truncated_below_and_grown_again(artifact: Path) -> None:
    """Where no codes are scanned they must not be taken for those of other rows later."""
    with Model(artifact) as model, model.session() as session:
        bare, tokens = Bare(model, artifact), draw(FROM + 40, model)
        session.prefill(tokens)
        session.truncate(30)
        changed = tokens[:30] + draw(FROM + 60, model, 1)
        for part in (changed[30 : FROM - 50], changed[FROM - 50 :]):
            session.prefill(part)
        bare.run(changed)
        last = draw(1, model, 2)
        np.testing.assert_array_equal(session.decode(last[0]), bare.run(last))


def test_restored_over_other_rows(artifact: Path) -> None:
    with Model(artifact) as model, model.session() as session, model.session() as other:
        bare, tokens = Bare(model, artifact), draw(FROM + 30, model)
        session.prefill(tokens)
        bare.run(tokens)
        other.prefill(draw(FROM + 30, model, 3))
        other.restore(session.save())
        last = draw(1, model, 4)
        want = bare.run(last)
        np.testing.assert_array_equal(other.decode(last[0]), want)
        np.testing.assert_array_equal(session.decode(last[0]), want)


def test_drafts_change_nothing(artifact: Path) -> None:
    with Model(artifact) as model:
        prompt = draw(FROM - 40, model)
        with model.session(speculate=False) as plain, model.session() as drafting:
            want = plain.generate(prompt, max_new_tokens=120, speculate=False)
            got = drafting.generate(prompt, max_new_tokens=120, drafts=model.num_drafts)
            assert got.tokens == want.tokens
            np.testing.assert_array_equal(drafting.decode(5), plain.decode(5))
