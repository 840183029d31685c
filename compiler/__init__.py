"""pangu-compile: an ahead-of-time compiler for the openPangu-2.0 family.

The public functions are loaded on first use, so that `import pangu_compile.runtime` needs numpy alone.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "build": ("pangu_compile.driver.build", "build"),
    "Artifact": ("pangu_compile.driver.artifact", "Artifact"),
    "compile_module": ("pangu_compile.driver.module", "compile_module"),
    "compile_onnx": ("pangu_compile.driver.onnx_io", "compile_onnx"),
}
__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'pangu_compile' has no attribute {name!r}")
