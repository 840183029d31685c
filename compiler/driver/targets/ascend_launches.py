"""What the host program of an Ascend artifact launches, counted from its plan (plan.json): our kernels and vendor operators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HOST_CALLS = ("upload_", "download_", "read_")
# Functions of host/src/pangu_aclnn.cpp by the vendor's operator that they call.
VENDOR = {
    "matmul": "aclnnMatmul", "batch_matmul": "aclnnBatchMatMul", "quant_matmul": "aclnnQuantMatmulV4",
    "dynamic_quant": "aclnnDynamicQuant", "copy": "aclnnInplaceCopy", "cast": "aclnnCast", "times": "aclnnMuls", "add": "aclnnAdd",
    "take_rows": "aclnnEmbedding", "init_routing": "aclnnMoeInitRoutingV2", "finalize_routing": "aclnnMoeFinalizeRoutingV2",
    "grouped_matmul": "aclnnGroupedMatmulV4", "grouped_sums": "aclnnGroupedMatmulV4",
    "quant_grouped_matmul": "aclnnGroupedMatmulV4",
}  # fmt: skip
Plan = Mapping[str, Any]


@dataclass
class Launches:
    """Launches of one run of a program.

    kernels: by kernel of ours; vendor: by function of pangu_aclnn.h; operators: applications of each operator of the graph;
    by_operator: (ours, vendor's) launches of all applications of an operator.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    vendor: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    by_operator: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.kernels.total() + self.vendor.total()

    def add(self, operator: str, call: str) -> None:
        """One more step that runs on the device."""
        ours = call.startswith("launch_")
        (self.kernels if ours else self.vendor)[call.removeprefix("launch_")] += 1
        own, vendor = self.by_operator.get(operator, (0, 0))
        self.by_operator[operator] = own + ours, vendor + (not ours)


def _steps(plan: Plan, function: str) -> Iterator[tuple[str, bool, str]]:
    """(operator of the graph, is it its first step, call) of everything that one run of a host function does, in order."""
    operator = ""
    for step in plan["functions"][function]["steps"]:
        call, comment = step["call"], step.get("operator", "")
        if comment:
            operator = comment.split()[0]
        if call in plan["functions"]:
            yield from _steps(plan, call)
        else:
            yield operator, bool(comment), call


def count_launches(plan: Plan, function: str) -> Launches:
    """Launches of one run of a host function ("program_NAME", or a layer's)."""
    found = Launches()
    for operator, first, call in _steps(plan, function):
        found.operators[operator] += first
        if not call.startswith(HOST_CALLS):
            found.add(operator, call)
    return found


def family(kernel: str) -> str:
    """A kernel's name without the number that tells its tiling from others' (product_7)."""
    return re.sub(r"_\d+$", "", kernel)


def launch_record(plan: Plan, layers: int, drafts: list[str]) -> dict[str, Any]:
    """The entry `launches` of `inspect --json`: of a decode step, by kernel, by operator of the graph, by layer function."""
    step = count_launches(plan, "program_step")
    functions = {name: count_launches(plan, name) for name in plan["functions"] if not name.startswith("program_")}
    return {
        "step": step.total, "kernels": step.kernels.total(), "vendor_operators": step.vendor.total(),
        "per_layer": round(step.total / layers, 2),
        "functions": {name: f.total for name, f in functions.items()},
        "drafts": {name: count_launches(plan, f"program_{name}").total for name in drafts},
        "by_function": [
            {"function": name, "kernels": f.kernels.total(), "vendor_operators": f.vendor.total()} for name, f in functions.items()
        ],
        "by_operator": [
            {"op": op, "count": step.operators[op], "kernels": own, "vendor_operators": vendor}
            for op, (own, vendor) in sorted(step.by_operator.items(), key=lambda item: (-sum(item[1]), item[0]))
        ],
        "by_kernel": _by_kernel(plan, step),
    }  # fmt: skip


def _by_kernel(plan: Plan, step: Launches) -> list[dict[str, Any]]:
    """Our kernels by family, then vendor operators, the most launches first."""
    families: dict[str, dict[str, Any]] = {}
    for name, count in step.kernels.items():
        core = plan["kernels"][name]["core"]
        row = families.setdefault(family(name), {"name": family(name), "core": core, "forms": 0, "launches": 0})
        row["forms"] += 1
        row["launches"] += count
    operators: Counter[str] = Counter()
    for name, count in step.vendor.items():
        operators[VENDOR[name]] += count
    theirs = [{"name": name, "core": "vendor", "forms": 1, "launches": count} for name, count in operators.items()]
    return [row for rows in (families.values(), theirs) for row in sorted(rows, key=lambda r: (-r["launches"], r["name"]))]
