"""The CPU target: C++17 specialised to the model's shapes, float32, no third-party dependency."""

from .emit import generate

__all__ = ["generate"]
