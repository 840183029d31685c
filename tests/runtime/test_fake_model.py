"""The runtime's core on a hand-written model whose states carry their positions, so that every wrong row is counted."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pangu_compile.runtime import ArtifactError, ContextFullError, InputError, Model, PanguRuntimeError, Sampling

from . import fake

PROMPT = [1, 2, 3]
COMPILERS = [c for c in ("g++", "clang++") if shutil.which(c)]


@pytest.fixture(scope="module", params=["drafts", "speculate"])
def built(request, tmp_path_factory) -> Path:
    """Models whose steps run draft by draft, and models with the program `speculate`."""
    macros = {"speculate": 1} if request.param == "speculate" else {}
    return fake.library(tmp_path_factory.mktemp("fake") / f"{request.param}.so", **macros)


@pytest.fixture(scope="module", params=[0, 50, 97])
def model(request, built, tmp_path_factory) -> Iterator[Model]:
    """Heads that are mostly rejected, mixed, mostly accepted."""
    path = fake.artifact(tmp_path_factory.mktemp("fake") / f"agree{request.param}.pangu", built, request.param)
    with Model(path, threads=2) as opened:
        yield opened
        assert faults(opened) == 0


def faults(model: Model) -> int:
    """Rows, hidden rows and arguments that the model found wrong so far."""
    out = np.zeros(1, np.int64)
    model.run_program("faults", [], [], [out])
    return int(out[0])


def speculations(model: Model) -> int:
    """How often the program `speculate` ran so far."""
    out = np.zeros(1, np.int64)
    model.run_program("calls", [], [], [out])
    return int(out[0])


def plain(model: Model, count: int) -> list[int]:
    with model.session(speculate=False) as session:
        return session.generate(PROMPT, count, speculate=False).tokens


def test_drafts_never_change_500_tokens(model):
    expected = plain(model, 500)
    for threads in (1, 2, 5):
        with Model(model.path, threads=threads) as other, other.session() as session:
            for drafts in (None, *range(1, other.num_drafts + 1)):
                session.reset()
                result = session.generate(PROMPT, 500, drafts=drafts)
                assert result.tokens == expected and session.length == len(PROMPT) + 499
                assert faults(other) == 0 and not any(result.stats.drafted[drafts or other.num_drafts :])


def test_another_number_of_drafts_in_every_call(model):
    """Heads that sat out catch up, whichever program drafts next."""
    expected = plain(model, 400)
    with model.session() as session:
        tokens, todo = [], PROMPT
        for i in range(40):
            tokens += session.generate(todo, 10, speculate=i % 5 != 4, drafts=(3, 1, 2, 3, 1)[i % 5]).tokens
            todo = tokens[-1:]
    assert tokens == expected and faults(model) == 0


def test_more_drafts_than_heads(model):
    with model.session() as session:
        for drafts in (-1, 0, model.num_drafts + 1):
            with pytest.raises(InputError, match=f"drafts is {drafts}; give 1 to {model.num_drafts}"):
                session.generate(PROMPT, 5, drafts=drafts)
        assert session.length == 0


def test_acceptance_follows_the_heads(model):
    agree = int(model.path.stem.removeprefix("agree"))
    with model.session() as session:
        stats = session.generate(PROMPT, 500, drafts=model.num_drafts).stats
    rate = stats.accepted[0] / stats.drafted[0]
    assert abs(rate - max(agree / 100, 1 / 32)) < 0.1
    assert stats.new_tokens == 500 == 1 + stats.steps + sum(stats.accepted)


@pytest.mark.parametrize("prompt", [1, 2, 3, 40])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_one_program_a_step(tmp_path, heads, prompt):
    """`speculate` runs every step but the first few (heads need rows) and the last (fewer drafts are wanted)."""
    library = fake.library(tmp_path / "lib.so", speculate=1, heads=heads)
    with Model(fake.artifact(tmp_path / "a.pangu", library, 60)) as model:
        tokens = np.random.default_rng(prompt).integers(0, model.vocab_size, prompt).tolist()
        with model.session() as session, model.session(speculate=False) as other:
            result = session.generate(tokens, 300, drafts=heads)
            assert result.tokens == other.generate(tokens, 300, speculate=False).tokens
            run = speculations(model)
            assert result.stats.steps - 2 * heads <= run <= result.stats.steps and run > 50
            session.generate([1], 20, sampling=Sampling(temperature=0.7))  # draws are made by the runtime
            assert speculations(model) == run
        assert faults(model) == 0


def test_chunks_too_short_for_the_program(tmp_path):
    library = fake.library(tmp_path / "lib.so", speculate=1, chunk=6)
    with Model(fake.artifact(tmp_path / "a.pangu", library, 60)) as model:
        with model.session() as session:
            assert session.generate(PROMPT, 200, drafts=model.num_drafts).tokens == plain(model, 200)
        assert speculations(model) == 0 == faults(model)


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5])
def test_many_short_generations(model, piece):
    """Few wanted tokens mean few drafts: the heads that do not draft must not lose their place."""
    expected = plain(model, 60 * piece)
    with model.session() as session:
        tokens, todo = [], PROMPT
        for _ in range(60):
            tokens += session.generate(todo, piece, drafts=model.num_drafts).tokens
            todo = tokens[-1:]
        assert tokens == expected
        result = session.generate(todo, 200, drafts=model.num_drafts)
    agree = int(model.path.stem.removeprefix("agree"))
    assert faults(model) == 0 and result.stats.accepted[2] >= (agree == 97) * 30


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks(model, chunk):
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, model.vocab_size, 203)
    with model.session() as one, model.session() as other:
        rows = one.prefill(prompt, all_logits=True, chunk=chunk)
        assert (rows == other.prefill(prompt, all_logits=True)).all()
        assert (one.decode(3) == other.decode(3)).all()
        assert one.generate([4], 50, drafts=model.num_drafts).tokens == other.generate([4], 50, speculate=False).tokens


def test_truncate(model):
    prompt = list(np.random.default_rng(1).integers(0, model.vocab_size, 90))
    with model.session() as session, model.session(speculate=False) as other:
        session.prefill(prompt)
        for length in (90, 89, 88, 87, 86, 60, 58, 7, 1, 0):
            session.truncate(length)
            assert session.length == length
            other.reset()
            expected = other.prefill([*prompt[:length], 5])
            assert (session.decode(5) == expected).all()
            tail = session.generate([6], 20, drafts=model.num_drafts).tokens
            assert tail == other.generate([6], 20).tokens
            session.truncate(length)
            session.truncate(session.length)
        for bad in (-1, 1):
            with pytest.raises(InputError, match="cannot truncate"):
                session.truncate(bad)


def test_saved_sessions(model):
    with model.session(max_context=200) as session, model.session() as other:
        session.generate(PROMPT, 100, drafts=model.num_drafts)
        saved = session.save()
        expected = session.generate([4], 90, drafts=model.num_drafts).tokens
        other.restore(saved)
        assert other.generate([4], 90).tokens == expected
        other.restore(saved)
        other.truncate(other.length - 2)
        session.restore(saved)
        session.truncate(session.length - 2)
        assert session.generate([4], 50, drafts=model.num_drafts).tokens == other.generate([4], 50, speculate=False).tokens
        for at in range(0, len(saved), 97):
            damaged = bytearray(saved)
            damaged[at] ^= 1
            with pytest.raises(InputError):
                other.restore(bytes(damaged))
    with model.session(speculate=False) as other, pytest.raises(InputError, match="speculate"):
        other.restore(saved)


def test_saved_session_of_another_artifact(built, tmp_path):
    paths = [fake.artifact(tmp_path / f"{agree}.pangu", built, agree) for agree in (10, 20)]
    with Model(paths[0]) as a, Model(paths[1]) as b, a.session() as session, b.session() as other:
        session.prefill(PROMPT)
        with pytest.raises(InputError, match="another artifact"):
            other.restore(session.save())


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("room", range(4, 14))
def test_to_the_last_position(model, room, speculate):
    with model.session(max_context=room) as session, pytest.raises(ContextFullError) as caught:
        session.generate(PROMPT, 100, speculate=speculate, drafts=model.num_drafts)
    assert caught.value.tokens == plain(model, room - len(PROMPT) + 1)


def test_stopping_anywhere_leaves_the_session_exact(model):
    expected = plain(model, 60)
    for count in range(1, 30):
        seen: list[int] = []
        with model.session() as session:
            stop = lambda t, seen=seen, count=count: seen.append(t) or len(seen) < count  # noqa: E731
            session.generate(PROMPT, 60, on_token=stop, drafts=model.num_drafts)
            assert seen == expected[:count] and session.length == len(PROMPT) + count - 1
            assert seen + session.generate(seen[-1:], 60 - count).tokens == expected


@pytest.fixture(scope="module")
def small_vocabulary(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return fake.artifact(folder / "a.pangu", fake.library(folder / "lib.so", vocab=8), 60)


@pytest.mark.parametrize("sampling", [Sampling(0.4), Sampling(0.7, top_k=4), Sampling(1.5, top_p=0.7), Sampling(1.0, 6, 0.9)])
def test_sampling_keeps_the_trunks_distribution(small_vocabulary, sampling):
    """Chi-square of the third and fourth token against draws without drafts (both from the same exact process)."""
    counts = np.zeros((2, 64))
    with Model(small_vocabulary, threads=1) as model, model.session() as session:
        for speculate in (0, 1):
            for seed in range(10000):
                session.reset()
                drawn = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed + 10**6 * speculate)
                tokens = session.generate([*PROMPT, 4, 5], 5, sampling=drawn, speculate=bool(speculate)).tokens
                counts[speculate, tokens[2] * 8 + tokens[3]] += 1
        assert faults(model) == 0
    total = counts.sum(0)
    used = total >= 16
    statistic = (((counts[0] - counts[1]) ** 2)[used] / total[used]).sum()  # two samples of equal size
    freedom = used.sum() - 1
    assert statistic < freedom + 4.5 * np.sqrt(2 * freedom), (statistic, freedom)


def test_run_program_counts_its_arrays(model):
    a, out = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    for name, dims, inputs in (("sum", [5], [a]), ("sum", [], [a, a]), ("none", [5], [a, a])):
        with pytest.raises(InputError):
            model.run_program(name, dims, inputs, [out])
    model.run_program("sum", [5], [a, 2 * a], [out])
    assert (out == 3 * a).all()


def test_sessions_close_with_their_model(built, tmp_path):
    model = Model(fake.artifact(tmp_path / "a.pangu", built, 50))
    session = model.session()
    model.close()
    with pytest.raises(InputError, match="closed"):
        session.decode(1)


def test_built_again_in_the_same_place(tmp_path):
    """The dynamic loader knows libraries by their path, and would hand out the old one."""
    seen = []
    for salt in (1, 2, 1):
        shutil.rmtree(tmp_path / "a.pangu", ignore_errors=True)
        path = fake.artifact(tmp_path / "a.pangu", fake.library(tmp_path / f"{salt}.so", salt=salt), 50)
        with Model(path) as model:
            seen.append(plain(model, 30))
    assert seen[0] == seen[2] != seen[1]


def test_two_different_artifacts_at_once(built, tmp_path):
    first = Model(fake.artifact(tmp_path / "a.pangu", built, 50))
    second = Model(fake.artifact(tmp_path / "b.pangu", fake.library(tmp_path / "b.so", salt=9, heads=2, vocab=16), 50))
    with first, second:
        one, two = plain(first, 50), plain(second, 50)
        assert one != two and max(two) < 16 <= max(one)
        assert plain(first, 50) == one and (first.num_drafts, second.num_drafts) == (3, 2)


def test_numbers_gone_bad_are_an_error(tmp_path):
    library = fake.library(tmp_path / "lib.so", nan=1)
    with Model(fake.artifact(tmp_path / "a.pangu", library, 50)) as model, model.session() as session:
        for temperature in (0.0, 1.0):
            session.reset()
            with pytest.raises(PanguRuntimeError, match="not finite") as caught:
                session.generate(PROMPT, 5, sampling=Sampling(temperature))
            assert caught.value.exit_status == 1


def test_extra_checks_of_the_artifact(built, tmp_path):
    path = fake.artifact(tmp_path / "a.pangu", built, 50)
    sums = path / "SHA256SUMS"
    for text in ("", "nonsense\n", sums.read_text().replace("weights", "../weig")):
        sums.write_text(text)
        with pytest.raises(ArtifactError) as caught:
            Model(path)
        assert "\n" not in str(caught.value) and caught.value.exit_status == 2


def test_library_of_another_version(built, tmp_path):
    path = fake.artifact(tmp_path / "a.pangu", built, 50)
    library = path / "lib/libpangu_model.so"
    library.write_bytes(library.read_bytes().replace(b"pangu_session_truncate\0", b"pangu_session_forgotten"[:22] + b"\0"))
    fake.seal(path)
    with pytest.raises(ArtifactError, match="lacks pangu_session_truncate"):
        Model(path)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Callable[[str, str], Path]:
    """The C driver with the core and the model in one program, built once for each compiler and sanitizer."""

    @functools.cache
    def build(compiler: str, sanitizer: str) -> Path:
        folder = tmp_path_factory.mktemp("sanitized")
        flags = ["-DFAKE_SPECULATE=1", "-Wall", "-Wextra", "-Werror", "-g1", "-O1", "-pthread", f"-fsanitize={sanitizer}",
                 "-fno-sanitize-recover=all", "-I", str(fake.RUNTIME / "include"), "-I", str(fake.RUNTIME / "core")]  # fmt: skip
        driver, unit, binary = folder / "driver.o", folder / "unit.cpp", folder / "driver"
        c_compiler = {"g++": "gcc", "clang++": "clang"}[compiler]
        command = [c_compiler, "-std=c99", "-pedantic", *flags, "-c", str(fake.HERE / "driver.c"), "-o", str(driver)]
        subprocess.run(command, check=True)
        unit.write_text("".join(f'#include "{source}"\n' for source in fake.sources()))
        subprocess.run([compiler, "-std=c++17", *flags, str(unit), str(driver), "-o", str(binary)], check=True)
        return binary

    return build


@pytest.mark.parametrize(("compiler", "sanitizer"), [(c, "address,undefined") for c in COMPILERS] + [("g++", "thread")])
def test_c_driver_under_sanitizers(tmp_path, built, sanitized, compiler, sanitizer):
    """The header's usage and more, as C99; the core and the model inside the same program."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    path = fake.artifact(tmp_path / "a.pangu", built, 70)
    done = subprocess.run([str(sanitized(compiler, sanitizer)), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("has", "chosen"), [(0, 0), (0b111, 1), (0b110, 2), (0b100, 3), (0b101, 1)])
def test_the_best_instruction_set_that_the_processor_has(has, chosen, tmp_path_factory):
    """Each level of this model has a context of its own: `chosen` less than the least level's (0)."""
    folder = tmp_path_factory.mktemp("levels")
    contexts = []
    for name, macros in (("plain", {}), ("leveled", {"levels": has})):
        path = fake.artifact(folder / f"{name}.pangu", fake.library(folder / f"{name}.so", **macros), 50)
        with Model(path, threads=1) as model, model.session() as session:
            contexts.append(model.max_context)
            assert len(session.generate(PROMPT, 20).tokens) == 20
    assert contexts[0] - contexts[1] == chosen
