"""Optimised module -> Python sources of the torch_npu program, the weights they want, and the plan as JSON."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pangu_compile.ir import IRError, Module
from pangu_compile.plan.plan import PlannedWeight

from .availability import CHIPS, TABLE
from .choose import Target
from .functions import FunctionWriter, Programs
from .kinds import Kind
from .operators import OperatorWriter, environment
from .schema import Call, annotated_results, check_source
from .usage import Usage, find_usage

SUPPORT = Path(__file__).parent / "support"
COPIED = {"pangu_blocks.py": "blocks.py", "pangu_session.py": "session.py", "npu_reference.py": "reference.py",
          "npu_schemas.json": "npu_schemas.json"}  # fmt: skip
DTYPES = {"bf16": "torch.bfloat16", "f32": "torch.float32"}
STORED = {"i64": "I64", "i32": "I32", "bool": "BOOL", "f64": "F64"}


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of weights.safetensors: dtype by safetensors' name, and the shape as it is stored.

    taps_first: a convolution kernel [C, 1, k] that is stored [k, C].
    """

    planned: PlannedWeight
    dtype: str
    shape: tuple[int, ...]
    taps_first: bool = False


@dataclass(frozen=True)
class Limits:
    """Sizes of a session: longest context, tokens of one prefill call."""

    max_context: int
    max_chunk: int


@dataclass
class Generated:
    """files: path below src/ -> text. calls: every call of a vendor operator, checked."""

    files: dict[str, str]
    weights: list[StoredWeight]
    plan: dict[str, Any]
    calls: list[Call] = field(default_factory=list)


def generate(module: Module, chip: str, dtype: str, limits: Limits, info: Mapping[str, Any]) -> Generated:
    """Sources, weights and plan of an optimised module for one chip.

    Args:
        dtype: "bf16" or "f32", of activations, matrices and states. With f32, weights that the module has in bf16 are stored so and
            become float32 where they are loaded.
        info: vocab_size, hidden_size, num_drafts, eos_token_ids.
    Raises:
        IRError: an operator that has no form here, an unknown chip or dtype.
        CallError: a generated call does not fit its schema (a bug of this package).
    """
    if chip not in CHIPS or dtype not in DTYPES:
        raise IRError(f"torch_npu: chip {chip!r} (of {', '.join(CHIPS)}), dtype {dtype!r} (of {', '.join(DTYPES)})")
    target = Target(chip, dtype)
    usage = find_usage(module, target)
    operators = OperatorWriter(target)
    programs = FunctionWriter(module, operators).programs()
    heading = {"chip": chip, "dtype": DTYPES[dtype]}
    template = environment().get_template
    sources = {
        "pangu_operators.py": template("operators.py.jinja").render(operators=operators.sources(), **heading),
        "model.py": template("model.py.jinja").render(
            programs=programs, states=_states(module, usage), limits=limits, info=dict(info), **heading
        ),
    }
    calls = check_sources(sources, chip)
    files = sources | {name: (SUPPORT / file).read_text(encoding="utf-8") for name, file in COPIED.items()}
    return Generated(files, _weights(module, usage, dtype), _plan(target, operators, programs, calls), calls)


def check_sources(sources: Mapping[str, str], chip: str) -> list[Call]:
    """Check every call of a vendor operator in the generated files. CallError names the first that does not fit."""
    helpers = dict(_helper_kinds())
    helpers |= {f"po.{name}": kind for name, kind in annotated_results(ast.parse(sources["pangu_operators.py"]))}
    return [call for name in sorted(sources) for call in check_source(sources[name], chip, helpers, name)]


@lru_cache(maxsize=1)
def _helper_kinds() -> Mapping[str, Kind]:
    """What the helpers that generated code calls return."""
    blocks = ast.parse((SUPPORT / "blocks.py").read_text(encoding="utf-8"))
    kinds = {f"pb.{name}": kind for name, kind in annotated_results(blocks)}
    for name in ("cache", "index_cache"):
        kinds |= {f"{name}.append": "AppendCache", f"{name}.rows": "Tensor", f"{name}.with_prefix": "Tensor"}
    return kinds


def _states(module: Module, usage: Usage) -> list[dict[str, Any]]:
    """Rows of the generated STATES table."""
    rows = []
    for info in module.states.values():
        sparse = usage.sparse.get(info.name)
        rows.append({
            "name": info.name, "width": info.width, "rows": info.rows, "owner": info.owner,
            "split": sparse.split if sparse else 0, "prefix": sparse.prefix if sparse else 0,
            "sinks": sparse.sinks if sparse else None,
        })  # fmt: skip
    return rows


def _weights(module: Module, usage: Usage, dtype: str) -> list[StoredWeight]:
    """What the programs read, in the order of first use."""
    found: dict[str, StoredWeight] = {}
    for program in module.programs.values():
        for value, role in zip(program.graph.params, program.params, strict=True):
            if role.kind not in ("weight", "constant") or role.key in found:
                continue
            shape = tuple(int(d) for d in value.type.shape)
            planned = PlannedWeight(
                role.key, value.type.dtype.value, shape, module.folded.get(role.key), module.constants.get(role.key)
            )
            taps_first = usage.is_conv(role.key)
            kind = value.type.dtype.value
            narrow = kind == "bf16" or (dtype == "bf16" and not usage.is_wide(role.key))
            stored = STORED.get(kind) or ("BF16" if narrow else "F32")
            found[role.key] = StoredWeight(planned, stored, (shape[2], shape[0]) if taps_first else shape, taps_first)
    return list(found.values())


def _plan(target: Target, operators: OperatorWriter, programs: Programs, calls: list[Call]) -> dict[str, Any]:
    """plan.json: what every fused operator became, and why a step is not the vendor's."""
    variants = {}
    for v in operators.variants.values():
        steps = {
            name: {"operators": list(c.operators), "vendor": c.vendor, **({"reason": c.reason} if c.reason else {})}
            for name, c in v.steps.items()
        }
        variants[v.name] = {"operator": v.node.op, "steps": steps}
    vendor = {
        name: {"calls": sum(c.operator == name for c in calls), "source": TABLE[name].source}
        for name in sorted({c.operator for c in calls})
    }
    by_function: dict[str, dict[str, int]] = {}
    for call in calls:
        counts = by_function.setdefault(call.function, {})
        counts[call.operator] = counts.get(call.operator, 0) + 1
    return {
        "target": "torch_npu", "chip": target.chip, "dtype": target.dtype,
        "vendor_operators": vendor, "calls": by_function,
        "operators": variants,
        "functions": {f.name: f.steps for f in (*programs.functions, *programs.entries)},
    }  # fmt: skip
