"""ONNX: export of optimised modules, import of models made of the covered operators. `import onnx` is the PyPI package."""

from .export import DOMAIN, OPSET, export_onnx
from .weights import LARGE, Initializers, with_folded

__all__ = ["DOMAIN", "LARGE", "OPSET", "Initializers", "export_onnx", "with_folded"]
