"""Every fused operator's CPU kernel: right, and bit for bit the same on any thread count and in any company of tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pangu_compile.ir.opdef import all_opdefs

from .cases import FAMILIES, cases
from .checks import check_one_by_one, check_semantics, check_threads
from .library import PLAIN, RACES, ROOT, SANITIZED, Library

LIBRARIES: dict[str, Library] = {}
ALL = [pytest.param(family, i, id=f"{i}-{case}") for family in FAMILIES for i, case in enumerate(cases(family))]
# The runtime samples: these have no kernel here.
ELSEWHERE = {"sample_token", "mtp_verify_sampled"}


@pytest.fixture
def library(request, tmp_path_factory):
    family = request.getfixturevalue("family")
    if family not in LIBRARIES:
        built = Library(cases(family), tmp_path_factory.mktemp(family))
        assert built.compile(PLAIN) == ""
        built.load()
        LIBRARIES[family] = built
    return LIBRARIES[family]


@pytest.mark.parametrize(("family", "number"), ALL)
def test_kernel(library, family, number):
    check_semantics(library, number)
    check_threads(library, number)
    check_one_by_one(library, number)


def checked_under(sanitizer, family, flags, folder, *names):
    """The checks as a program of their own, which loads the sanitizer's runtime first."""
    Library(cases(family), folder).compile(flags)
    where = ["g++", f"-print-file-name=lib{sanitizer}.so"]
    runtime = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.codegen.kernels.checks", family, str(folder), *names]
    done = subprocess.run(command, cwd=Path(ROOT), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@pytest.mark.parametrize("family", FAMILIES)
def test_sanitized(family, tmp_path):
    checked_under("asan", family, SANITIZED, tmp_path)


@pytest.mark.parametrize("family", ["streams", "prologue", "attention", "ffn"])
def test_no_races(family, tmp_path):
    checked_under("tsan", family, RACES, tmp_path, "check_threads")


def test_every_fused_operator_has_cases():
    tested = {case.op for family in FAMILIES for case in cases(family)}
    assert {name for name, op in all_opdefs().items() if op.kind == "fused"} <= tested | ELSEWHERE
