"""The runtime on a real small model: sessions, limits, sampling, drafts, damage."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from pangu_compile.runtime import ArtifactError, ContextFullError, InputError, Model, Sampling

from . import fake

ROOT = Path(__file__).resolve().parents[2]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


@pytest.fixture(scope="module")
def model(artifact):
    with Model(artifact, threads=1) as opened:
        yield opened


def greedy(model: Model, speculate: bool = True, count: int = 40, **options) -> list[int]:
    with model.session(speculate=speculate) as session:
        return session.generate(PROMPT, max_new_tokens=count, speculate=speculate, drafts=model.num_drafts, **options).tokens


def test_information(model):
    assert (model.vocab_size, model.max_context, model.max_chunk, model.num_drafts) == (12, 64, 8, 3)


def test_generate_is_argmax_of_decode(model):
    with model.session() as session:
        logits = session.prefill(PROMPT)
        expected = []
        for _ in range(20):
            expected.append(int(logits.argmax()))
            logits = session.decode(expected[-1])
    assert greedy(model, True, 20) == greedy(model, False, 20) == expected


def test_threads_give_the_same_bits(artifact, model):
    with model.session() as session:
        expected = session.prefill(PROMPT, all_logits=True)
    for threads in (2, 5):
        with Model(artifact, threads=threads) as other, other.session() as session:
            assert (session.prefill(PROMPT, all_logits=True) == expected).all()


def test_sessions_on_several_threads_do_not_meet(model):
    expected = greedy(model)
    results: list[list[int]] = []
    workers = [threading.Thread(target=lambda: results.append(greedy(model))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [expected] * 4


def test_context_full_changes_nothing(model):
    with model.session(max_context=12) as session:
        session.prefill(PROMPT)
        with pytest.raises(ContextFullError, match="do not fit in 12"):
            session.prefill([1, 2, 3, 4])
        assert session.length == len(PROMPT)
        after = session.prefill([7, 7, 7])
        with pytest.raises(ContextFullError):
            session.decode(1)
    with model.session() as session:
        assert (session.prefill([*PROMPT, 7, 7, 7]) == after).all()


@pytest.mark.parametrize("speculate", [False, True])
def test_generation_to_the_end_of_the_context(model, speculate):
    with model.session(max_context=30) as session:
        with pytest.raises(ContextFullError) as caught:
            session.generate(PROMPT, max_new_tokens=100, speculate=speculate, drafts=model.num_drafts)
        # every position is used, and the last one's token is delivered too
        assert caught.value.tokens == greedy(model, False, 30 - len(PROMPT) + 1)
    with pytest.raises(ContextFullError), model.session(max_context=8) as session:
        session.generate(PROMPT)


@pytest.mark.parametrize("speculate", [False, True])
def test_stop_tokens_and_what_the_session_then_holds(model, speculate):
    tokens = greedy(model, False, 40)
    stop = tokens[17]
    end = tokens.index(stop)
    with model.session() as session:
        result = session.generate(PROMPT, max_new_tokens=40, stop_tokens=[stop], speculate=speculate, drafts=model.num_drafts)
        assert result.tokens == tokens[: end + 1]
        assert session.length == len(PROMPT) + end
        # the stop token is the next call's to append; then all goes on as if nothing had happened
        more = session.generate([stop], max_new_tokens=39 - end, speculate=speculate)
        assert result.tokens + more.tokens == tokens


def test_callback_streams_and_stops(model):
    seen: list[int] = []

    def receive(token: int) -> bool:
        seen.append(token)
        return len(seen) < 7

    assert greedy(model, True, 40, on_token=receive) == seen == greedy(model, False, 7)

    def fail(token: int) -> None:
        raise ValueError("from the callback")

    with pytest.raises(ValueError, match="from the callback"):
        greedy(model, True, 40, on_token=fail)


def test_save_restore_and_reset(model):
    with model.session() as session, model.session() as other:
        session.prefill(PROMPT)
        saved = session.save()
        expected = session.generate([2], max_new_tokens=20).tokens
        other.restore(saved)
        assert other.length == len(PROMPT) and other.generate([2], max_new_tokens=20).tokens == expected
        session.restore(saved)
        assert session.generate([2], max_new_tokens=20).tokens == expected
        for damaged in (saved[:-1], saved + b"x", b"nonsense" + saved[8:], b""):
            with pytest.raises(InputError):
                other.restore(damaged)
        session.reset()
        assert session.length == 0 and session.generate(PROMPT, max_new_tokens=40).tokens == greedy(model)
    with model.session(max_context=8) as small, pytest.raises(ContextFullError):
        small.restore(saved)


@pytest.mark.parametrize("bad", [[], [1, 12], [-1], [1.5], [[1, 2]], ["a"]])
def test_bad_tokens_are_refused(model, bad):
    with model.session() as session:
        with pytest.raises(InputError):
            session.prefill(bad)
        assert session.length == 0


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}],
)
def test_bad_sampling_is_refused(model, options):
    with model.session() as session, pytest.raises(InputError):
        session.generate(PROMPT, sampling=Sampling(**{"temperature": 1.0, **options}))


def test_bad_sizes_are_refused(model, artifact):
    with pytest.raises(InputError, match="built for at most 64"):
        model.session(max_context=65)
    for threads in (0, -3):
        with pytest.raises(InputError):
            Model(artifact, threads=threads)


def test_same_seed_same_tokens(model):
    def sample(seed: int) -> list[int]:
        with model.session() as session:
            return session.generate(PROMPT, max_new_tokens=30, sampling=Sampling(1.0, seed=seed)).tokens

    assert sample(5) == sample(5)
    assert len({tuple(sample(seed)) for seed in range(5)}) == 5


def filtered(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """Temperature, then top-k, then top-p, written plainly."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / s.temperature)
    order = np.argsort(-p, kind="stable")
    kept = order[: s.top_k] if s.top_k else order
    if s.top_p < 1:
        mass = np.cumsum(p[kept])
        kept = kept[: int(np.searchsorted(mass, s.top_p * mass[-1])) + 1]
    out = np.zeros_like(p)
    out[kept] = p[kept]
    return out / out.sum()


def joint(model: Model, s: Sampling) -> dict[tuple[int, int, int], float]:
    """Exact distribution of the next three tokens under the trunk alone."""
    table: dict[tuple[int, int, int], float] = {}
    with model.session(speculate=False) as session:
        first = filtered(session.prefill(PROMPT), s)
        base = session.save()
        for a in np.flatnonzero(first):
            session.restore(base)
            second = filtered(session.decode(int(a)), s)
            after = session.save()
            for b in np.flatnonzero(second):
                session.restore(after)
                third = filtered(session.decode(int(b)), s)
                for c in np.flatnonzero(third):
                    table[(int(a), int(b), int(c))] = first[a] * second[b] * third[c]
    return table


@pytest.mark.parametrize("sampling", [Sampling(1.3), Sampling(1.0, top_k=5), Sampling(1.2, top_p=0.8), Sampling(2.0, 6, 0.9)])
def test_drafts_keep_the_distribution(model, sampling):
    """Pearson's chi-square over the joint distribution of three tokens; seeds are fixed, so this cannot flake."""
    expected, count = joint(model, sampling), 12000
    seen: dict[tuple[int, ...], int] = {}
    accepted = rejected = 0
    with model.session() as session:
        session.prefill(PROMPT[:-1])
        base = session.save()
        for seed in range(count):
            session.restore(base)
            drawn = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed)
            # Two drafts and a step draft by draft, or all three and one run of the program `speculate_sampled`.
            result = session.generate(PROMPT[-1:], max_new_tokens=4 + seed % 2, sampling=drawn)
            key = tuple(result.tokens[:3])
            seen[key] = seen.get(key, 0) + 1
            accepted += sum(result.stats.accepted)
            rejected += result.stats.drafted[0] - result.stats.accepted[0]
    assert set(seen) <= set(expected)
    assert accepted > count / 20 and rejected > count / 20  # both branches of the rule were taken
    frequent = [k for k, p in expected.items() if p * count >= 8]
    rest = 1 - sum(expected[k] for k in frequent)
    observed = [seen.get(k, 0) for k in frequent]
    cells = [(o, expected[k] * count) for o, k in zip(observed, frequent, strict=True)]
    if rest * count >= 8:
        cells.append((count - sum(observed), rest * count))
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    freedom = len(cells) - 1
    # beyond 4.5 standard deviations of the chi-square distribution: p below 1e-5
    assert statistic < freedom + 4.5 * np.sqrt(2 * freedom), (statistic, freedom)


def test_flipped_byte_in_every_file(artifact, tmp_path):
    names = sorted(p.relative_to(artifact) for p in artifact.rglob("*") if p.is_file())
    assert len(names) > 10
    for name in names:
        copy = tmp_path / "copy.pangu"
        shutil.copytree(artifact, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 0x10
        (copy / name).write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            Model(copy)
        assert str(caught.value).count("\n") == 0 and caught.value.exit_status == 2, name
        shutil.rmtree(copy)


def test_other_format_version_and_missing_files(artifact, tmp_path):
    copy = tmp_path / "copy.pangu"
    shutil.copytree(artifact, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(re.sub(r'"format_version": *1', '"format_version": 2', manifest.read_text()))
    with pytest.raises(ArtifactError, match="format version 2, this runtime reads 1"):
        Model(copy)
    shutil.copy(artifact / "manifest.json", manifest)
    (copy / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        Model(copy)
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ArtifactError):
            Model(wrong)


def test_works_where_torch_cannot_be_imported(artifact):
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'safetensors', 'tokenizers', 'sympy', 'click', 'rich', 'jinja2', 'networkx'):
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
from pangu_compile.runtime import Model
with Model({str(artifact)!r}) as m, m.session() as s:
    print(s.generate({PROMPT!r}, max_new_tokens=5).tokens)
ours = sorted(n for n in sys.modules if n.startswith('pangu_compile'))
assert all(n == 'pangu_compile' or n.startswith('pangu_compile.runtime') for n in ours), ours
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Model(artifact) as model:
        assert done.stdout.strip() == str(greedy(model, True, 5))


def test_two_artifacts_in_one_process(artifact, tmp_path, model):
    copy = tmp_path / "other.pangu"
    shutil.copytree(artifact, copy)
    with Model(copy) as other:
        assert greedy(other) == greedy(model)


def test_library_exports_only_the_interface(artifact):
    listed = subprocess.run(["nm", "-D", "--defined-only", str(artifact / "lib/libpangu_model.so")],
                            capture_output=True, text=True, check=True).stdout  # fmt: skip
    names = {line.split()[-1] for line in listed.splitlines() if " T " in line}
    header = (ROOT / "runtime/include/pangu_runtime.h").read_text()
    declared = set(re.findall(r"PANGU_API [^;]*?\b(pangu_\w+)\(", header))
    assert declared <= names
    assert {n for n in names if n.startswith("pangu_")} - declared == set()


C_PROGRAM = r"""
#include "pangu_runtime.h"
#include <stdio.h>
static int show(int64_t token, void *user) { printf("%lld ", (long long)token); (void)user; return 0; }
int main(int argc, char **argv) {
  const int64_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6, 5};
  pangu_model *model; pangu_session *session; pangu_generate_options options; pangu_generate_stats stats;
  if (argc < 2 || pangu_model_open(argv[1], NULL, &model) != PANGU_OK) { puts(pangu_last_error()); return 1; }
  if (pangu_session_open(model, NULL, &session) != PANGU_OK) return 1;
  pangu_generate_defaults(&options);
  options.max_new_tokens = 40;
  if (pangu_generate(session, prompt, 9, &options, show, NULL, &stats, NULL, NULL) != PANGU_OK) return 1;
  if (pangu_prefill(session, prompt, 9, 0, 0, NULL) != PANGU_OK) return 1;
  if (pangu_decode(session, 99, NULL) != PANGU_BAD_TOKEN || pangu_decode(NULL, 1, NULL) != PANGU_BAD_ARGUMENT) return 1;
  pangu_session_close(session);
  pangu_model_close(model);
  return stats.new_tokens == 40 ? 0 : 1;
}
"""


def test_c_program(artifact, tmp_path, model):
    (tmp_path / "main.c").write_text(C_PROGRAM)
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(artifact / "include"), "main.c", "-o", "main",
         "-L", str(artifact / "lib"), "-lpangu_model", f"-Wl,-rpath,{artifact / 'lib'}"], cwd=tmp_path, check=True,
    )  # fmt: skip
    done = subprocess.run([str(tmp_path / "main"), str(artifact)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and [int(t) for t in done.stdout.split()] == greedy(model)
    again = subprocess.run([str(tmp_path / "main"), str(tmp_path)], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "manifest.json" in again.stdout


SUMS_MAIN = r"""
#include "crc32.h"
#include "sha256.h"
#include <cstdio>
#include <cstdlib>
int main(int argc, char **argv) {
  for (int a = 1; a < argc; ++a) {
    const size_t n = static_cast<size_t>(std::atoi(argv[a]));
    std::string data(n, 0);
    for (size_t i = 0; i < n; ++i) data[i] = static_cast<char>(i * 131 + (i >> 8));
    const uint8_t *const bytes = reinterpret_cast<const uint8_t *>(data.data());
    std::printf("%s %08x\n", pangu_core::sha256_hex(bytes, n).c_str(), pangu_core::crc32(bytes, n));
  }
}
"""


@pytest.mark.parametrize("machine", ["x86", "portable", "aarch64"])  # as this processor does it, from tables, with CRC instructions
def test_checksums_are_the_standard_ones(tmp_path, machine):
    (tmp_path / "main.cpp").write_text(SUMS_MAIN)
    core, binary = ROOT / "runtime/core", tmp_path / "sums"
    compiler, flags, start = {
        "x86": ("g++", [], []), "portable": ("g++", ["-DPANGU_PORTABLE"], []),
        "aarch64": ("aarch64-linux-gnu-g++", ["-static"], ["qemu-aarch64"]),
    }[machine]  # fmt: skip
    if not all(shutil.which(tool) for tool in (compiler, *start)):
        pytest.skip(f"needs {compiler} and {start}")
    sources = [str(tmp_path / "main.cpp"), str(core / "sha256.cpp"), str(core / "crc32.cpp")]
    subprocess.run([compiler, "-std=c++17", "-O1", *flags, "-I", str(core), *sources, "-o", str(binary)], check=True)
    lengths = [0, 1, 15, 55, 56, 63, 64, 65, 79, 80, 119, 120, 127, 128, 129, 1000, 70001]
    done = subprocess.run([*start, str(binary), *map(str, lengths)], capture_output=True, text=True, check=True)
    for n, line in zip(lengths, done.stdout.splitlines(), strict=True):
        data = bytes((i * 131 + (i >> 8)) & 255 for i in range(n))
        assert line == f"{hashlib.sha256(data).hexdigest()} {zlib.crc32(data):08x}", n


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_weights_are_compared_piece_by_piece(artifact, tmp_path, threads):
    copy = tmp_path / "copy.pangu"
    shutil.copytree(artifact, copy)
    weights = copy / "weights.safetensors"
    data = weights.read_bytes()

    def sums(piece):
        pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
        return [f"{piece} {len(data)}", *(f"{zlib.crc32(p):08x}" for p in pieces)]

    def opens(lines, changed=data):
        (copy / "weights.crc32").write_text("\n".join(lines) + "\n")
        weights.write_bytes(data)
        fake.seal(copy)  # the weights' own line in SHA256SUMS is not what is compared
        weights.write_bytes(changed)
        Model(copy, threads=threads).close()

    for piece in (1000, len(data), 1 << 20):
        opens(sums(piece))
    lines = sums(1000)
    for at in (0, 999, 1000, len(data) - 1):
        with pytest.raises(ArtifactError, match=r"weights\.safetensors: does not match its checksum in weights\.crc32"):
            opens(lines, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for wrong in (lines[:-1], [*lines, "00000000"], [f"1000 {len(data) + 1}", *lines[1:]], ["0 0"], ["words"], []):
        with pytest.raises(ArtifactError, match=r"weights\.crc32"):
            opens(wrong)
    with pytest.raises(ArtifactError):
        opens(lines, data[:-1])


def test_closed_handles_are_refused(artifact):
    model = Model(artifact, threads=1)
    session = model.session()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.decode(1)
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.session()
