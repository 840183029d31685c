"""Targets that are not a compiled library: each writes its own kind of artifact."""
