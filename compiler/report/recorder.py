"""The history of a compilation: the module's operators after tracing and after every pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pangu_compile.ir import Module

from .counts import category, executed, launched

TRACED = "traced"


@dataclass(frozen=True)
class Stage:
    """What the module looked like after a stage.

    graphs: nodes by operator of every graph, calls not expanded. functions: the same of the functions, calls expanded.
    step: operators of one `step`, calls expanded.
    """

    name: str
    seconds: float
    graphs: dict[str, Counter[str]]
    functions: dict[str, Counter[str]]
    step: Counter[str]
    fusions: tuple[dict[str, Any], ...]

    @property
    def nodes(self) -> int:
        return sum(sum(counts.values()) for counts in self.graphs.values())


@dataclass
class Recorder:
    """An observer for the pass table: `record` is called once after tracing and once after every pass."""

    stages: list[Stage] = field(default_factory=list)
    _seen: int = 0

    def record(self, name: str, seconds: float, module: Module) -> None:
        """Take the module's statistics; nothing of the module is kept."""
        graphs = {name: Counter(n.op for n in g.nodes) for name, g in module.functions.items()}
        graphs |= {f"program {name}": Counter(n.op for n in p.graph.nodes) for name, p in module.programs.items()}
        functions = {name: executed(module, g) for name, g in module.functions.items()}
        program = module.programs.get("step") or next(iter(module.programs.values()), None)
        step = executed(module, program.graph) if program is not None else Counter()
        provenance = list(module.info.get("provenance", ()))
        self.stages.append(Stage(name, seconds, graphs, functions, step, tuple(provenance[self._seen :])))
        self._seen = len(provenance)

    def history(self) -> list[dict[str, Any]]:
        """One entry per pass: seconds, counts before and after, changes by graph, and what its fusions consumed."""
        return [_entry(before, after) for before, after in zip(self.stages, self.stages[1:], strict=False)]

    def lineage(self, function: str) -> list[dict[str, Any]]:
        """A function after every stage: {"pass", "nodes", "kinds": {category: nodes}}. A renamed copy keeps its history."""
        entries = []
        for stage in self.stages:
            name = ancestor(function, stage.functions)
            if name is None:
                continue
            kinds: Counter[str] = Counter()
            for op, count in stage.functions[name].items():
                kinds[category(op)] += count
            entries.append({"pass": stage.name, "nodes": sum(kinds.values()), "kinds": dict(sorted(kinds.items()))})
        return entries

    def launched_before(self) -> int:
        """Operators of one step as it was traced."""
        return launched(self.stages[0].step) if self.stages else 0


def ancestor(name: str, known: Collection[str]) -> str | None:
    """The name itself, or the longest one that it extends (passes name a changed copy `layer_3_then_..`)."""
    return max((k for k in known if name == k or name.startswith(f"{k}_")), key=len, default=None)


def _entry(before: Stage, after: Stage) -> dict[str, Any]:
    changes = []
    origin = {name: ancestor(name, before.graphs) for name in after.graphs}
    renamed = {old for name, old in origin.items() if old is not None and old not in after.graphs}
    for name in [*after.graphs, *(n for n in before.graphs if n not in after.graphs and n not in renamed)]:
        old = before.graphs.get(origin.get(name, name) or "", Counter())
        new = after.graphs.get(name, Counter())
        if old == new:
            continue
        changes.append({
            "graph": name, "nodes_before": sum(old.values()), "nodes_after": sum(new.values()),
            "removed": _sorted(old - new), "added": _sorted(new - old),
        })  # fmt: skip
    return {
        "name": after.name, "seconds": round(after.seconds, 4), "nodes_before": before.nodes, "nodes_after": after.nodes,
        "step_operators_before": launched(before.step), "step_operators_after": launched(after.step),
        "graphs": changes, "fusions": _fusions(after.fusions),
    }  # fmt: skip


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _fusions(records: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Equal fusions (same operator, same things consumed) are told once, with how often and where."""
    table: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        consumed = Counter(dict(record["consumed"]))
        key = (record["op"], tuple(sorted(consumed.items())))
        entry = table.setdefault(key, {"op": record["op"], "count": 0, "consumed": _sorted(consumed), "where": []})
        entry["count"] += 1
        where = str(record.get("function") or record.get("loc") or "")
        if where and where not in entry["where"]:
            entry["where"].append(where)
    return list(table.values())
