"""Trains the shipped checkpoint: `python -m pangu_compile.models.train` (needs torch; not used by the compiler)."""
