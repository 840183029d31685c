"""ONNX: export of optimised modules, import of models made of the covered operators. `import onnx` is the PyPI package."""

from .export import DOMAIN, OPSET, export_onnx
from .importer import Imported, covered, import_onnx, load_onnx
from .weights import LARGE, Initializers, with_folded

__all__ = [
    "DOMAIN", "LARGE", "OPSET", "Imported", "Initializers", "covered", "export_onnx", "import_onnx", "load_onnx", "with_folded",
]  # fmt: skip
