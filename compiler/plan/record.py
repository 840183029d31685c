"""The plan as plain data: plan.json, and what reports read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pangu_compile.ir import Value

if TYPE_CHECKING:
    from .plan import FunctionPlan, Plan


def _place(plan: FunctionPlan, value: Value) -> str:
    kind, at = plan.places[value]
    return f"{kind}[{at}]"


def _function(plan: FunctionPlan) -> dict[str, Any]:
    kernels = []
    for k in plan.kernels:
        entry: dict[str, Any] = {"kind": k.kind, "op": k.root.op}
        if k.kind == "call":
            entry["function"] = k.root.attrs["function"]
        entry["reads"] = [f"%{v.name} {_place(plan, v)}" for v in k.reads]
        entry["writes"] = [f"%{v.name} {_place(plan, v)} {v.type}" for v in k.outputs if v in plan.places]
        if k.root in plan.workspaces:
            entry["workspace"] = "frame[{}:{}]".format(*plan.workspaces[k.root])
        if k.root.loc:
            entry["source"] = k.root.loc
        kernels.append(entry)
    return {
        "params": [f"%{v.name}: {v.type}" for v in plan.graph.params],
        "frame_bytes": plan.frame_bytes,
        "largest_live_bytes": plan.live_bytes,
        "kernels": kernels,
    }


def plan_record(plan: Plan) -> dict[str, Any]:
    """JSON-ready; the same module always gives the same record."""
    programs = {}
    for name, program in plan.programs.items():
        programs[name] = {
            "dims": list(program.dims),
            "params": [f"{r.kind} {r.key}" for r in program.params],
            "outputs": [f"{r.kind} {r.key}" for r in program.outputs],
            "arena_bytes": program.arena_bytes,
            **_function(program.function),
        }
    return {
        "max_context": plan.max_context,
        "max_chunk": plan.max_chunk,
        "sizes": dict(sorted(plan.sizes.items())),
        "states": [{"name": s.name, "dtype": s.dtype, "width": s.width, "rows": s.rows, "owner": s.owner} for s in plan.states],
        "derived": [
            {"state": plan.states[d.state].name, "head_bytes": d.head_bytes, "block_rows": d.block_rows,
             "block_bytes": d.block_bytes}
            for d in plan.derived
        ],
        "weights": [
            {"name": w.name, "dtype": w.dtype, "shape": list(w.shape), "folded": w.folded is not None} for w in plan.weights
        ],
        "functions": {name: _function(f) for name, f in plan.functions.items()},
        "programs": programs,
    }
