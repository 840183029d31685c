"""What `inspect` tells of a checkpoint or an artifact, as plain data and as text."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .artifact import MANIFEST, Artifact
from .build import load_config, make_model_plan
from .checkpoint import Checkpoint, read_json_object
from .options import make_options
from .progress import Progress, Silent

if TYPE_CHECKING:
    from pangu_compile.ir import Module
    from pangu_compile.models.config import OpenPanguConfig

FUSED = ("dsa_attention", "swa_attention", "dense_attention", "moe_ffn", "dense_ffn", "mhc_pre", "mhc_post")
ITEM_BYTES = {"f32": 4, "f64": 8, "i64": 8, "i32": 4, "bool": 1, "bf16": 2}


def is_artifact(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def open_config(path: Path) -> tuple[Checkpoint, OpenPanguConfig]:
    """The configuration of a checkpoint folder, or of the one that an artifact was built from."""
    if is_artifact(path):
        artifact = Artifact.open(path, check=False)
        opened = Checkpoint(path, dict(artifact.manifest.get("config", {})), {})
    else:
        opened = Checkpoint.open(path, weights=False)
    return opened, load_config(opened)


def ir_text(path: Path, progress: Progress | None = None) -> str:
    """The optimised IR of a checkpoint, or of an artifact's model (traced again from its configuration)."""
    from pangu_compile.ir import print_module
    from pangu_compile.passes import run_passes

    opened, config = open_config(path)
    module = _traced(opened, config, progress or Silent())
    run_passes(module)
    return print_module(module)


def _traced(opened: Checkpoint, config: OpenPanguConfig, progress: Progress) -> Module:
    from pangu_compile.models.programs import build_programs
    from pangu_compile.trace import trace_programs

    progress.stage("tracing", 1)
    module = trace_programs(build_programs(config))
    progress.advance(1)
    return module


def summarise(path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Configuration, layers, bytes, programs and plan statistics.

    Raises:
        UserError: neither a checkpoint nor an artifact, or a damaged one.
    """
    opened, config = open_config(path)
    if is_artifact(path):
        manifest = Artifact.open(path).manifest
        plan = read_json_object(path / "plan.json")
        kind = "artifact"
        keys = ("format_version", "target", "weights", "max_context", "max_chunk", "cpu")
        head = {key: manifest[key] for key in keys}
        head["bytes_on_disk"] = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    else:
        options = make_options()
        context = options.context(config.max_position_embeddings)
        plan = make_model_plan(config, options, context, None, progress or Silent()).to_json()
        kind = "checkpoint"
        head = {"tensors": len(opened.tensors), "bytes_on_disk": opened.nbytes()}
    return {
        "kind": kind,
        "path": str(path),
        **head,
        "config": config.to_dict(),
        "layers": [{"index": i, **_layer(config, i)} for i in range(config.num_layers)],
        "fused": _fused(plan, "step"),
        "mtp": _fused(plan, "draft_"),
        "plan": plan_statistics(plan),
    }


def _layer(config: OpenPanguConfig, index: int) -> dict[str, Any]:
    kind = config.attention_kind(index)
    layer: dict[str, Any] = {"attention": kind, "ffn": "moe" if config.is_moe(index) else "dense"}
    if kind == "swa":
        layer["window"] = config.window(index)
    if kind == "dsa":
        layer["index_topk"] = config.index_topk
    if index >= config.num_hidden_layers:
        layer["mtp_head"] = index - config.num_hidden_layers + 1
    return layer


def _operators(plan: dict[str, Any], function: dict[str, Any]) -> Counter[str]:
    """Operators of one pass through a function, calls included."""
    counts: Counter[str] = Counter()
    for kernel in function["kernels"]:
        if kernel["op"] == "call":
            counts += _operators(plan, plan["functions"][kernel["function"]])
        else:
            counts[kernel["op"]] += 1
    return counts


def _fused(plan: dict[str, Any], prefix: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, program in plan["programs"].items():
        if name.startswith(prefix):
            total += _operators(plan, program)
    return {name: total[name] for name in FUSED}


def plan_statistics(plan: dict[str, Any]) -> dict[str, Any]:
    """Counts and bytes of a plan record (plan.json)."""
    weights = sum(math.prod(w["shape"]) * ITEM_BYTES[w["dtype"]] for w in plan["weights"])
    rows = [(s, s["width"] * ITEM_BYTES[s["dtype"]]) for s in plan["states"]]
    return {
        "max_context": plan["max_context"],
        "max_chunk": plan["max_chunk"],
        "parameters": sum(math.prod(w["shape"]) for w in plan["weights"]),
        "weight_bytes": weights,
        "cache_bytes_per_token": sum(size for s, size in rows if s["rows"] is None),
        "cache_bytes_fixed": sum(size * s["rows"] for s, size in rows if s["rows"] is not None),
        "functions": len(plan["functions"]),
        "programs": {
            name: {
                "kernels": sum(_operators(plan, program).values()),
                "arena_bytes": program["arena_bytes"],
            }
            for name, program in plan["programs"].items()
        },
    }


def render(summary: dict[str, Any]) -> str:
    """The summary for people."""
    config, plan = summary["config"], summary["plan"]
    lines = [f"{summary['kind']} {summary['path']} ({summary['bytes_on_disk'] / 1e6:.1f} MB on disk)"]
    if summary["kind"] == "artifact":
        lines.append(
            f"  target {summary['target']}, weights {summary['weights']}, context {summary['max_context']},"
            f" chunks of {summary['max_chunk']}, needs {summary['cpu']['machine']}"
        )
    lines.append(
        f"  hidden {config['hidden_size']}, heads {config['num_attention_heads']}, vocabulary {config['vocab_size']},"
        f" streams {config['mhc_num_stream'] if config['use_mhc'] else 1}, sinks {config['param_sink_number']},"
        f" MoME {'on' if config['use_mome'] else 'off'}"
    )
    for layer in summary["layers"]:
        name = f"MTP head {layer['mtp_head']}" if "mtp_head" in layer else f"layer {layer['index']}"
        extra = f" window {layer['window']}" if "window" in layer else ""
        extra += f" top {layer['index_topk']}" if "index_topk" in layer else ""
        lines.append(f"  {name:<12} {layer['attention']} attention{extra}, {layer['ffn']} ffn")
    lines.append(
        f"  weights {plan['weight_bytes'] / 1e6:.1f} MB; caches {plan['cache_bytes_per_token']} bytes a token"
        f" and {plan['cache_bytes_fixed'] / 1e3:.1f} kB fixed"
    )
    for name, program in plan["programs"].items():
        lines.append(f"  program {name}: {program['kernels']} kernels, scratch {program['arena_bytes'] / 1e6:.2f} MB")
    return "\n".join(lines)
