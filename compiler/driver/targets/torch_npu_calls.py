"""What one decode step of a torch_npu program calls, counted from its plan (plan.json)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pangu_compile.report.counts import is_launched

Plan = Mapping[str, Any]
NOTE = (
    "Counted from the generated source, not measured; so far the program ran on CPU reference implementations only (simulated)."
    " What is plain torch, products among it (F.linear, torch.matmul), is dispatched by torch_npu to operators of its own choice."
)


def _entered(plan: Plan, function: str) -> Iterator[str]:
    """Functions, variants of fused operators and primitive operators that one run of a function reaches, itself included."""
    yield function
    for step in plan["functions"].get(function, ()):
        yield from _entered(plan, step)


def operators(plan: Plan, program: str) -> Counter[str]:
    """Operators of the graph that one run of a program applies."""
    variants = plan["operators"]
    names = (n for n in _entered(plan, program) if n not in plan["functions"])
    return Counter(variants[n]["operator"] if n in variants else n for n in names)


def call_record(plan: Plan) -> dict[str, Any]:
    """The record `torch_npu` of `inspect --json`: of one decode step, calls of vendor operators, and what stands in for others."""
    reached = Counter(_entered(plan, "step"))
    calls: Counter[str] = Counter()
    for name, count in reached.items():
        for operator, times in plan["calls"].get(name, {}).items():
            calls[operator] += times * count
    known = plan["vendor_operators"]
    vendor = [
        {"name": n, "calls": c, "in_source": known[n]["calls"], "source": known[n]["source"]}
        for n, c in sorted(calls.items(), key=lambda item: (-item[1], item[0]))
    ]
    primitives = {n: c for n, c in reached.items() if n not in plan["functions"] and n not in plan["operators"] and is_launched(n)}
    return {
        "chip": plan["chip"], "dtype": plan["dtype"], "vendor_operators": vendor, "vendor_calls": calls.total(),
        "fused": _fused(plan, reached),
        "plain": dict(sorted(primitives.items(), key=lambda item: (-item[1], item[0]))), "note": NOTE,
    }  # fmt: skip


def _fused(plan: Plan, reached: Mapping[str, int]) -> list[dict[str, Any]]:
    """Fused operators: how often, calls of vendor operators in them, and each step that has a choice."""
    rows: dict[str, dict[str, Any]] = {}
    for name, variant in plan["operators"].items():
        count = reached.get(name, 0)
        if not count:
            continue
        op = variant["operator"]
        row = rows.setdefault(op, {"op": op, "count": 0, "vendor_calls": 0, "steps": []})
        row["count"] += count
        row["vendor_calls"] += count * sum(plan["calls"].get(name, {}).values())
        for step, choice in variant["steps"].items():
            entry = {"step": step, "operators": choice["operators"], "vendor": choice["vendor"], "reason": choice.get("reason", "")}
            same = next((s for s in row["steps"] if {k: s[k] for k in entry} == entry), None)
            if same is None:
                row["steps"].append({**entry, "count": count})
            else:
                same["count"] += count
    return list(rows.values())
