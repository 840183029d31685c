"""The history of passes."""

from __future__ import annotations

from pangu_compile.ir import Module
from pangu_compile.report import Recorder
from pangu_compile.report.recorder import ancestor


def drop(module: Module, op: str) -> None:
    graph = module.functions["layer_0"]
    graph.nodes = [n for n in graph.nodes if n.op != op]


def test_history_tells_changes_and_fusions(module: Module) -> None:
    recorder = Recorder()
    recorder.record("traced", 0.0, module)
    fusion = {"pass": "fuse", "function": "layer_0", "op": "moe_ffn", "consumed": {"mul": 2, "linear": 3}, "loc": ""}
    module.info["provenance"] = [fusion, {**fusion, "function": "layer_1"}]
    drop(module, "concat")
    recorder.record("fuse", 0.5, module)
    recorder.record("idle", 0.0, module)
    first, second = recorder.history()
    assert first["name"] == "fuse" and first["seconds"] == 0.5
    assert first["nodes_before"] - first["nodes_after"] == 1
    assert first["step_operators_before"] - first["step_operators_after"] == 2  # the function is called twice
    assert first["graphs"] == [
        {"graph": "layer_0", "nodes_before": 4, "nodes_after": 3, "removed": {"concat": 1}, "added": {}}
    ]  # fmt: skip
    assert first["fusions"] == [
        {"op": "moe_ffn", "count": 2, "consumed": {"linear": 3, "mul": 2}, "where": ["layer_0", "layer_1"]}
    ]
    assert second["graphs"] == [] and second["fusions"] == []
    assert recorder.launched_before() == 12


def test_a_renamed_function_keeps_its_history(module: Module) -> None:
    recorder = Recorder()
    recorder.record("traced", 0.0, module)
    drop(module, "concat")
    module.functions = {"layer_0_then_mhc_pre": module.functions["layer_0"]}
    for node in module.programs["step"].graph.nodes:
        if node.op == "call":
            node.attrs["function"] = "layer_0_then_mhc_pre"
    recorder.record("chain", 0.0, module)
    (entry,) = recorder.history()
    assert [g["graph"] for g in entry["graphs"]] == ["layer_0_then_mhc_pre"]
    assert entry["graphs"][0]["removed"] == {"concat": 1} and entry["graphs"][0]["added"] == {}
    stages = recorder.lineage("layer_0_then_mhc_pre")
    assert [(s["pass"], s["nodes"]) for s in stages] == [("traced", 4), ("chain", 3)]
    assert stages[0]["kinds"] == {"fused": 3, "movement": 1}


def test_ancestor_takes_whole_names_only() -> None:
    known = ["layer_1", "layer_10", "layer_1_then"]
    assert ancestor("layer_1_then_mhc_pre", known) == "layer_1_then"
    assert ancestor("layer_10", known) == "layer_10" and ancestor("layer_100", known) is None
