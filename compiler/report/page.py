"""The report as one HTML page: no network, no time stamps, the same bytes for the same summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from .charts import acceptance_chart, arena_chart, cache_chart, roofline_chart
from .counts import CATEGORIES
from .device import device_view
from .drawing import layered
from .text import ranges
from .units import human_bytes, human_count, human_rate, human_seconds, human_tokens, three_digits

Summary = Mapping[str, Any]
ATTENTION = {"dsa": "sparse (DSA)", "swa": "sliding window (SWA)", "dense": "dense causal"}
FFN = {"moe": "mixture of experts", "dense": "dense FFN"}
KIND_LABELS = {
    "embedding": "embedding", "attention": "attention", "indexer": "DSA indexer", "experts_routed": "routed experts",
    "experts_shared": "shared experts", "router": "router", "dense_ffn": "dense FFN", "mhc": "mHC", "norms": "norms",
    "mtp": "MTP heads", "head": "output head", "other": "other",
}  # fmt: skip
CATEGORY_LABELS = {
    "fused": "made by passes", "matrix": "matrix products", "selection": "softmax, top-k, reductions",
    "pointwise": "pointwise", "movement": "views and moves", "constant": "constants, calls",
}  # fmt: skip


def render_report(summary: Summary) -> str:
    """The page of a summary (`model_summary`, with or without the head that `inspect` adds)."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        bytes=human_bytes, count=human_count, rate=human_rate, seconds=human_seconds, tokens=human_tokens, digits=three_digits,
        colour=colour,
    )  # fmt: skip
    return environment.get_template("report.html.jinja").render(**_view(summary))


def colour(op: str) -> str:
    """CSS class of an operator's family."""
    if op in ("dsa_attention", "index_prologue"):
        return "k-dsa"
    if op == "swa_attention":
        return "k-swa"
    if op == "dense_attention":
        return "k-dense"
    if op in ("mla_prologue", "attention_output", "rotary_table"):
        return "k-mla"
    if op.startswith("moe_"):
        return "k-moe"
    if op == "dense_ffn":
        return "k-ffn"
    return "k-mhc" if op.startswith("mhc_") else "k-other"


def _view(s: Summary) -> dict[str, Any]:
    largest = max((op["bytes"] for op in s["operators"]), default=1)
    return {
        "s": s, "d": s["decode"], "t": s["time"], "chip": s["time"]["chip"], "title": _title(s), "stack": _stack(s),
        "attention": ATTENTION, "ffn": FFN, "kinds": KIND_LABELS, "categories": CATEGORIES,
        "category_labels": CATEGORY_LABELS,
        "largest": largest, "roof": roofline_chart(s), "cache": cache_chart(s), "accept": acceptance_chart(s),
        "functions": [_function(s, g) for g in s["graphs"]], "passes": _passes(s), "reach": _reach(s), "arenas": _arenas(s),
        "heaviest": max((k["bytes"] for k in s["weights_by_kind"]), default=1), **device_view(s, _layers_text),
    }  # fmt: skip


def _title(s: Summary) -> str:
    c = s["config"]
    heads = sum("mtp_head" in layer for layer in s["layers"])
    mtp = f" + {heads} MTP" if heads else ""
    return f"openPangu-2.0, {c['num_hidden_layers']}{mtp} layers, {human_count(s['parameters']['total'])} parameters"


def _stack(s: Summary) -> dict[str, Any]:
    """Base layers and MTP layers apart, and how many there are of each kind."""
    base = [layer for layer in s["layers"] if "mtp_head" not in layer]
    mtp = [layer for layer in s["layers"] if "mtp_head" in layer]
    attention = {kind: sum(layer["attention"] == kind for layer in s["layers"]) for kind in ATTENTION}
    ffn = {kind: sum(layer["ffn"] == kind for layer in s["layers"]) for kind in FFN}
    windows = sorted({layer["window"] for layer in s["layers"] if "window" in layer})
    return {"base": base, "mtp": mtp, "attention": attention, "ffn": ffn, "windows": windows,
            "normed": sum(layer["block_post_norm"] for layer in base)}  # fmt: skip


def _layers_text(layers: list[str]) -> str:
    base = [int(x) for x in layers if x.isdigit()]
    mtp = [int(x.partition(".")[2]) for x in layers if x.startswith("mtp.")]
    parts = [f"layer{'s' if len(base) > 1 else ''} {ranges(base)}"] if base else []
    parts += [f"MTP head{'s' if len(mtp) > 1 else ''} {ranges(mtp)}"] if mtp else []
    return ", ".join(parts) or ", ".join(layers)


def _function(s: Summary, graph: Mapping[str, Any]) -> dict[str, Any]:
    """A layer function with its drawing and its history; `kind` says what its layers are."""
    own = [layer for layer in s["layers"] if layer.get("function") == graph["function"]]
    kind = f"{ATTENTION[own[0]['attention']]} attention, {FFN[own[0]['ffn']]}" if own else graph["function"]
    if own and own[0]["block_post_norm"]:
        kind += ", block norm"
    history = graph["history"]
    return {
        **graph, "title": _layers_text(graph["layers"]), "kind": kind,
        "drawing": layered(graph["nodes"]) if "nodes" in graph else None,
        "most": max((stage["nodes"] for stage in history), default=1), "stages": _changed(history),
    }  # fmt: skip


def _changed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages that changed the function, and the first."""
    return [stage for i, stage in enumerate(history) if i == 0 or stage["kinds"] != history[i - 1]["kinds"]]


def _passes(s: Summary) -> list[dict[str, Any]]:
    most = max((p["nodes_before"] for p in s["passes"]), default=1)
    shares = {"share_before": "nodes_before", "share_after": "nodes_after"}
    return [{**p, **{name: 100 * p[key] / most for name, key in shares.items()}} for p in s["passes"]]


def _reach(s: Summary) -> list[dict[str, Any]]:
    """Probability that draft j is used, by depth."""
    rates, at, rows = s["time"].get("speculation", {}).get("acceptance", []), 1.0, []
    for depth, rate in enumerate(rates, 1):
        at *= rate
        rows.append({"depth": depth, "rate": rate, "reached": at})
    return rows


def short_name(name: str) -> str:
    """A function's name without what passes put behind it (layer_3_then_mhc_pre)."""
    return name.partition("_then_")[0]


def _arenas(s: Summary) -> list[dict[str, Any]]:
    """The frames of programs and layer functions; equal ones (drafts that differ in their weights alone) are drawn once."""
    if s["arena"] is None:
        return []
    frames = s["arena"]["frames"]
    layers = {g["function"]: _layers_text(g["layers"]) for g in s["graphs"]}
    titles = {name: layers.get(name, name.replace("_", " ")) for name in frames}
    first = [name for name in frames if name == "program step"] + [name for name in layers if name in frames]
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys([*first, *frames]):
        same = next((f for f in found if f["frame"] == frames[name]), None)
        if same is not None:
            same["title"] += f", {titles[name]}"
        else:
            found.append({"title": titles[name], "frame": frames[name]})
    return [{"title": f["title"], "bytes": f["frame"]["bytes"], "chart": arena_chart(f["frame"], short_name)} for f in found]
