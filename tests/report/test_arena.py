"""Rectangles and ratios of a plan record."""

from __future__ import annotations

from pangu_compile.ir import Module
from pangu_compile.plan import PlanOptions, make_plan
from pangu_compile.report.arena import arena_table
from pangu_compile.report.charts import arena_chart

from .conftest import plan_record


def test_rectangles_of_a_record() -> None:
    table = arena_table(plan_record(), {"step": {}})
    assert table["programs"] == {"step": {"bytes": 512, "largest_live": 448, "ratio": round(512 / 448, 4)}}
    value, scratch = table["frames"]["layer_0"]["rectangles"]
    assert (value["name"], value["bytes"], value["offset"], value["first"], value["last"]) == ("lat f32[T, 5]", 80, 0, 0, 1)
    assert (scratch["kind"], scratch["bytes"], scratch["offset"], scratch["first"]) == ("workspace", 192, 64, 2)
    result, call = table["frames"]["program step"]["rectangles"]
    assert (result["bytes"], result["first"], result["last"]) == (128, 0, 1)
    assert (call["kind"], call["name"], call["bytes"]) == ("call", "layer_0", 256)
    assert table["frames"]["program step"]["kernels"] == ["layer_0", "linear"]


def test_a_real_plan_fits_its_arena(module: Module) -> None:
    table = arena_table(make_plan(module, PlanOptions(max_context=64, max_chunk=4)).to_json(), {"step": {}, "draft_1": {}})
    for name, frame in table["frames"].items():
        boxes = frame["rectangles"]
        assert all(b["offset"] + b["bytes"] <= frame["bytes"] for b in boxes), name
        for i, a in enumerate(boxes):
            for b in boxes[i + 1 :]:
                together = a["first"] <= b["last"] and b["first"] <= a["last"]
                apart = a["offset"] + a["bytes"] <= b["offset"] or b["offset"] + b["bytes"] <= a["offset"]
                assert apart or not together, (name, a, b)
    assert 1.0 <= table["programs"]["step"]["ratio"] <= 1.10


def test_chart_stays_inside_its_frame() -> None:
    chart = arena_chart(arena_table(plan_record(), {"step": {}})["frames"]["program step"])
    assert chart["count"] == 2 and [label["label"] for label in chart["labels"]] == ["layer_0", "linear"]
    for box in chart["boxes"]:
        assert chart["left"] <= box["x"] and box["x"] + box["w"] <= chart["width"]
        assert box["y"] >= 0 and box["y"] + box["h"] <= chart["bottom"] + 0.1


def test_limits_of_a_program_size_its_values() -> None:
    """`T` is at most 1 in this program, so its frame is laid out for that; a program without limits is not drawn."""
    table = arena_table(plan_record(), {"step": {"T": 1}})
    assert table["frames"]["program step"]["rectangles"][0]["bytes"] == 32
    assert table["frames"]["layer_0"]["rectangles"][0]["bytes"] == 80
    assert "program step" not in arena_table(plan_record(), {})["frames"]
