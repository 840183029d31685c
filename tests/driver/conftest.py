"""A stand-in runtime core, so that these tests need the compiler alone, and a cache that is empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from pangu_compile.driver import build as build_module
from pangu_compile.driver import emit as emit_module
from pangu_compile.driver import module as module_module

ABI = Path(__file__).resolve().parents[2] / "runtime" / "core" / "pangu_abi.h"
CORE = """#include "pangu_abi.h"
#include "pangu_runtime.h"
#define API extern "C" __attribute__((visibility("default")))
void pangu_parallel_for(pangu_pool *, int64_t n, int64_t, void (*body)(void *, int64_t, int64_t, int32_t), void *arg) {
  if (n > 0) body(arg, 0, n, 0);
}
int32_t pangu_pool_threads(const pangu_pool *) { return 1; }
API const pangu_generated_model_desc *model(void) { return &pangu_generated_model; }
"""


@pytest.fixture
def stub_core(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts get a core of one file that only gives access to the generated tables."""
    root = tmp_path_factory.mktemp("core")
    headers = [root / name for name in ("pangu_abi.h", "pangu_sampling.h")]
    for header in headers:
        header.write_text((ABI.parent / header.name).read_text())
    (root / "stub.cpp").write_text(CORE)
    (root / "pangu_runtime.h").write_text("// stand-in\n")
    files = [*headers, root / "stub.cpp"], [root / "pangu_runtime.h"]
    for module in (emit_module, build_module, module_module):
        monkeypatch.setattr(module, "runtime_files", lambda: files)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for this test, which nothing has been put into."""
    monkeypatch.setenv("PANGU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
