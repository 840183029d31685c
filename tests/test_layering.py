"""Who may import whom, read from the source with ast (so that nothing has to be imported)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pangu_compile"
FOLDERS = {"compiler": PACKAGE, **{name: f"{PACKAGE}.{name}" for name in ("passes", "codegen", "runtime", "models")}}

# Layer -> the layers of ours that it may import besides itself; None: everything.
ALLOWED: dict[str, set[str] | None] = {
    "errors": set(),
    "ir": set(),
    "plan": {"ir", "errors"},
    "passes": {"ir", "plan", "errors"},
    "codegen": {"ir", "plan", "errors"},
    "runtime": set(),
    "models": {"errors"},
    "trace": {"ir", "errors", "models"},
    "onnx": {"ir", "errors", "passes"},
    "report": {"ir", "plan", "models", "errors"},
    "driver": {"errors", "ir", "trace", "plan", "passes", "codegen", "runtime", "models", "onnx", "report", ""},
    "cli": None,
    "__main__": None,
    "": None,  # the package's own __init__
}
STANDARD = set(sys.stdlib_module_names)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every source file of the package."""
    for folder, base in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = list(path.relative_to(ROOT / folder).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            yield ".".join([base, *parts]), path


def imports(name: str, path: Path) -> Iterator[tuple[str, bool]]:
    """(absolute module, does it run when the file is imported)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in late
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base, id(node) not in late


def layer(module: str) -> str | None:
    if module != PACKAGE and not module.startswith(PACKAGE + "."):
        return None
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_layers(name: str, path: Path) -> None:
    own = layer(name)
    assert own is not None
    assert own in ALLOWED, f"{path}: a new layer {own!r}: say in ALLOWED what it may import"
    allowed = ALLOWED[own]
    for target, _ in imports(name, path):
        other = layer(target)
        if other is None or other == own or allowed is None:
            continue
        assert other in allowed, f"{path.relative_to(ROOT)} ({own}) must not import {target}"


def test_runtime_needs_numpy_alone() -> None:
    for name, path in modules():
        if layer(name) != "runtime":
            continue
        for target, at_import in imports(name, path):
            top = target.split(".")[0]
            ours = layer(target) == "runtime"
            assert ours or not at_import or top in STANDARD | {"numpy"}, f"{path}: imports {target}"


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, pangu_compile, pangu_compile.errors, pangu_compile.runtime;"
        "bad = {'torch', 'sympy', 'click', 'rich', 'safetensors', 'tokenizers'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_and_functions_stay_small() -> None:
    for _, path in modules():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 500, f"{path} has {text.count(chr(10))} lines"
