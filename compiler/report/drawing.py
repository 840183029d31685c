"""Layout of a small graph as a layered drawing: boxes in rows, edges that skip rows in lanes at the side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx

BOX_W, BOX_H, GAP_X, GAP_Y = 216, 42, 14, 22
LANE, MARGIN = 12, 8


def layered(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"width", "height", "boxes": [{node, x, y, w, h}], "edges": [{path, head}]} of nodes with `reads` (positions)."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from((source, i) for i, node in enumerate(nodes) for source in node["reads"])
    level = _levels(graph)
    rows = [sorted(i for i in level if level[i] == y) for y in range(max(level.values(), default=-1) + 1)]
    widest = max((len(row) for row in rows), default=1)
    inner = widest * BOX_W + (widest - 1) * GAP_X
    boxes: dict[int, dict[str, Any]] = {}
    for y, row in enumerate(rows):
        left = MARGIN + (inner - len(row) * BOX_W - (len(row) - 1) * GAP_X) / 2
        for k, i in enumerate(row):
            at = {"x": left + k * (BOX_W + GAP_X), "y": MARGIN + y * (BOX_H + GAP_Y)}
            boxes[i] = {"node": nodes[i], **at, "w": BOX_W, "h": BOX_H}
    straight = [e for e in graph.edges if level[e[1]] == level[e[0]] + 1]
    lanes = _lanes([e for e in graph.edges if level[e[1]] > level[e[0]] + 1], level)
    edges = [_straight(boxes[a], boxes[b]) for a, b in straight]
    edges += [_around(boxes[a], boxes[b], MARGIN + inner + LANE * (lane + 1)) for (a, b), lane in lanes.items()]
    depth = max(lanes.values(), default=-1) + 1
    return {
        "width": 2 * MARGIN + inner + LANE * depth, "height": 2 * MARGIN + len(rows) * (BOX_H + GAP_Y) - GAP_Y,
        "boxes": [boxes[i] for i in sorted(boxes)], "edges": edges,
    }  # fmt: skip


def _levels(graph: nx.DiGraph[int]) -> dict[int, int]:
    """Row of every node: below all that it reads; a node that reads nothing sits right above its first reader."""
    level = {i: y for y, row in enumerate(nx.topological_generations(graph)) for i in row}
    for i in graph:
        if graph.in_degree(i) == 0 and graph.out_degree(i):
            level[i] = min(level[j] for j in graph.successors(i)) - 1
    return level


def _lanes(edges: Sequence[tuple[int, int]], level: Mapping[int, int]) -> dict[tuple[int, int], int]:
    """A lane for every edge such that two in one lane do not run beside the same row (interval colouring)."""
    lanes: dict[tuple[int, int], int] = {}
    for a, b in sorted(edges, key=lambda e: (level[e[1]] - level[e[0]], level[e[0]])):
        busy = {lane for (c, d), lane in lanes.items() if level[a] < level[d] and level[c] < level[b]}
        lanes[(a, b)] = next(n for n in range(len(edges)) if n not in busy)
    return lanes


def _straight(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    x0, y0 = a["x"] + a["w"] / 2, a["y"] + a["h"]
    x1, y1 = b["x"] + b["w"] / 2, b["y"] - 4
    middle = (y0 + y1) / 2
    return {
        "path": f"M{x0:g} {y0:g}C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}",
        "head": f"M{x1 - 4:g} {y1 - 3:g}H{x1 + 4:g}L{x1:g} {y1 + 4:g}z",
    }


def _around(a: Mapping[str, Any], b: Mapping[str, Any], lane: float) -> dict[str, str]:
    """Out of the right edge of `a`, down a lane, into the right edge of `b`."""
    x0, y0 = a["x"] + a["w"], a["y"] + a["h"] * 0.7
    x1, y1 = b["x"] + b["w"] + 4, b["y"] + b["h"] * 0.3
    r = 6
    down = f"H{lane - r:g}Q{lane:g} {y0:g} {lane:g} {y0 + r:g}V{y1 - r:g}Q{lane:g} {y1:g} {lane - r:g} {y1:g}H{x1:g}"
    return {"path": f"M{x0:g} {y0:g}{down}", "head": f"M{x1 + 3:g} {y1 - 4:g}V{y1 + 4:g}L{x1 - 4:g} {y1:g}z"}
