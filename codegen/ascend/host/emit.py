"""Optimised module -> sources of the host program, kernels, and the weights that they want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pangu_compile.ir import IRError, Module, evaluate_dim
from pangu_compile.ir.graph import StateInfo
from pangu_compile.plan.plan import PlannedWeight

from ..kernel import CORES, Kernel, environment
from ..kernel import sources as kernel_sources
from ..platform import platform
from .kernels import workspace_bytes
from .lower import HostProgram as LoweredProgram
from .lower import Lowering
from .values import BYTES, SCALES_ALIGN, STORED_TYPES

HERE = Path(__file__).parent
STATIC = ("pangu_device.h", "pangu_device.cpp", "pangu_aclnn.h", "pangu_aclnn.cpp")
ARENA_BUDGET = 1 << 30
CHUNKS = (256, 128, 64, 32, 16, 8)
STATE_CODES = {"bf16": "PANGU_BF16", "split": "PANGU_BF16", "f32": "PANGU_F32"}
CODES = {"bf16": "PANGU_BF16", "int8": "PANGU_Q8", "int8 joined": "PANGU_Q8"}


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of the model as the device wants it: bf16, f32, split, taps or int8 (values.STORED_TYPES).

    behind: the weight that it must directly follow, None: it starts a tensor of the file. nbytes: without an int8 weight's scales.
    """

    planned: PlannedWeight
    form: str
    behind: str | None = None

    @property
    def nbytes(self) -> int:
        count = 1
        for d in self.planned.shape:
            count *= d
        return count * BYTES[STORED_TYPES.get(self.form, self.form)]

    @property
    def is_int8(self) -> bool:
        return self.form.startswith("int8")


@dataclass
class HostProgram:
    """files: path below src/ -> text, but model.cpp, which needs the weights' offsets: `model(offsets)`."""

    files: dict[str, str]
    weights: list[StoredWeight]
    plan: dict[str, Any]
    max_chunk: int
    kernels: list[Kernel]
    values: dict[str, Any] = field(default_factory=dict)

    def model(self, offsets: Mapping[str, int]) -> str:
        """host/model.cpp, with every weight's byte offset in weights.safetensors."""
        weights = [
            {"name": w.planned.name, "dtype": CODES.get(w.form, "PANGU_F32"), "offset": offsets[w.planned.name], "nbytes": w.nbytes}
            for w in self.weights
        ]  # fmt: skip
        return render("model.cpp.jinja", weights=weights, **self.values)


def render(template: str, **values: Any) -> str:
    return environment(HERE / "templates").get_template(template).render(**values)


def int8_bytes(chain: Sequence[StoredWeight]) -> int:
    """Bytes of int8 weights that lie together: their rows, and the scales behind them."""
    rows = sum(w.nbytes for w in chain)
    return -(-rows // SCALES_ALIGN) * SCALES_ALIGN + sum(4 * w.nbytes // w.planned.shape[-1] for w in chain)


def generate(
    module: Module, target: str, max_context: int, max_chunk: int | None = None, activations: str = "float32"
) -> HostProgram:
    """Host program and kernels of an optimised module for a target ("ascend910b", "ascend910_93"); activations: float32 or bf16.

    Raises:
        IRError: an operator, or a shape, that has no form here.
    """
    chip = platform(target)
    shortest = _shortest_chunk(module)
    for chunk in (max_chunk,) if max_chunk else CHUNKS:
        chunk = max(shortest, min(chunk, max_context))
        lowering = Lowering(module, chip, {"T": chunk, "M": chunk, "S": max_context}, activations == "float32")
        programs = lowering.programs()
        if max(p.function.frame_bytes for p in programs) <= ARENA_BUDGET:
            break
    kernels = lowering.kernels.all()
    files = {f"kernels/{name}": text for name, text in kernel_sources(kernels).items()}
    files["host/pangu_host_plan.h"] = files.pop("kernels/pangu_host_plan.h")
    files["host/pangu_launch.h"] = _launch_header(kernels)
    files |= {f"host/{name}": (HERE / "src" / name).read_text(encoding="utf-8") for name in STATIC}
    info = module.info
    values = {
        "functions": list(lowering.functions.values()), "programs": [_entry(p) for p in programs], "dims": lowering.dims,
        "states": [_state(s, lowering.state_type(s.name), max_context) for s in module.states.values()], "role": info["role"],
        "vocab_size": info.get("vocab_size", 0), "hidden_size": info.get("hidden_size", 0), "max_context": max_context,
        "max_chunk": chunk, "num_drafts": info.get("num_drafts", 0), "target": target,
        "rotary_rows": max_context + int(info.get("num_drafts", 0)) + 1,
    }  # fmt: skip
    return HostProgram(files, _weights(module, lowering), _plan(lowering, programs, chunk), chunk, kernels, values)


def _shortest_chunk(module: Module) -> int:
    """Tokens that a program of limited size runs its functions on: a chunk must hold as many."""
    sizes = [1]
    for program in module.programs.values():
        limits = {"T": 1, "S": 1, "M": 1, **program.limits}
        if "T" in program.limits:
            sizes += [evaluate_dim(n.dims["T"], limits) for n in program.graph.nodes if n.op == "call" and "T" in n.dims]
    return max(sizes)


def _entry(program: LoweredProgram) -> dict[str, Any]:
    return {
        "name": program.name, "function": program.function, "dims": list(program.program.dims), "inputs": program.inputs,
        "n_in": len(program.inputs), "n_out": len(program.outputs),
    }  # fmt: skip


def _state(state: StateInfo, dtype: str, max_context: int) -> dict[str, Any]:
    return {
        "name": state.name, "append": int(state.rows is None), "owner": state.owner, "dtype": STATE_CODES[dtype],
        "rows": state.rows if state.rows is not None else max_context, "row_bytes": BYTES[dtype] * state.width,
    }  # fmt: skip


def _launch_header(kernels: list[Kernel]) -> str:
    shown = [
        {
            "name": k.name, "struct": k.struct, "core": CORES[k.core], "op": k.op, "rows": k.fields[0],
            "arguments": k.arguments, "operands": [a for a in k.arguments if a.role != "workspace"],
            "workspace": workspace_bytes(k),
        }
        for k in kernels
    ]  # fmt: skip
    return render("launch.h.jinja", kernels=shown)


def _weights(module: Module, lowering: Lowering) -> list[StoredWeight]:
    """In the order of their indices."""
    behind = {second: first for first, second in lowering.adjacent.items()}
    stored = []
    for name, weight in lowering.weights.items():
        if not weight.formats:
            raise IRError(f"ascend: weight {name} is read by nothing; optimise the module first")
        constant = module.constants.get(name)
        form = next(iter(weight.formats))
        planned = PlannedWeight(name, "f32" if form != "bf16" else "bf16", weight.shape, module.folded.get(name), constant)
        stored.append(StoredWeight(planned, form, behind.get(name)))
    return stored


def _plan(lowering: Lowering, programs: list[LoweredProgram], chunk: int) -> dict[str, Any]:
    """A plain record for plan.json and the reports."""
    functions = [*lowering.functions.values(), *(p.function for p in programs)]
    return {
        "sizes": lowering.sizes, "max_chunk": chunk, "activations": "float32" if lowering.wide else "bf16",
        "kernels": {
            k.name: {"operator": k.op, "core": k.core, "tiling": k.struct, "arguments": [a.name for a in k.arguments]}
            for k in lowering.kernels.all()
        },
        "functions": {
            f.name: {
                "frame_bytes": f.frame_bytes, "buffers": dict(f.places),
                "steps": [{"call": s.call, **({"operator": s.comment} if s.comment else {})} for s in f.steps],
            }
            for f in functions
        },
    }  # fmt: skip


def simulated_launchers(plan: Mapping[str, Any]) -> str:
    """Source of the functions aclrtlaunch_NAME for the simulator; `plan` is an artifact's plan.json."""
    return render("simulated_launch.cpp.jinja", kernels=_kernel_records(plan))


def simulated_units(plan: Mapping[str, Any], folder: Path) -> str:
    """Source that includes every kernel of the artifact's folder src/kernels, each in a namespace of its own."""
    headers = sorted(path.name for path in folder.glob("*.h"))
    return render("simulated_kernels.cpp.jinja", kernels=_kernel_records(plan), headers=headers)


def _kernel_records(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "arguments": k["arguments"], "struct": k["tiling"]} for name, k in plan["kernels"].items()]
