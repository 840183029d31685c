"""Tracing: torch module -> torch.export -> IR."""

from .export import trace_module, trace_programs

__all__ = ["trace_module", "trace_programs"]
