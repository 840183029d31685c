"""Inspection reports: counts, costs, storage and time of a compiled model as plain data, and as one HTML page."""

from .page import render_report
from .recorder import Recorder
from .roofline import TARGETS, Chip, chip
from .speculation import parse_acceptance, rates_for
from .summary import Compiled, View, layer_table, model_summary

__all__ = [
    "TARGETS", "Chip", "Compiled", "Recorder", "View", "chip", "layer_table", "model_summary", "parse_acceptance", "rates_for",
    "render_report",
]  # fmt: skip
