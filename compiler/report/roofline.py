"""Time from work: an operator takes the longer of its flops at the chip's peak and its bytes at the chip's bandwidth.

This is a lower bound: no launch costs, no gaps between operators, full bandwidth for every access.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pangu_compile.errors import UserError

from .cost import Work

TARGETS = ("cpu", "ascend910b", "ascend910_93")
# Operators whose flops are products of matrices (or of a matrix and vectors); all others run on vector units.
MATRIX = frozenset({
    "matmul", "linear", "expert_linear", "mla_prologue", "index_prologue", "swa_attention", "dsa_attention",
    "dense_attention", "attention_output", "moe_gate", "moe_ffn", "dense_ffn", "lm_head_argmax", "mhc_pre",
    "mhc_post_pre", "mhc_merge",
})  # fmt: skip
# float32 operations a cycle and core: two fused multiply-add units.
SIMD_FLOPS = {"avx512": 64, "avx2": 32, "neon": 16, "scalar": 4}
CORE_BANDWIDTH, SOCKET_BANDWIDTH = 10e9, 80e9  # assumed where nothing was measured
MEASURED_BYTES = 256 << 20


@dataclass(frozen=True)
class Chip:
    """Peak rates. matrix_flops: in 16-bit formats on an NPU, float32 on a CPU; memory_bytes None: unknown."""

    target: str
    name: str
    matrix_flops: float
    vector_flops: float
    bytes_per_second: float
    memory_bytes: int | None
    derivation: tuple[str, ...]

    def seconds(self, op: str, work: Work) -> float:
        """Least time of one application of `op`."""
        peak = self.matrix_flops if op in MATRIX else self.vector_flops
        return max(work.flops / peak, work.bytes / self.bytes_per_second)

    @property
    def ridge(self) -> float:
        """Flops per byte above which matrix products are bound by computing."""
        return self.matrix_flops / self.bytes_per_second

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target, "name": self.name, "matrix_flops_per_second": self.matrix_flops,
            "vector_flops_per_second": self.vector_flops, "bytes_per_second": self.bytes_per_second,
            "memory_bytes": self.memory_bytes, "ridge": self.ridge, "derivation": list(self.derivation),
        }  # fmt: skip


def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((Path(__file__).parent / "chips.json").read_text(encoding="utf-8"))
    return table


def chip(target: str, local: bool = True, measure: bool = False) -> Chip:
    """The chip that a target stands for.

    Args:
        local: describe the processor of this machine where the target is cpu; else a fixed reference, so that the same
            input gives the same numbers everywhere.
        measure: measure this machine's memory bandwidth (with `local`; the numbers then vary a little).
    Raises:
        UserError: unknown target.
    """
    if target not in TARGETS:
        raise UserError(f"target {target!r} has no roofline; use {', '.join(TARGETS)}")
    record = _table()[target]
    if target == "cpu":
        return _local_cpu(measure) if local else _cpu(record, "fixed reference, not this machine")
    return _ascend(target, record)


def _ascend(target: str, r: dict[str, Any]) -> Chip:
    clock = r["frequency_mhz"] * 1e6
    return Chip(
        target, r["name"], 2.0 * r["cube_macs"] * r["ai_cores"] * clock, float(r["vector_lanes"] * r["vector_cores"] * clock),
        float(r["ddr_bytes_per_cycle"] * r["ai_cores"] * clock), r["memory_bytes"],
        (
            f"matrix peak: {r['ai_cores']} cores x 2 x {r['cube_macs']} multiply-adds x {r['frequency_mhz']} MHz, 16-bit formats",
            f"vector peak: {r['vector_cores']} cores x {r['vector_lanes']} float32 lanes x {r['frequency_mhz']} MHz",
            f"bandwidth: {r['ai_cores']} cores x {r['ddr_bytes_per_cycle']} bytes a cycle x {r['frequency_mhz']} MHz"
            " (the vendor's planning figure; the boards' published peak is 1.6 TB/s)",
        ),
    )  # fmt: skip


def _cpu(r: dict[str, Any], note: str) -> Chip:
    rate = SIMD_FLOPS[r["simd"]]
    peak = float(r["cores"] * r["frequency_mhz"] * 1e6 * rate)
    return Chip(
        "cpu", r["name"], peak, peak / 2, float(r["bytes_per_second"]), r["memory_bytes"],
        (
            f"{note}: {r['cores']} cores, {r['simd']}, {r['frequency_mhz']} MHz",
            f"matrix peak: {rate} float32 operations a cycle and core; vector peak: half of that (no multiply-add)",
            f"bandwidth: {r.get('bandwidth_note', 'assumed')}",
        ),
    )  # fmt: skip


def _local_cpu(measure: bool) -> Chip:
    text = _read("/proc/cpuinfo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if measure:
        bandwidth, note = _measured_bandwidth(), "measured: one thread reads 256 MiB, best of five"
    else:
        bandwidth = min(cores * CORE_BANDWIDTH, SOCKET_BANDWIDTH)
        note = "assumed: 10 GB/s a core, at most 80 GB/s (--measure measures it)"
    record = {
        "name": _model_name(text), "cores": cores, "frequency_mhz": _frequency(text), "simd": _simd(text),
        "bytes_per_second": bandwidth, "bandwidth_note": note, "memory_bytes": _memory(),
    }  # fmt: skip
    return _cpu(record, "this machine")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _model_name(cpuinfo: str) -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else platform.machine() or "CPU"


def _frequency(cpuinfo: str) -> int:
    """MHz, from what does not vary from reading to reading where the system tells; else rounded to 500."""
    named = re.search(r"@\s*([\d.]+)\s*GHz", cpuinfo)
    if named:
        return round(float(named[1]) * 1000)
    for name in ("base_frequency", "cpuinfo_max_freq"):
        kilohertz = _read(f"/sys/devices/system/cpu/cpu0/cpufreq/{name}").strip()
        if kilohertz.isdigit():
            return round(int(kilohertz) / 1000)
    now = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE)
    return max(500, round(float(now[1]) / 500) * 500) if now else 2500


def _simd(cpuinfo: str) -> str:
    words = set(cpuinfo.split())
    if "avx512f" in words:
        return "avx512"
    if "avx2" in words:
        return "avx2"
    return "neon" if platform.machine() in ("aarch64", "arm64") else "scalar"


def _memory() -> int | None:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _measured_bandwidth() -> float:
    """Bytes a second that one thread reads from memory, to two digits."""
    data = np.ones(MEASURED_BYTES // 8)
    best = min(_timed_sum(data) for _ in range(5))
    rate = data.nbytes / best
    digits = len(str(int(rate))) - 2
    return float(round(rate / 10**digits) * 10**digits)


def _timed_sum(data: np.ndarray) -> float:
    begin = time.perf_counter()
    data.sum()
    return time.perf_counter() - begin
