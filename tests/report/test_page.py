"""The HTML page: self-contained, well-formed, the same bytes for the same summary."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from pangu_compile.report import Compiled, View, model_summary, render_report
from pangu_compile.report.units import human_bytes, human_count, human_rate, human_seconds, human_tokens

VOID = {"meta", "br", "path", "rect", "circle"}


class Checker(HTMLParser):
    """Every element is closed in order; collects text, ids and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def summary(compiled: Compiled, view: View) -> dict[str, Any]:
    plan = {"weight_bytes": 4096, "cache_bytes_per_token": 40, "cache_bytes_fixed": 0, "programs": {}}
    return {**model_summary(compiled, view), "plan": plan}


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_well_formed_and_self_contained(summary: dict[str, Any]) -> None:
    page = render_report(summary)
    found = check(page)
    assert page.startswith("<!DOCTYPE html>") and found.tags.count("svg") >= 5
    assert len(found.ids) == len(set(found.ids))
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert not re.search(r"https?://|//[a-z]|@import|url\(|<link|<img|<iframe", page.replace("// Everything", ""))
    for word in ("moe_ffn", "moe_gate", "fuse_moe", "test chip", "layers 0-1", "MTP", "tokens a step"):
        assert word in page, word
    assert "NaN" not in page and "None" not in found.text and "Undefined" not in page


def test_same_summary_same_bytes_and_no_times(summary: dict[str, Any]) -> None:
    page = render_report(summary)
    later = copy.deepcopy(summary)
    for entry in later["passes"]:
        entry["seconds"] = 123.456
    later["path"] = "/somewhere/else"
    assert render_report(later) == page == render_report(json.loads(json.dumps(summary)))


def test_names_are_escaped(summary: dict[str, Any]) -> None:
    summary["passes"][0]["name"] = "<script>alert(1)</script>"
    summary["time"]["chip"]["name"] = 'x" onload="y'
    page = render_report(summary)
    check(page)
    assert "<script>alert" not in page and 'onload="y' not in page


def test_a_model_without_drafts_or_passes(summary: dict[str, Any]) -> None:
    del summary["time"]["speculation"]
    summary["layers"] = [layer for layer in summary["layers"] if "mtp_head" not in layer]
    summary["passes"] = []
    for graph in summary["graphs"]:
        graph["history"] = []
    found = check(render_report(summary))
    assert "speculation" not in found.ids and "speculative" not in found.text and "MTP heads draft" not in found.text


def test_light_dark_narrow_and_print_styles(summary: dict[str, Any]) -> None:
    page = render_report(summary)
    for part in ("prefers-color-scheme: dark", "max-width: 560px", 'name="viewport"', ":focus-visible", "@media print"):
        assert part in page
    assert page.count("<details") >= 2 and 'lang="en"' in page


def test_units() -> None:
    assert human_bytes(0) == "0 B" and human_bytes(1536) == "1.50 KiB" and human_bytes(11 << 30) == "11 GiB"
    assert human_count(97_800_000_000) == "97.8 B" and human_count(5) == "5"
    assert human_rate(1.152e12, "B/s") == "1.15 TB/s" and human_rate(2.0, "flop") == "2 flop"
    assert human_seconds(0.0226) == "22.6 ms" and human_seconds(2.5e-7) == "250 ns" and human_seconds(1e-12) == "under 1 ns"
    assert human_tokens(524288) == "512K" and human_tokens(5000) == "5,000"
