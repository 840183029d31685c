"""What the page and the text show of an NPU: the records `ascend` and `torch_npu` of a summary, as the templates want them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .units import human_bytes, human_seconds, human_tokens, three_digits

Summary = Mapping[str, Any]
CORES = {"aiv": "vector cores", "aic": "cube cores", "mix": "both, in turn", "vendor": "vendor operator"}


def device_view(s: Summary, layers_text: Callable[[list[str]], str]) -> dict[str, Any]:
    """Names of the templates: `device` is "ascend", "torch_npu" or None. layers_text: how a list of layers reads."""
    device = next((name for name in ("ascend", "torch_npu") if name in s), None)
    ascend = s["ascend"] if device == "ascend" and "unavailable" not in s["ascend"] else None
    view: dict[str, Any] = {
        "device": device, "launches": None, "steps": [], "layer_launches": [], "most_launches": 1, "cores": CORES,
        "device_assumptions": [],
    }  # fmt: skip
    if ascend is None:
        return view
    launches, known = ascend["launches"], set(s["time"]["chip"]["derivation"])
    titles = {g["function"]: layers_text(g["layers"]) for g in s["graphs"]}
    by_layer = [{**r, "title": titles[r["function"]]} for r in launches["by_function"] if r["function"] in titles]
    most = max((r["kernels"] + r["vendor_operators"] for r in launches["by_operator"]), default=1)
    return view | {
        "launches": launches, "steps": ascend["steps"], "layer_launches": by_layer, "most_launches": max(1, most),
        "device_assumptions": [line for line in ascend["assumptions"] if line not in known],
    }


def device_text(s: Summary) -> list[str]:
    """Lines for a terminal; none where the summary is of a CPU."""
    return [*_ascend_text(s["ascend"])] if "ascend" in s else _torch_npu_text(s["torch_npu"]) if "torch_npu" in s else []


def _ascend_text(a: Mapping[str, Any]) -> list[str]:
    if "unavailable" in a:
        return [f"on {a['target']}: no host program: {a['unavailable']}"]
    launches, moved = a["launches"], a["bytes_per_token"]
    lines = [
        f"on {a['target']} (estimated, not measured; what ran so far is simulated)",
        f"  launches         {launches['step']} a decode step, {launches['per_layer']:g} a layer: {launches['kernels']} of our"
        f" kernels, {launches['vendor_operators']} vendor operators",
        f"  most launches    {_named(launches['by_kernel'][:8], 'name', 'launches')}",
        f"  bytes            {human_bytes(moved['moved'])} of at least {human_bytes(moved['minimum'])}: ratio {moved['ratio']:.4f}",
        f"  {'context':>9}{'batch':>7}{'cards':>7}{'step':>11}{'tokens/s a card':>17}{'with MTP':>11}",
    ]
    for r in a["steps"]:
        drafted = r.get("tokens_per_second_per_card_with_mtp")
        lines.append(
            f"  {human_tokens(r['context']):>9}{r['batch']:>7}{r['cards']:>7}{human_seconds(r['seconds']):>11}"
            f"{three_digits(r['tokens_per_second_per_card']):>17}{three_digits(drafted) if drafted else '':>11}"
        )
    return lines


def _torch_npu_text(t: Mapping[str, Any]) -> list[str]:
    plain: dict[str, list[str]] = {}
    for r in t["fused"]:
        for c in (c for c in r["steps"] if not c["vendor"]):
            plain.setdefault(c["reason"], []).append(f"{r['op']} {c['step']}")
    return [
        f"on {t['chip']}, activations in {t['dtype']} (counted from the source; what ran so far is simulated)",
        f"  vendor calls     {t['vendor_calls']} a decode step: {_named(t['vendor_operators'], 'name', 'calls')}",
        *(f"  plain torch      {', '.join(steps)}: {reason}" for reason, steps in plain.items()),
    ]


def _named(rows: Sequence[Mapping[str, Any]], name: str, count: str) -> str:
    return ", ".join(f"{r[count]} {r[name]}" for r in rows)
