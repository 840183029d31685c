"""Records of NPU targets, from small plans, and how the page and the text show them."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from pangu_compile.driver.npu_summary import narrowed, rates
from pangu_compile.driver.targets.ascend_launches import VENDOR, count_launches, launch_record
from pangu_compile.driver.targets.torch_npu_calls import call_record, operators
from pangu_compile.report import Compiled, View, model_summary, render_report
from pangu_compile.report.text import render_text

from .conftest import EMBED, make_module
from .test_page import check

LAYER = [
    {"call": "launch_rms_norm", "operator": "rms_norm  layers.0"}, {"call": "launch_product", "operator": "linear  layers.0"},
    {"call": "launch_product_1", "operator": "moe_ffn  layers.0"}, {"call": "init_routing"}, {"call": "launch_product_1"},
]  # fmt: skip
ASCEND: dict[str, Any] = {
    "activations": "float32",
    "kernels": {name: {"operator": "linear", "core": core} for name, core in
                (("rms_norm", "aiv"), ("product", "aic"), ("product_1", "aic"))},
    "functions": {
        "layer_0": {"steps": LAYER},
        "program_step": {"steps": [
            {"call": "upload_i32"}, {"call": "take_rows", "operator": "take  embed"}, {"call": "layer_0", "operator": "call"},
            {"call": "layer_0", "operator": "call"}, {"call": "launch_product", "operator": "linear"}, {"call": "download_f32"},
        ]},
        "program_draft_1": {"steps": [{"call": "launch_product", "operator": "linear"}]},
    },
}  # fmt: skip
TORCH_NPU: dict[str, Any] = {
    "chip": "ascend910b", "dtype": "bf16",
    "vendor_operators": {"npu_rms_norm": {"calls": 2, "source": "docs: A2"}, "npu_rotary_mul": {"calls": 1, "source": "there"}},
    "calls": {"layer_0": {"npu_rms_norm": 1}, "mla_prologue_0": {"npu_rotary_mul": 1, "npu_rms_norm": 1}},
    "operators": {
        "mla_prologue_0": {"operator": "mla_prologue", "steps": {
            "rotary": {"operators": ["npu_rotary_mul"], "vendor": True},
            "q_conv": {"operators": ["npu_fused_causal_conv1d"], "vendor": False, "reason": "does not exist on <ascend910b>"},
        }},
        "mhc_merge_0": {"operator": "mhc_merge", "steps": {}},
        "unused_0": {"operator": "moe_gate", "steps": {}},
    },
    "functions": {"layer_0": ["mla_prologue_0", "rms_norm", "reshape"], "draft_1": ["layer_0"],
                  "step": ["take", "layer_0", "layer_0", "mhc_merge_0", "linear"]},
}  # fmt: skip


def test_launches_are_counted_through_calls() -> None:
    found = count_launches(ASCEND, "program_step")
    assert found.kernels == {"rms_norm": 2, "product": 3, "product_1": 4} and found.vendor == {"take_rows": 1, "init_routing": 2}
    record = launch_record(ASCEND, 2, ["draft_1"])
    assert (record["step"], record["kernels"], record["vendor_operators"], record["per_layer"]) == (12, 9, 3, 6.0)
    assert record["functions"] == {"layer_0": 5} and record["drafts"] == {"draft_1": 1}
    by_operator = {r["op"]: (r["count"], r["kernels"], r["vendor_operators"]) for r in record["by_operator"]}
    assert by_operator == {"moe_ffn": (2, 4, 2), "linear": (3, 3, 0), "rms_norm": (2, 2, 0), "take": (1, 0, 1)}
    rows = [(r["name"], r["core"], r["forms"], r["launches"]) for r in record["by_kernel"]]
    assert rows == [("product", "aic", 2, 7), ("rms_norm", "aiv", 1, 2), ("aclnnMoeInitRoutingV2", "vendor", 1, 2),
                    ("aclnnEmbedding", "vendor", 1, 1)]  # fmt: skip


def test_vendor_operators_are_those_that_the_host_program_calls() -> None:
    import pangu_compile.codegen.ascend.host as host

    folder = Path(next(iter(host.__path__))) / "src"
    declared = re.findall(r"^void (\w+)\(Device &d, const View", (folder / "pangu_aclnn.h").read_text(), re.MULTILINE)
    assert set(declared) == set(VENDOR)
    assert set(re.findall(r'run\(d, "(aclnn\w+)"', (folder / "pangu_aclnn.cpp").read_text())) == set(VENDOR.values())


def test_calls_of_a_torch_npu_step() -> None:
    record = call_record(TORCH_NPU)
    assert {r["name"]: r["calls"] for r in record["vendor_operators"]} == {"npu_rms_norm": 4, "npu_rotary_mul": 2}
    assert record["vendor_calls"] == 6 and record["plain"] == {"rms_norm": 2, "take": 1, "linear": 1}
    prologue, merge = record["fused"]
    assert (prologue["count"], prologue["vendor_calls"], merge["op"], merge["vendor_calls"]) == (2, 4, "mhc_merge", 0)
    assert [(s["step"], s["vendor"], s["count"]) for s in prologue["steps"]] == [("rotary", True, 2), ("q_conv", False, 2)]
    assert operators(TORCH_NPU, "step")["mla_prologue"] == 2 and operators(TORCH_NPU, "draft_1")["rms_norm"] == 1


@pytest.fixture
def base(compiled: Compiled, view: View) -> dict[str, Any]:
    plan = {"weight_bytes": 4096, "cache_bytes_per_token": 40, "cache_bytes_fixed": 0, "max_chunk": 4}
    without = Compiled(compiled.config, compiled.module, None, compiled.trunk_shapes, compiled.recorder)
    head = {"kind": "artifact", "path": "x", "bytes_on_disk": 1, "target": "t", "weights": "bf16", "max_context": 64}
    return {**head, "max_chunk": 4, **model_summary(without, view), "plan": plan}


def ascend_record(contexts: int = 1) -> dict[str, Any]:
    row = {"context": 4096, "batch": 1, "cards": 1, "seconds": 1e-3, "hbm_bytes": 1e6, "tokens_per_second_per_card": 1000.0}
    return {
        "target": "ascend910b", "launches": launch_record(ASCEND, 2, ["draft_1"]), "steps": [row] * contexts, "acceptance": [],
        "bytes_per_token": {"context": 16, "moved": 2e6, "minimum": 1e6, "ratio": 2.0}, "assumptions": ["made up", "an assumption"],
    }  # fmt: skip


def test_page_of_an_ascend_artifact(base: dict[str, Any]) -> None:
    base["plan"]["programs"] = {"step": {"kernels": 12, "arena_bytes": 2048}}
    summary = {**base, "ascend": ascend_record()}
    found = check(render_report(summary))
    assert "device" in found.ids and "estimated" in found.text and "simulated" in found.text
    for words in ("12launches a decode step", "aclnnMoeInitRoutingV2", "our kernels, 9 launches", "an assumption", "layers 0-1"):
        assert words in found.text, words
    assert found.text.count("made up") == 1 and "Arena over time" not in found.text  # told with the chip's rates already
    text = render_text(summary)
    assert "12 a decode step, 6 a layer: 9 of our kernels, 3 vendor operators" in text and "12 launches, arena 2 KiB" in text
    summary["ascend"] = {"target": "ascend910b", "unavailable": "no lowering of layer_norm"}
    assert "no lowering of layer_norm" in check(render_report(summary)).text and "no lowering" in render_text(summary)


def test_page_of_a_torch_npu_artifact(base: dict[str, Any]) -> None:
    base["plan"]["programs"] = {"step": {"kernels": 5}}
    summary = {**base, "chip": "ascend910b", "torch_npu": call_record(TORCH_NPU)}
    page = render_report(summary)
    found = check(page)
    for words in ("npu_rotary_mul", "does not exist on <ascend910b>", "simulated", "no choice: plain torch", "6calls of torch_npu"):
        assert words in found.text, words
    assert "<ascend910b>" not in page and render_report(copy.deepcopy(summary)) == page
    text = render_text(summary)
    assert "mla_prologue q_conv: does not exist" in text and "target t for ascend910b" in text and "step: 5 operators" in text


def test_narrow_activations_halve_what_is_no_weight() -> None:
    module = narrowed(make_module(), wide_streams=True)
    step = module.programs["step"]
    types = {r.key: v.type.dtype.value for v, r in zip(step.graph.params, step.params, strict=True)}
    assert types[EMBED] == "f32" and types["layers.0.latent"] == "bf16" and types["tokens"] == "i64"
    assert {s.dtype for s in module.states.values()} == {"bf16"}
    layer = {p.name: p.type.dtype.value for p in module.functions["layer_0"].params}
    assert layer["x"] == layer["cache"] == "bf16" and layer["qw"] == layer["gu"] == "f32"


def test_a_chip_without_known_rates_says_whose_it_takes() -> None:
    chip = rates("torch_npu", "ascend950")
    assert "ascend950" in chip.name and "stand in" in chip.derivation[0]
    assert rates("torch_npu", "ascend910b") == rates("ascend910b", "")
