"""MTP heads with windows only follow where drafts need them, jump over what they cannot see, and draft as if they had not."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest

import pangu_compile
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import write_random_checkpoint
from pangu_compile.runtime import Model, Sampling, Session

from . import fake
from .conftest import CONFIG
from .test_fake_model import faults

HEADS = 3
# Bit j: head j has a window only. Below a head that sees all rows none can skip any.
MASKS = {"all": 0b1110, "behind_one_that_sees_all": 0b1100, "last": 0b1000, "below_one_that_sees_all": 0b0110}
Pair = tuple[Model, Model]  # in the second every head sees every row


def fed(model: Model) -> list[int]:
    """Rows that each head was given so far."""
    out = np.zeros(HEADS + 1, np.int64)
    model.run_program("fed", [], [], [out])
    return out[1:].tolist()


@pytest.fixture(scope="module", params=[(mask, speculate) for mask in MASKS for speculate in (0, 1)], ids=str)
def pair(request, tmp_path_factory) -> Iterator[Pair]:
    """A model, and the same with caches that make its heads miss nothing."""
    mask, speculate = request.param
    folder = tmp_path_factory.mktemp("jumps")
    macros = {"windowed": MASKS[mask], **({"speculate": 1} if speculate else {})}
    names = {"jumping": {}, "following": {"follow": 1}}
    paths = [fake.artifact(folder / f"{n}.pangu", fake.library(folder / f"{n}.so", **macros, **m), 70) for n, m in names.items()]
    with Model(paths[0], threads=1) as one, Model(paths[1], threads=1) as other:
        yield one, other
        assert faults(one) == faults(other) == 0


class Both:
    """Does the same to a session of either model, and compares tokens and what was drafted and accepted."""

    def __init__(self, models: Pair, context: int):
        self.models = models
        self.sessions: list[Session] = [m.session(max_context=context) for m in models]
        self.context, self.drafted = context, 0

    @property
    def room(self) -> int:
        return self.context - self.sessions[0].length

    def generate(self, prompt: list[int], count: int, **options) -> list[int]:
        results = [s.generate(prompt, count, **options) for s in self.sessions]
        for r in results[1:]:
            assert r.tokens == results[0].tokens
            assert (r.stats.steps, r.stats.drafted, r.stats.accepted) == (
                results[0].stats.steps, results[0].stats.drafted, results[0].stats.accepted,
            )  # fmt: skip
        self.drafted += sum(results[0].stats.drafted)
        return results[0].tokens

    def prefill(self, tokens: list[int], chunk: int) -> None:
        for s in self.sessions:
            s.prefill(tokens, chunk=chunk)

    def truncate(self, length: int) -> None:
        for s in self.sessions:
            s.truncate(max(0, length))

    def reset(self) -> None:
        for s in self.sessions:
            s.reset()

    def through_bytes(self) -> None:
        """Go on in new sessions, restored from what the old ones save."""
        saved = [s.save() for s in self.sessions]
        self.sessions = [m.session(max_context=self.context) for m in self.models]
        for session, data in zip(self.sessions, saved, strict=True):
            session.restore(data)


def wander(both: Both, random: Random, vocabulary: int, calls: int) -> None:
    """Random calls over long texts: generation with every number of drafts and none, prompts short and long, cuts, saves."""

    def words(count: int) -> list[int]:
        return [random.randrange(vocabulary) for _ in range(count)]

    for _ in range(calls):
        if both.room < 120:
            both.reset()
        kind = random.choice(["generate"] * 12 + ["prefill"] * 2 + ["cut"] * 2 + ["cut far", "save"])
        length = both.sessions[0].length
        if kind == "generate":
            drafts, count = random.choice([0, 1, 1, 2, 3, 3]), random.choice([2, 3, 5, 12, 40])
            sampling = random.choice([Sampling(), Sampling(), Sampling(0.8, seed=random.randrange(1000))])
            prompt = words(random.choice([1, 2, 9, 60]))
            both.generate(prompt, count, sampling=sampling, speculate=drafts > 0, drafts=drafts or None)
        elif kind == "prefill":
            both.prefill(words(random.choice([1, 30, 80])), random.choice([3, 8]))
        elif kind == "cut":
            both.truncate(length - random.randrange(4))
        elif kind == "cut far":
            both.truncate(length * random.randrange(5) // 5)
        else:
            both.through_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_drafts_as_if_every_row_had_been_seen(pair, seed):
    both = Both(pair, 1024)
    wander(both, Random(seed), pair[0].vocab_size, 150)
    assert both.drafted > 400


@pytest.fixture(scope="module")
def jumping(tmp_path_factory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("jumping")
    library = fake.library(folder / "a.so", windowed=MASKS["all"], speculate=1)
    with Model(fake.artifact(folder / "a.pangu", library, 70), threads=1) as model:
        yield model
        assert faults(model) == 0


def test_heads_follow_only_as_far_as_drafts_need(jumping):
    """By their windows, and a few rows more so that a step may go back."""
    prompt = np.random.default_rng(0).integers(0, jumping.vocab_size, 700).tolist()
    spare = 3 * HEADS + 3

    def rows(call) -> list[int]:
        before = fed(jumping)
        call()
        return [b - a for a, b in zip(before, fed(jumping), strict=True)]

    with jumping.session() as session:
        assert rows(lambda: session.generate(prompt, 40, speculate=False)) == [0, 0, 0]
        one = rows(lambda: session.generate([1], 4, drafts=1))
        assert 25 < one[0] <= 25 + spare and one[1:] == [0, 0]
        all_heads = rows(lambda: session.generate([1], 5, drafts=3))
        windows = np.array([25 + 30 + 130, 30 + 130, 130])
        assert (all_heads > windows).all() and (all_heads <= windows + 2 * spare).all()
        steady = rows(lambda: session.generate([1], 30, drafts=3))
        assert max(steady) <= 30 * 3  # no jumps any more
    with jumping.session(speculate=False) as session:
        assert rows(lambda: session.generate(prompt, 5)) == [0, 0, 0]


def test_saved_sessions_hold_no_more_than_there_is(jumping):
    with jumping.session() as session:
        session.prefill([1, 2, 3])
        short = len(session.save())
        session.prefill([1] * 20)
        assert len(session.save()) - short == 20 * (8 + 4 * 24 + 4 * 5)  # a token, a row of four caches, the trunk's hidden row
        session.prefill([1] * 500)
        more = len(session.save())
        session.prefill([1] * 20)
        assert len(session.save()) - more == 20 * (8 + 4 * 24)  # rings are full


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Iterator[Pair]:
    """A random checkpoint, compiled; and again as if the trunk's cache were the last head's, so that the heads miss nothing."""
    folder = tmp_path_factory.mktemp("compiled")
    windows = {"sliding_window": None, "sliding_window_list": [9, 4, 1, 40]}
    config = {**CONFIG, **windows, "max_position_embeddings": 512, "vocab_size": 9}
    write_random_checkpoint(folder / "checkpoint", OpenPanguConfig.from_dict(config), seed=5, dtype="f32")
    one, other = folder / "jumping.pangu", folder / "following.pangu"
    pangu_compile.build(folder / "checkpoint", one, max_context=512, max_chunk=8, opt_level=1)
    shutil.copytree(one, other)
    source = other / "src/model.cpp"
    text, cut = source.read_text(), '{"layers.0.latent", 1, '
    assert cut + "0," in text
    source.write_text(text.replace(cut + "0,", cut + f"{HEADS},"))
    options = re.search(r"target_compile_options\(pangu_model PRIVATE (.*) \$", (other / "src/CMakeLists.txt").read_text())
    assert options is not None
    subprocess.run(
        ["g++", *options[1].split(), "-march=native", "-fPIC", "-I.", "-Icore", "-I../include", "model.cpp", "runtime.cpp",
         "-shared", "-pthread", "-Wl,-soname,libpangu_model.so", "-o", "../lib/libpangu_model.so"], cwd=other / "src", check=True,
    )  # fmt: skip
    fake.seal(other)
    with Model(one, threads=1) as a, Model(other, threads=1) as b:
        yield a, b


@pytest.mark.parametrize("seed", range(4))
def test_compiled_drafts_as_if_every_row_had_been_seen(compiled, seed):
    both = Both(compiled, 512)
    wander(both, Random(seed), compiled[0].vocab_size, 60)
    assert both.drafted > 150
