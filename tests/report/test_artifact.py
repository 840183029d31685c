"""`inspect` of an artifact: its own plan and context, its configuration compiled again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pangu_compile.driver import summary as driver
from pangu_compile.driver.artifact import ArtifactWriter
from pangu_compile.driver.summary import InspectOptions, summarise
from pangu_compile.errors import UserError
from pangu_compile.ir import Module
from pangu_compile.plan import PlanOptions, make_plan
from pangu_compile.report import Recorder, render_report
from pangu_compile.report.text import render_text

from .conftest import CONFIG, make_module

MANIFEST: dict[str, Any] = {
    "target": "cpu", "weights": "f32", "max_context": 64, "max_chunk": 4, "cpu": {"machine": "x86-64"}, "options": {"mtp": True},
}  # fmt: skip


@pytest.fixture(autouse=True)
def hand_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling CONFIG gives the hand-made module."""

    def optimised(
        opened: object, options: object, recorder: Recorder | None, progress: object, steps: object = None
    ) -> Module:
        module = make_module()
        if recorder is not None:
            recorder.record("traced", 0.0, module)
        return module

    monkeypatch.setattr(driver, "optimised", optimised)


def artifact(folder: Path, plan: dict[str, Any] | None = None, **manifest: Any) -> Path:
    record = plan or make_plan(make_module(), PlanOptions(max_context=64, max_chunk=4)).to_json()
    with ArtifactWriter(folder / "m.pangu") as writer:
        writer.write("plan.json", json.dumps(record))
        return writer.commit({**MANIFEST, "config": CONFIG.to_dict(), **manifest}).path


def test_artifact(tmp_path: Path) -> None:
    record = summarise(artifact(tmp_path))
    assert record["kind"] == "artifact" and record["decode"]["context"] == 64 and record["plan_agrees"]
    assert record["fused"]["moe_ffn"] == 2 and record["plan"]["programs"]["step"]["kernels"] > 0
    assert record["arena"]["programs"]["step"]["bytes"] == record["plan"]["programs"]["step"]["arena_bytes"]
    assert "edited" not in render_report(record) and "edited" not in render_text(record)


def test_context_is_limited_by_the_artifact(tmp_path: Path) -> None:
    path = artifact(tmp_path)
    assert summarise(path, InspectOptions(context=8))["decode"]["context"] == 8
    with pytest.raises(UserError, match="context 65 is not between 1 and 64, the artifact's max-context"):
        summarise(path, InspectOptions(context=65))


def test_weight_format_is_the_artifacts(tmp_path: Path) -> None:
    path = artifact(tmp_path, weights="int8")
    assert summarise(path, InspectOptions(weights="int8"))["weights"] == "int8"
    with pytest.raises(UserError, match="holds int8 weights"):
        summarise(path, InspectOptions(weights="bf16"))


def test_another_plan_is_told(tmp_path: Path) -> None:
    plan = copy.deepcopy(make_plan(make_module(), PlanOptions(max_context=64, max_chunk=4)).to_json())
    for kernel in plan["functions"]["layer_0"]["kernels"]:
        kernel["op"] = {"moe_ffn": "dense_ffn"}.get(kernel["op"], kernel["op"])
    record = summarise(artifact(tmp_path, plan))
    assert not record["plan_agrees"]
    assert "edited model" in render_report(record) and "edited model" in render_text(record)


def test_refused(tmp_path: Path) -> None:
    path = artifact(tmp_path)
    (path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json: damaged"):
        summarise(path)
    with ArtifactWriter(tmp_path / "module.pangu") as writer:
        plain = writer.commit(MANIFEST).path
    with pytest.raises(UserError, match="compiled from a torch module"):
        summarise(plain)
