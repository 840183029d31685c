"""Kept traces: the same module as a new trace, another entry for everything that decides one, no failure because of the cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import pangu_compile.models.programs as programs
import pangu_compile.trace as trace
from pangu_compile.driver import traces
from pangu_compile.driver.optimise import traced_model
from pangu_compile.driver.options import make_options
from pangu_compile.driver.progress import Silent
from pangu_compile.ir import Module
from pangu_compile.ir.text import print_module
from pangu_compile.models.config import OpenPanguConfig
from pangu_compile.models.random_checkpoint import SMALL, random_config
from pangu_compile.passes import run_passes


@pytest.fixture(scope="module")
def config() -> OpenPanguConfig:
    return random_config(3, SMALL)


@pytest.fixture
def entries(own_cache: Path) -> Path:
    return own_cache / "traces"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each trace."""
    calls: list[int] = []
    original = trace.trace_programs

    def counted(specs: list[programs.ProgramSpec]) -> Module:
        calls.append(len(specs))
        return original(specs)

    monkeypatch.setattr(trace, "trace_programs", counted)
    return calls


def again(config: OpenPanguConfig, **options: bool) -> Module:
    return traced_model(config, make_options(**options), Silent(), steps=())


def described(module: Module) -> tuple[object, ...]:
    roles = {name: (p.params, p.outputs, p.dims, p.limits) for name, p in module.programs.items()}
    locs = [n.loc for g in module.graphs() for n in g.nodes]
    rest = (module.weights, module.states, module.info, list(module.constants), list(module.functions))
    return print_module(module), roles, locs, *rest


def test_a_kept_trace_is_the_trace(config: OpenPanguConfig, entries: Path, traced: list[int]) -> None:
    first, second = again(config), again(config)
    assert len(traced) == 1 and len(list(entries.iterdir())) == 1
    assert described(first) == described(second)
    for graph in second.graphs():
        for node in graph.nodes:
            assert all(v.producer is node and node.outputs[v.index] is v for v in node.outputs)
    for module in (first, second):
        run_passes(module)
    assert described(first) == described(second) != described(again(config))  # passes leave the entry as it is
    assert len(traced) == 1


def test_everything_that_decides_a_trace_is_in_the_name(
    config: OpenPanguConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(config, rope_theta=config.rope_theta + 1)
    names = [traces.trace_key(c, mtp, steps) for c in (config, other) for mtp in (False, True) for steps in ((), ("speculate",))]
    (tmp_path / "changed_sources").mkdir()
    (tmp_path / "changed_sources" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(traces, "SOURCES", (*traces.SOURCES, "changed_sources"))
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "changed_sources" / "more.py").write_text(text)
        names.append(traces.trace_key(config, True, ()))
    monkeypatch.setattr(traces.importlib.metadata, "version", lambda name: "another")
    names.append(traces.trace_key(config, True, ()))
    assert None not in names and len(set(names)) == len(names)


def test_what_cannot_be_known_is_traced(
    config: OpenPanguConfig, entries: Path, monkeypatch: pytest.MonkeyPatch, traced: list[int]
) -> None:
    def missing(name: str) -> str:
        raise traces.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(traces.importlib.metadata, "version", missing)
    again(config, mtp=False)
    assert len(traced) == 1 and not entries.exists()


def test_damaged_entries_and_no_cache(
    config: OpenPanguConfig, entries: Path, monkeypatch: pytest.MonkeyPatch, traced: list[int]
) -> None:
    want = described(again(config, mtp=False))
    (entry,) = entries.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    assert described(again(config, mtp=False)) == want and len(traced) == 2
    monkeypatch.setenv("PANGU_CACHE", "/dev/null")
    assert described(again(config, mtp=False)) == want and len(traced) == 3


def test_an_edited_model_is_never_kept(config: OpenPanguConfig, entries: Path, traced: list[int]) -> None:
    from pangu_compile.models.reference import OpenPanguForCausalLM

    for _ in range(2):
        traced_model(config, make_options(mtp=False), Silent(), OpenPanguForCausalLM(config), steps=())
    assert len(traced) == 2 and not entries.exists()
