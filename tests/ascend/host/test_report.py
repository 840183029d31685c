"""report.html of an Ascend artifact, and `inspect` of it: what its own plan launches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pangu_compile.cli import main
from pangu_compile.driver.targets.ascend_launches import count_launches
from tests.report.test_page import check

if TYPE_CHECKING:
    from conftest import Built


def test_inspect_of_an_artifact(built_bf16: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Caches and activations of 16 bits count two bytes; the page in the artifact tells of the same launches."""
    files = ("--html", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json"))
    assert main(["inspect", str(built_bf16.npu), *files]) == 0
    record = json.loads((tmp_path / "r.json").read_text())
    plan = json.loads((built_bf16.npu / "plan.json").read_text())
    launches = record["ascend"]["launches"]
    assert launches["step"] == count_launches(plan, "program_step").total == launches["kernels"] + launches["vendor_operators"]
    assert record["kind"] == "artifact" and record["plan_agrees"] and record["time"]["chip"]["target"] == "ascend910b"
    assert record["plan"]["cache_bytes_per_token"] == 2 * sum(s["width"] for s in record_states(built_bf16.npu))
    for page in (tmp_path / "r.html", built_bf16.npu / "report.html"):
        found = check(page.read_text())
        assert f"{launches['step']}launches a decode step" in found.text and "simulated" in found.text
    capfd.readouterr()
    assert main(["inspect", str(built_bf16.npu), "--target", "ascend910_93"]) == 2
    assert "was built for ascend910b" in capfd.readouterr().err


def record_states(artifact: Path) -> list[dict[str, int]]:
    """Caches that grow with the context."""
    return [s for s in json.loads((artifact / "manifest.json").read_text())["states"] if s["rows"] is None]
