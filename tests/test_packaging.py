"""Every source and data file of the package is named in pyproject.toml, so that a plain install has what a checkout has."""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("compiler", "passes", "codegen", "runtime", "models")
NOT_INSTALLED = ("models/openpangu-2.0-tiny",)


def test_every_file_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    dirs = settings["package-dir"]
    packages: dict[Path, str] = {}
    for name in settings["packages"]:
        base = max((b for b in dirs if name == b or name.startswith(f"{b}.")), key=len)
        packages[ROOT / dirs[base] / name.removeprefix(base).replace(".", "/").lstrip("/")] = name
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            skipped = path.is_dir() or "__pycache__" in path.parts or relative.startswith(NOT_INSTALLED)
            if skipped:
                continue
            owner = next(parent for parent in path.parents if parent in packages)
            if path.suffix == ".py":
                assert path.parent == owner, f"{relative}: its folder is not among packages in pyproject.toml"
                continue
            patterns = settings["package-data"].get(packages[owner], [])
            inside = path.relative_to(owner).as_posix()
            matched = any(fnmatch.fnmatch(inside, p) and inside.count("/") == p.count("/") for p in patterns)
            assert matched, f"{relative}: not in package-data of {packages[owner]}"
