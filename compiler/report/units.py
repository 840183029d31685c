"""Numbers with units, for people."""

from __future__ import annotations

_BYTES = ((1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_LARGE = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COUNT = ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"))


def three_digits(value: float) -> str:
    """At least three significant digits, no exponent."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def human_bytes(value: float) -> str:
    """1536 -> 1.50 KiB."""
    for size, unit in _BYTES:
        if abs(value) >= size:
            return f"{three_digits(value / size)} {unit}"
    return f"{value:,.0f} B"


def human_count(value: float) -> str:
    """92_300_000_000 -> 92.3 B (thousand million)."""
    for size, unit in _COUNT:
        if abs(value) >= size:
            return f"{three_digits(value / size)}{unit}"
    return three_digits(value)


def human_rate(value: float, unit: str) -> str:
    """1.4e12 with unit B/s -> 1.40 TB/s."""
    for size, prefix in _LARGE:
        if abs(value) >= size:
            return f"{three_digits(value / size)} {prefix}{unit}"
    return f"{three_digits(value)} {unit}"


def human_seconds(value: float) -> str:
    """0.0123 -> 12.3 ms."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{three_digits(value / size)} {unit}"
    return f"{three_digits(value * 1e9)} ns" if value >= 1e-9 else "under 1 ns"


def human_tokens(value: int) -> str:
    """Context lengths: 524288 -> 512K."""
    return f"{value >> 10}K" if value >= 1024 and value % 1024 == 0 else f"{value:,}"
