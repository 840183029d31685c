"""Geometry of the charts: data in, coordinates out; the templates only draw them. Sizes are in SVG user units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .roofline import MATRIX
from .units import human_bytes, human_rate, human_tokens

WIDTH, HEIGHT = 500, 300
LEFT, RIGHT = 76, 300  # of a plot with labels beside it
LABEL_H = 17
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    """A logarithmic axis from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        at = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return round(self.start + min(1.0, at) * (self.end - self.start), 1)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near `wanted` (ascending), at least `gap` apart, within [low, high] where they fit."""
    out: list[float] = []
    for value in wanted:
        out.append(max(value, out[-1] + gap) if out else max(value, low))
    limit = high
    for i in range(len(out) - 1, -1, -1):
        out[i] = min(out[i], limit)
        limit = out[i] - gap
    return [round(v, 1) for v in out]


def roofline_chart(summary: Summary, shown: int = 9) -> dict[str, Any]:
    """The roof, and operators on it: those of a decode step (labelled, the longest first) and of a prefill call."""
    chip = summary["time"]["chip"]
    peak, bandwidth = chip["matrix_flops_per_second"], chip["bytes_per_second"]
    x = Log(0.1, max(4096.0, 4 * chip["ridge"]), LEFT, RIGHT)
    y = Log(0.1 * bandwidth, 2 * peak, HEIGHT - 42, 14)

    def dot(op: Mapping[str, Any]) -> dict[str, Any]:
        roof = min(peak if op["op"] in MATRIX else chip["vector_flops_per_second"], op["intensity"] * bandwidth)
        return {"op": op["op"], "x": x(op["intensity"]), "y": y(roof), "intensity": op["intensity"], "rate": roof}

    decode = [dot(op) for op in sorted(summary["operators"], key=lambda o: -o["seconds"])[:shown] if op["flops"]]
    decode.sort(key=lambda d: (d["y"], -d["x"]))
    for d, at in zip(decode, spread([d["y"] for d in decode], LABEL_H, 24, HEIGHT - 60), strict=True):
        d["label_y"] = at
    prefill = [dot(op) for op in sorted(summary["prefill"]["operators"], key=lambda o: -o["seconds"])[:shown] if op["flops"]]
    ridge = chip["ridge"]
    powers = [10.0**n for n in range(0, 8) if x.low <= 10.0**n <= x.high]
    rates = [10.0**n for n in range(6, 18) if y.low <= 10.0**n <= y.high]
    return {
        "width": WIDTH, "height": HEIGHT, "right": RIGHT, "decode": decode, "prefill": prefill,
        "roof": f"M{x(x.low)} {y(x.low * bandwidth)}L{x(ridge)} {y(peak)}H{RIGHT}", "ridge": x(ridge),
        "peak_y": y(peak), "bottom": HEIGHT - 42, "left": LEFT,
        "x_ticks": [{"at": x(v), "label": f"{v:g}"} for v in powers],
        "y_ticks": [{"at": y(v), "label": human_rate(v, "")} for v in rates[:: max(1, len(rates) // 5)]],
    }  # fmt: skip


CACHE_LABELS = {
    "latent_dsa": "DSA latents", "latent_dense": "dense latents", "latent_swa": "SWA windows",
    "index_keys": "indexer keys", "convolutions": "convolutions", "mtp": "MTP caches",
}  # fmt: skip


def cache_chart(summary: Summary) -> dict[str, Any]:
    """Bytes of each kind of state against the context, both axes logarithmic."""
    caches = summary["caches"]
    points = caches["contexts"]
    series = [(kind, values) for kind, values in caches["kinds"].items() if max(values)]
    smallest = min((min(v) for _, v in series), default=1)
    bottom = HEIGHT - 42
    x = Log(points[0], points[-1] if points[-1] > points[0] else 2 * points[0], LEFT, RIGHT)
    y = Log(max(1.0, smallest / 2), 2 * max(caches["total"]), bottom, 14)
    lines = [
        {"kind": kind, "path": "M" + "L".join(f"{x(c)} {y(v)}" for c, v in zip(points, values, strict=True)),
         "end": y(values[-1]), "label": f"{CACHE_LABELS[kind]} {human_bytes(values[-1])}"}
        for kind, values in series
    ]  # fmt: skip
    lines.sort(key=lambda line: line["end"])
    for line, at in zip(lines, spread([line["end"] for line in lines], LABEL_H, 20, bottom), strict=True):
        line["label_y"] = at
    ticks = points[:: max(1, len(points) // 4)]
    low, high = math.ceil(math.log2(y.low)), math.floor(math.log2(y.high))
    grid = [1 << n for n in range(low, high + 1, max(1, (high - low) // 4))]
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": bottom, "lines": lines,
        "x_ticks": [{"at": x(c), "label": human_tokens(c)} for c in ticks],
        "y_ticks": [{"at": y(v), "label": human_bytes(v)} for v in grid],
    }  # fmt: skip


def acceptance_chart(summary: Summary) -> dict[str, Any] | None:
    """Expected tokens a step against one acceptance rate for all heads, with the model's own rates marked."""
    s = summary["time"].get("speculation")
    if s is None:
        return None
    left, right, top, bottom = 40, WIDTH - 28, 14, HEIGHT - 42
    most = s["heads"] + 1

    def x(rate: float) -> float:
        return round(left + rate * (right - left), 1)

    def y(tokens: float) -> float:
        return round(bottom - (tokens - 1) / (most - 1) * (bottom - top), 1)

    expected = s["expected_tokens_per_step"]
    same = next((i for i, (_, e) in enumerate(s["curve"]) if e >= expected - 1e-4), len(s["curve"]) - 1)
    (a0, e0), (a1, e1) = s["curve"][max(0, same - 1)], s["curve"][same]
    alike = a0 + (a1 - a0) * (expected - e0) / (e1 - e0) if e1 > e0 else a1  # one rate for all that gives as much
    return {
        "width": WIDTH, "height": HEIGHT, "left": left, "right": right, "bottom": bottom,
        "path": "M" + "L".join(f"{x(a)} {y(e)}" for a, e in s["curve"]),
        "x_ticks": [{"at": x(v / 4), "label": f"{v * 25} %"} for v in range(5)],
        "y_ticks": [{"at": y(v), "label": str(v)} for v in range(1, most + 1)],
        "mark": {"x": x(alike), "y": y(expected), "label": f"{expected:.2f} tokens a step"},
    }  # fmt: skip


ARENA_H, ARENA_LEFT = 260, 82


def arena_chart(frame: Mapping[str, Any], label: Callable[[str], str] = str) -> dict[str, Any]:
    """A frame over time: one column per kernel, bytes from the top down. label: what a kernel's name reads like."""
    kernels, total = frame["kernels"], max(1, frame["bytes"])
    column = (WIDTH - ARENA_LEFT - 8) / max(1, len(kernels))
    named = len(kernels) <= 16
    boxes = []
    for r in sorted(frame["rectangles"], key=lambda r: (r["first"], r["offset"])):
        w, h = (r["last"] - r["first"] + 1) * column, r["bytes"] / total * ARENA_H
        text = human_bytes(r["bytes"])
        boxes.append({
            **r, "x": round(ARENA_LEFT + r["first"] * column, 1), "y": round(8 + r["offset"] / total * ARENA_H, 2),
            "w": round(max(1.0, w - 1), 1), "h": round(max(0.6, h), 2), "text": text if w > 7.5 * len(text) and h > 16 else "",
        })  # fmt: skip
    ticks = [{"at": round(8 + k / 4 * ARENA_H, 1), "label": human_bytes(total * k / 4)} for k in range(5)]
    shown = list(enumerate(kernels)) if named else []
    labels = [{"at": round(ARENA_LEFT + (i + 0.5) * column, 1), "label": label(name)} for i, name in shown]
    return {
        "width": WIDTH, "height": ARENA_H + (104 if named else 38), "left": ARENA_LEFT, "bottom": 8 + ARENA_H, "boxes": boxes,
        "ticks": ticks, "labels": labels, "count": len(kernels),
    }  # fmt: skip
