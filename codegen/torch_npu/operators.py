"""Fused operators as Python functions: one per distinct variant (attributes, sizes, operands present), from a template each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from pangu_compile.ir import IRError, Node, TensorType, opdef

from .choose import Choice, Target, choose, padded_heads

HERE = Path(__file__).parent
# Operators without `slots`: names of operands and results, in order.
POSITIONAL: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rotary": (("x", "table"), ("y",)),
    "sinkhorn": (("raw",), ("res",)),
    "dense_ffn": (("x", "gate", "up", "down"), ("out",)),
    "expert_linear": (("x", "w", "index"), ("y",)),
}
# Operands that are the session's append caches.
CACHES = {"mla_prologue": ("cache",), "index_prologue": ("cache",), "dense_attention": ("cache",),
          "dsa_attention": ("cache", "index_cache")}  # fmt: skip
HOST_SLOTS = ("start",)
INLINE = ("rms_norm", "layer_norm", "linear", "rotary_table")  # written where they are used


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE / "templates", HERE / "templates" / "operators"]), autoescape=False,
        undefined=jinja2.StrictUndefined, trim_blocks=False, lstrip_blocks=False, keep_trailing_newline=False,
    )  # fmt: skip


def is_fused(op: str) -> bool:
    return (HERE / "templates" / "operators" / f"{op}.jinja").is_file()


def slot_names(node: Node) -> tuple[str, ...]:
    return POSITIONAL[node.op][0] if node.op in POSITIONAL else tuple(node.attrs["slots"])


def result_names(node: Node) -> tuple[str, ...]:
    return POSITIONAL[node.op][1] if node.op in POSITIONAL else tuple(node.attrs["results"])


def slot_types(node: Node) -> dict[str, TensorType]:
    return {name: v.type for name, v in zip(slot_names(node), node.inputs, strict=True)}


def chosen_steps(node: Node, target: Target) -> dict[str, Choice]:
    return choose(node.op, slot_types(node), node.attrs, target)


def updated_slots(node: Node) -> dict[str, str]:
    """Result -> operand that it updates in place."""
    return {r: s for r, s in opdef(node.op).updates.items() if r in result_names(node)}


def annotation(op: str, slot: str) -> str:
    if slot in HOST_SLOTS:
        return "int"
    return "AppendCache" if slot in CACHES.get(op, ()) else "Tensor"


@dataclass
class Variant:
    """One generated function: its name, its source, and the steps as they were chosen."""

    name: str
    source: str
    steps: dict[str, Choice]
    node: Node


@dataclass
class OperatorWriter:
    """Collects the functions that the program calls."""

    target: Target
    variants: dict[Any, Variant] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def function(self, node: Node) -> str:
        """Name of the function that computes `node`, written when it is first asked for. IRError where it is not covered."""
        if not is_fused(node.op):
            raise IRError(f"operator {node.op} has no form in torch_npu")
        key = (node.op, repr(sorted(node.attrs.items())), tuple(str(t) for t in slot_types(node).values()))
        if key not in self.variants:
            number = self.count.setdefault(node.op, 0)
            self.count[node.op] += 1
            self.variants[key] = self._write(node, f"{node.op}_{number}")
        return self.variants[key].name

    def _write(self, node: Node, name: str) -> Variant:
        types, steps = slot_types(node), chosen_steps(node, self.target)
        dims = {slot: list(t.shape) for slot, t in types.items()}
        values: dict[str, Any] = {
            "slots": slot_names(node), "attrs": node.attrs, "dims": dims, "use": steps,
            "padded_heads": padded_heads(dims["q"][1], self.target.chip) if node.op == "dsa_attention" else 0,
        }  # fmt: skip
        body = environment().get_template(f"{node.op}.jinja").render(**values).strip("\n")
        updates = updated_slots(node)
        results = [updates.get(r, r) for r in result_names(node)]
        returned = [annotation(node.op, updates[r]) if r in updates else "Tensor" for r in result_names(node)]
        source = environment().get_template("operator.py.jinja").render(
            name=name, body=body, results=results,
            parameters=[(slot, annotation(node.op, slot)) for slot in types],
            returns=returned[0] if len(returned) == 1 else f"tuple[{', '.join(returned)}]",
            doc=opdef(node.op).doc, shapes=", ".join(f"{slot} {t}" for slot, t in types.items()), reasons=_reasons(steps),
        )  # fmt: skip
        return Variant(name, source, steps, node)

    def sources(self) -> list[str]:
        return [v.source for v in self.variants.values()]


def _reasons(steps: Mapping[str, Choice]) -> Sequence[str]:
    """Why steps are plain torch, for a comment."""
    return [f"{step}: plain torch, not {' and '.join(c.operators)}: {c.reason}" for step, c in steps.items() if not c.vendor]
