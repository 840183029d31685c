"""The layered drawing of a graph: nothing overlaps, every dependence is drawn once."""

from __future__ import annotations

from typing import Any

import pytest

from pangu_compile.report.charts import Log, spread
from pangu_compile.report.drawing import layered


def nodes(*reads: list[int]) -> list[dict[str, Any]]:
    return [{"op": f"op{i}", "reads": r} for i, r in enumerate(reads)]


LAYER = nodes([], [0], [0, 1], [2], [0, 3], [4], [4, 5], [4, 6])


@pytest.mark.parametrize("graph", [LAYER, nodes([]), nodes([], [], [], [0, 1, 2]), nodes([], [0], [1], [2], [], [3, 4]), []])
def test_boxes_do_not_overlap_and_edges_are_complete(graph: list[dict[str, Any]]) -> None:
    drawing = layered(graph)
    boxes = drawing["boxes"]
    assert len(boxes) == len(graph) and len(drawing["edges"]) == sum(len(n["reads"]) for n in graph)
    for i, a in enumerate(boxes):
        assert a["x"] >= 0 and a["x"] + a["w"] <= drawing["width"] and a["y"] + a["h"] <= drawing["height"]
        for b in boxes[i + 1 :]:
            assert a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or abs(a["y"] - b["y"]) >= a["h"]


def test_readers_are_below_what_they_read() -> None:
    drawing = layered(LAYER)
    height = {b["node"]["op"]: b["y"] for b in drawing["boxes"]}
    for node in LAYER:
        assert all(height[LAYER[source]["op"]] < height[node["op"]] for source in node["reads"])


def test_a_late_source_sits_above_its_reader() -> None:
    drawing = layered(nodes([], [0], [1], [2], [], [3, 4]))
    height = {b["node"]["op"]: b["y"] for b in drawing["boxes"]}
    assert height["op4"] == height["op3"] > height["op0"]


def test_edges_that_run_side_by_side_have_lanes_of_their_own() -> None:
    paths = [e["path"] for e in layered(nodes([], [0], [0, 1], [0, 2]))["edges"] if "H" in e["path"]]
    lanes = [float(p.split("H")[1].split("Q")[0]) for p in paths]
    assert len(lanes) == 2 and len(set(lanes)) == 2


def test_log_axis_and_spread() -> None:
    axis = Log(1, 100, 0, 10)
    assert axis(1) == 0 and axis(10) == 5 and axis(100) == 10 and axis(0) == 0 and axis(1e9) == 10
    assert spread([1, 1, 1], 2, 0, 100) == [1, 3, 5]
    assert spread([9, 9], 2, 0, 9) == [7, 9]
    assert spread([], 2, 0, 9) == []
