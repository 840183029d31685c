"""Plan -> the generated C++ file and the static kernel headers that it includes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from pangu_compile.ir import DType, StateInfo
from pangu_compile.ir.text import print_node
from pangu_compile.plan import FunctionPlan, Plan, ProgramPlan

from .kernels import KernelWriter

HERE = Path(__file__).parent
DTYPE_CODES = {"f32": "PANGU_F32", "f64": "PANGU_F64", "i64": "PANGU_I64", "bool": "PANGU_BOOL", "bf16": "PANGU_BF16",
               "i32": "PANGU_I32", "q8": "PANGU_Q8", "q4": "PANGU_Q4", "w8a8": "PANGU_W8A8", "w8a24": "PANGU_Q8",
               "bf16c": "PANGU_BF16C", "q8i": "PANGU_Q8I"}  # fmt: skip
KERNEL_HEADERS = tuple(sorted(path.name for path in (HERE / "kernels").glob("*.h")))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), undefined=jinja2.StrictUndefined, autoescape=False,
        keep_trailing_newline=False, trim_blocks=False, lstrip_blocks=False,
    )  # fmt: skip


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def _function(plan: FunctionPlan, name: str, dims: list[str]) -> str:
    writer = KernelWriter(plan, _render)
    kernels = [{"comment": print_node(k.root), "text": writer.write(k)} for k in plan.kernels]
    kernels += [{"comment": "output copy", "text": text} for text in writer.copies()]
    return _render(
        "function.cpp.jinja", name=name, kernels=kernels, declarations=writer.declarations(), dims=dims,
        frame_bytes=plan.frame_bytes,
    )  # fmt: skip


def _program(plan: ProgramPlan, name: str, weights: Mapping[str, int], states: Mapping[str, int]) -> dict[str, Any]:
    inputs, n_in = [], 0
    for role in plan.params:
        if role.kind == "input":
            inputs.append(f"exec->in[{n_in}]")
            n_in += 1
        elif role.kind == "state":
            inputs.append(f"exec->state[{states[role.key]}]")
        else:
            inputs.append(f"exec->weight[{weights[role.key]}]")
    outputs, n_out = [], 0
    for role in plan.outputs:
        if role.kind == "state":
            outputs.append(f"exec->state[{states[role.key]}]")
        else:
            outputs.append(f"exec->out[{n_out}]")
            n_out += 1
    return {
        "name": name, "function": f"program_{name}", "inputs": inputs, "outputs": outputs, "dims": list(plan.dims),
        "n_in": n_in, "n_out": n_out, "arena_bytes": plan.arena_bytes,
    }  # fmt: skip


def _state(state: StateInfo, max_context: int) -> dict[str, Any]:
    rows = state.rows if state.rows is not None else max_context
    return {
        "name": state.name, "append": int(state.rows is None), "owner": state.owner, "rows": rows,
        "dtype": DTYPE_CODES[state.dtype], "row_bytes": state.width * DType(state.dtype).nbytes,
    }  # fmt: skip


def generate(plan: Plan, weight_offsets: Mapping[str, int], leveled: bool = False) -> dict[str, str]:
    """Source files of the model, by name relative to the artifact's src/.

    Args:
        leveled: model.cpp will be compiled for several instruction sets, among which a table `pangu_levels` lets choose.
        weight_offsets: byte offset of every planned weight in weights.safetensors.
    """
    dims = sorted({d for program in plan.programs.values() for d in program.dims})
    weight_index = {w.name: i for i, w in enumerate(plan.weights)}
    state_index = {s.name: i for i, s in enumerate(plan.states)}
    functions = [_function(f, name, dims) for name, f in plan.functions.items()]
    functions += [_function(p.function, f"program_{name}", dims) for name, p in plan.programs.items()]
    weights = [
        {"name": w.name, "dtype": DTYPE_CODES[w.dtype], "offset": weight_offsets[w.name], "nbytes": w.nbytes} for w in plan.weights
    ]
    formats = sorted({"PANGU_F32", *(DTYPE_CODES[w.dtype] for w in plan.weights)})
    text = _render(
        "model.cpp.jinja", formats=formats, dims=dims, functions=functions, weights=weights,
        programs=[_program(p, name, weight_index, state_index) for name, p in plan.programs.items()],
        states=[_state(s, plan.max_context) for s in plan.states],
        derived=plan.derived, leveled=leveled, role=plan.info["role"],
        vocab_size=plan.info.get("vocab_size", 0), hidden_size=plan.info.get("hidden_size", 0),
        max_context=plan.max_context, max_chunk=plan.max_chunk, num_drafts=plan.info.get("num_drafts", 0),
    )  # fmt: skip
    headers = {name: (HERE / "kernels" / name).read_text() for name in KERNEL_HEADERS}
    return {"model.cpp": text + "\n", **headers}
