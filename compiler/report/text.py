"""The summary as text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .device import device_text
from .units import human_bytes, human_count, human_rate, human_seconds

Summary = dict[str, Any]


def render_text(summary: Summary) -> str:
    """A page of plain text."""
    lines = [f"{summary['kind']} {summary['path']} ({human_bytes(summary['bytes_on_disk'])} on disk)"]
    if summary["kind"] == "artifact":
        needs = f", needs {summary['cpu']['machine']}" if "cpu" in summary else ""
        chip = f" for {summary['chip']}" if "chip" in summary else ""
        lines.append(
            f"  target {summary['target']}{chip}, weights {summary['weights']}, context {summary['max_context']},"
            f" chunks of {summary['max_chunk']}{needs}"
        )
    if not summary.get("plan_agrees", True):
        lines.append("  note: built from an edited model or by another version; the operators below are not the artifact's own")
    for section in (_model, _layers, _fusion, _decode, _operators, _time, device_text, _storage, _programs):
        lines += section(summary)
    return "\n".join(lines)


def _model(s: Summary) -> list[str]:
    c = s["config"]
    streams = c["mhc_num_stream"] if c["use_mhc"] else 1
    return [
        f"  hidden {c['hidden_size']}, heads {c['num_attention_heads']}, vocabulary {c['vocab_size']}, streams {streams},"
        f" sinks {c['param_sink_number']}, MoME {'on' if c['use_mome'] else 'off'}",
        f"  {human_count(s['parameters']['total'])} parameters, {human_count(s['parameters']['active'])} active a token",
    ]


def _layer_name(layer: dict[str, Any]) -> str:
    extra = f" window {layer['window']}" if "window" in layer else ""
    extra += f" top {layer['index_topk']}" if "index_topk" in layer else ""
    return f"{layer['attention']} attention{extra}, {layer['ffn']} ffn"


def _layers(s: Summary) -> list[str]:
    groups: dict[tuple[bool, str], list[int]] = {}
    for layer in s["layers"]:
        mtp = "mtp_head" in layer
        groups.setdefault((mtp, _layer_name(layer)), []).append(layer["mtp_head"] if mtp else layer["index"])
    lines = []
    for (mtp, name), ids in groups.items():
        what = ("MTP head" if mtp else "layer") + ("s" if len(ids) > 1 else "")
        lines.append(f"  {what} {ranges(ids)}: {name}")
    return lines


def ranges(numbers: Sequence[int]) -> str:
    """1, 2, 4, 5, 6 -> 1-2, 4-6."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "none"


def _fusion(s: Summary) -> list[str]:
    lines = ["fused operators", f"  base layers      {_counts(s['fused'])}"]
    lines += [f"  MTP heads        {_counts(s['mtp'])}"] if s["time"].get("speculation") else []
    lines.append(f"  left unfused     {_counts(s['primitives_left'])}")
    d = s["decode"]
    lines.append(f"  per layer        {d['operators_per_layer_before']:g} operators traced, {d['operators_per_layer_after']:g} now")
    return lines


def _decode(s: Summary) -> list[str]:
    d = s["decode"]
    return [
        f"one decode step with {d['context']} rows cached",
        f"  moves {human_bytes(d['bytes_per_token'])}, of at least {human_bytes(d['bytes_minimum'])}"
        f" (weights {human_bytes(d['bytes_minimum_weights'])}, caches {human_bytes(d['bytes_minimum_caches'])}):"
        f" ratio {d['ratio']:.4f}",
    ]


def _operators(s: Summary) -> list[str]:
    lines = [f"  {'operator':<18}{'count':>6}{'flops':>12}{'bytes':>12}{'flops/byte':>12}{'time':>11}"]
    for op in s["operators"][:14]:
        lines.append(
            f"  {op['op']:<18}{op['count']:>6}{human_rate(op['flops'], ''):>12}{human_bytes(op['bytes']):>12}"
            f"{op['intensity']:>12.2f}{human_seconds(op['seconds']):>11}"
        )
    rest = s["operators"][14:]
    if rest:
        lines.append(f"  {len(rest)} more kinds: {human_bytes(sum(op['bytes'] for op in rest))}")
    return lines


def _time(s: Summary) -> list[str]:
    t = s["time"]
    chip = t["chip"]
    lines = [
        f"at best, on {chip['name']} ({human_rate(chip['bytes_per_second'], 'B/s')},"
        f" {human_rate(chip['matrix_flops_per_second'], 'flop/s')})",
        f"  plain            {human_seconds(t['step_seconds'])} a token, {t['tokens_per_second']:.1f} tokens/s",
    ]
    if "speculation" in t:
        sp = t["speculation"]
        rates = ", ".join(f"{a:g}" for a in sp["acceptance"])
        lines.append(
            f"  speculative      {sp['expected_tokens_per_step']:.2f} tokens a step at acceptance {rates} ({sp['source']}):"
            f" {sp['tokens_per_second']:.1f} tokens/s"
        )
    return lines


def _storage(s: Summary) -> list[str]:
    plan = s["plan"]
    kinds = ", ".join(f"{k['kind'].replace('_', ' ')} {human_bytes(k['bytes'])}" for k in s["weights_by_kind"])
    codes = plan.get("derived_bytes_per_token", 0)
    more = f"; indexers that scan integers keep {human_bytes(codes)} a token more" if codes else ""
    return [
        f"weights {human_bytes(plan['weight_bytes'])}: {kinds}",
        f"caches {human_bytes(plan['cache_bytes_per_token'])} a token and {human_bytes(plan['cache_bytes_fixed'])} fixed{more}",
    ]


def _programs(s: Summary) -> list[str]:
    return [_program(s, name, p) for name, p in s["plan"]["programs"].items()]


def _program(s: Summary, name: str, p: dict[str, Any]) -> str:
    if s["arena"] is not None:
        live = f" ({s['arena']['programs'][name]['ratio']:.3f} of the largest live set)"
        return f"program {name}: {p['kernels']} kernels, arena {human_bytes(p['arena_bytes'])}{live}"
    if "arena_bytes" in p:
        return f"program {name}: {p['kernels']} launches, arena {human_bytes(p['arena_bytes'])}"
    return f"program {name}: {p['kernels']} operators"
