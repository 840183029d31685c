"""The cache of compiled files: the same bytes with it and without, other entries for other inputs, no failure because of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pangu_compile.driver import toolchain
from pangu_compile.driver.artifact import ArtifactWriter
from pangu_compile.driver.emit import INCLUDES, RUNTIME_UNIT, copy_runtime, runtime_names
from pangu_compile.driver.objects import object_key
from pangu_compile.driver.toolchain import build_library, find_compiler

SOURCE = '#include "value.h"\nextern "C" __attribute__((visibility("default"))) int value() { return VALUE; }\n'


@pytest.fixture
def objects(own_cache: Path) -> Path:
    return own_cache / "objects"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources that a compiler was started for."""
    started: list[str] = []
    run = toolchain._run_all

    def watch(commands: list[list[str]], *args: object) -> None:
        started.extend(c[c.index("-c") + 1] for c in commands if "-c" in c)
        run(commands, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(toolchain, "_run_all", watch)
    return started


@pytest.fixture
def library(tmp_path: Path) -> Callable[..., bytes]:
    def build(name: str, value: int = 1, flags: tuple[str, ...] = ("-O1",)) -> bytes:
        """Bytes of a library of two files, the first of them kept, in a folder of that name."""
        root = tmp_path / name / "src"
        (tmp_path / name / "scratch").mkdir(parents=True)
        root.mkdir()
        (root / "kept.cpp").write_text(SOURCE)
        (root / "value.h").write_text(f"#define VALUE {value}\n")
        (root / "own.cpp").write_text("int own() { return 2; }\n")
        out, steps = tmp_path / name / "lib.so", []
        build_library(find_compiler(), ["-fPIC", *flags], root, ["kept.cpp", "own.cpp"], ["."], out, tmp_path / name / "scratch",
                      advance=steps.append, kept={"kept.cpp": ["value.h"]})  # fmt: skip
        assert steps == [1, 1, 1]
        return out.read_bytes()

    return build


def test_the_second_build_compiles_its_own_files_alone(objects, compiled, library):
    first, second = library("one"), library("two")
    assert compiled == ["kept.cpp", "own.cpp", "own.cpp"] and first == second
    assert len(list(objects.iterdir())) == 1


def test_everything_that_decides_the_bytes_is_in_the_name(objects, compiled, library):
    texts = {library("one"), library("two", value=2), library("three", flags=("-O0",))}
    assert compiled.count("kept.cpp") == len(texts) == len(list(objects.iterdir())) == 3


def test_a_damaged_entry_is_compiled_again(objects, compiled, library):
    first = library("one")
    (entry,) = objects.iterdir()
    for number, damage in enumerate((b"", entry.read_bytes()[:-1], entry.read_bytes()[:-1] + b"\1", b"x" * 50)):
        whole = entry.read_bytes()
        entry.write_bytes(damage)
        assert library(f"again {number}") == first and entry.read_bytes() == whole
    assert compiled.count("kept.cpp") == 5


@pytest.mark.parametrize("cache", ["/dev/null", "/proc/nowhere"])
def test_no_cache_is_no_failure(cache, monkeypatch, compiled, library):
    monkeypatch.setenv("PANGU_CACHE", cache)
    assert library("one") == library("two") and compiled.count("kept.cpp") == 2


def test_a_compiler_that_does_not_say_what_it_is_is_not_cached(tmp_path):
    (tmp_path / "a.cpp").write_text("")
    assert object_key(("false",), (), tmp_path, ["a.cpp"]) is None
    assert object_key(("/no/such/compiler",), (), tmp_path, ["a.cpp"]) is None
    assert object_key(find_compiler().command, (), tmp_path, ["missing.cpp"]) is None


def test_the_runtime_reads_only_the_files_in_its_name(tmp_path):
    with ArtifactWriter(tmp_path / "x.pangu") as writer:
        names = copy_runtime(writer)
        src = writer.root / "src"
        (src / RUNTIME_UNIT).write_text("".join(f'#include "{n}"\n' for n in names if n.endswith(".cpp")))
        command = [*find_compiler().command, "-std=c++17", "-MM", *(f"-I{folder}" for folder in INCLUDES), RUNTIME_UNIT]
        text = subprocess.run(command, cwd=src, capture_output=True, text=True, check=True).stdout
        read = {(src / word).resolve() for word in text.replace("\\\n", " ").split()[1:]} - {(src / RUNTIME_UNIT).resolve()}
        assert len(read) > 10 and read <= {(src / name).resolve() for name in runtime_names()}
