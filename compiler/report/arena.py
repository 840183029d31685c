"""The arena over time, read from a plan record (plan.json): a rectangle per buffer, by offset and lifetime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pangu_compile.ir import TensorType, evaluate_dim
from pangu_compile.ir.text import parse_type

_PLACED = re.compile(r"^%(\S+) (\w+)\[(\d+)\](?: (.+))?$")
_WORKSPACE = re.compile(r"^frame\[(\d+):(\d+)\]$")
Record = Mapping[str, Any]


@lru_cache(maxsize=4096)
def _type(text: str) -> TensorType:
    return parse_type(text)


def rectangles(function: Record, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Memory of a function's frame: name, kind, offset, bytes, first and last kernel that uses it.

    kind: "value", "workspace" (scratch of one kernel), or "call" (the frame of the function that a kernel calls).
    """
    found: dict[str, dict[str, Any]] = {}
    for index, kernel in enumerate(function["kernels"]):
        for text in kernel["writes"]:
            match = _PLACED.match(text)
            if match and match[2] == "frame" and match[4]:
                nbytes = evaluate_dim(_type(match[4]).nbytes, sizes)
                name = f"{match[1]} {match[4]}"
                found.setdefault(match[1], _box(name, "value", kernel["op"], int(match[3]), nbytes, index))
        for text in (*kernel["writes"], *kernel["reads"]):
            match = _PLACED.match(text)
            if match and match[1] in found:
                found[match[1]]["last"] = index
        scratch = _WORKSPACE.match(kernel.get("workspace", ""))
        if scratch:
            callee = kernel.get("function")
            nbytes = int(scratch[2]) - int(scratch[1])
            kind, name = ("call", callee) if callee else ("workspace", f"scratch of {kernel['op']}")
            found[f"workspace {index}"] = _box(name, kind, kernel["op"], int(scratch[1]), nbytes, index)
    return [box for box in found.values() if box["bytes"]]


def _box(name: str, kind: str, op: str, offset: int, nbytes: int, index: int) -> dict[str, Any]:
    return {"name": name, "kind": kind, "op": op, "offset": offset, "bytes": nbytes, "first": index, "last": index}


def arena_table(record: Record, limits: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """{"sizes", "programs": {name: bytes, largest_live, ratio}, "frames": {name: bytes, kernels, rectangles}}.

    largest_live is the planner's: the most that is alive at one kernel, callees included. limits: of the programs whose
    frames are wanted, the sizes that are never larger than these (the plan is laid out for them).
    """
    sizes = dict(record["sizes"])
    programs, frames = {}, {}
    for name, program in record["programs"].items():
        live, size = program["largest_live_bytes"], program["arena_bytes"]
        programs[name] = {"bytes": size, "largest_live": live, "ratio": round(size / live, 4) if live else 1.0}
    named = {f"program {name}": (p, limits[name]) for name, p in record["programs"].items() if name in limits}
    for name, (function, own) in {**named, **{n: (f, {}) for n, f in record["functions"].items()}}.items():
        boxes = rectangles(function, {**sizes, **own})
        if boxes:
            kernels = [k.get("function") or k["op"] for k in function["kernels"]]
            frames[name] = {"bytes": function["frame_bytes"], "kernels": kernels, "rectangles": boxes}
    return {"sizes": sizes, "programs": programs, "frames": frames}
