"""Options and the C++ toolchain."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

import pytest

from pangu_compile.driver.options import BuildOptions, make_options
from pangu_compile.driver.toolchain import build_library, compile_flags, cpu_features, find_compiler, required_features
from pangu_compile.errors import CompileError, UserError

EXPORT = 'extern "C" __attribute__((visibility("default"))) '
SOURCE = EXPORT + "const char *where() { return __FILE__; }\n"


def test_options_are_checked() -> None:
    for options, message in (
        ({"target": "gpu"}, "is not one of cpu"), ({"target": "ascend910b", "weights": "f32"}, "not available for ascend910b"),
        ({"target": "ascend910b", "weights": "w8a16", "activations": "bf16"}, "needs activations float32"),
        ({"weights": "int3"}, "is not one of f32"), ({"arch": "z80"}, "is not one of native"),
        ({"max_context": 0}, "max-context must be"), ({"max_context": True}, "max-context must be"),
        ({"max_chunk": -1}, "max-chunk must be"), ({"ranks": 2}, "one rank only"),
        ({"colour": 1}, "unknown build option"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            make_options(**options)


def test_int8_on_ascend_says_how_activations_are_rounded() -> None:
    formats = {("int8", "float32"): "w8a24", ("w8a16", "float32"): "w8a16", ("w8a8", "float32"): "w8a8", ("int8", "bf16"): "w8a8"}
    for (weights, activations), stored in formats.items():
        assert make_options(target="ascend910b", weights=weights, activations=activations).stored_weights == stored
    assert make_options(weights="int8").stored_weights == "int8"


def test_context_default_and_limit() -> None:
    assert BuildOptions().context(524288) == 4096
    assert BuildOptions().context(1024) == 1024
    assert BuildOptions(max_context=512).context(1024) == 512
    with pytest.raises(UserError, match="exceeds"):
        BuildOptions(max_context=2048).context(1024)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no C\\+\\+ compiler found: install"):
        find_compiler()
    with pytest.raises(UserError, match="CXX='nonsense'"):
        find_compiler("nonsense")
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(UserError, match="no working C\\+\\+ compiler"):
        find_compiler(str(fake))


def test_compiler_comes_from_cxx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env g++")
    assert make_options().compiler == "env g++"
    assert find_compiler("env g++").command == ("env", "g++")
    monkeypatch.setenv("CXX", " ")
    assert make_options().compiler is None


def test_a_foreign_arch_is_refused() -> None:
    tools = find_compiler()
    other = "aarch64" if tools.machine == "x86_64" else "x86-64-v3"
    with pytest.raises(UserError, match=f"arch {other}"):
        compile_flags(tools, BuildOptions(arch=other))


def test_native_features_are_those_of_this_machine() -> None:
    tools = find_compiler()
    needed = required_features(tools, compile_flags(tools, BuildOptions()))
    present = cpu_features()
    assert present is None or set(needed) <= present


def library(root: Path, text: str) -> Path:
    source = root / "src"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a.cpp").write_text(text)
    (source / "b.cpp").write_text('extern "C" int helper() { return 7; }\n')
    tools = find_compiler()
    scratch = root / "scratch"
    scratch.mkdir()
    flags = compile_flags(tools, BuildOptions())
    build_library(tools, flags, source, ["sub/a.cpp", "b.cpp"], ["."], root / "lib.so", scratch)
    return root / "lib.so"


def test_library_is_reproducible_and_holds_no_path(tmp_path: Path) -> None:
    one, two = library(tmp_path / "one", SOURCE), library(tmp_path / "a" / "longer" / "place", SOURCE)
    assert one.read_bytes() == two.read_bytes()
    assert str(tmp_path).encode() not in one.read_bytes()
    where = ctypes.CDLL(str(one)).where
    where.restype = ctypes.c_char_p
    assert where() == b"sub/a.cpp"


def test_failing_compile_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        library(tmp_path / "broken", "int f( { return missing; }\n")
    assert "sub/a.cpp:1" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(CompileError, match="undefined reference"):
        library(tmp_path / "unlinked", "int nowhere(); int here() { return nowhere(); }\n")
    assert not os.path.exists(tmp_path / "unlinked" / "lib.so")
