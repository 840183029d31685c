"""`inspect` from end to end: a small configuration without weights, and the keys that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pangu_compile.cli import main
from pangu_compile.report import Compiled, View, model_summary, render_report
from pangu_compile.report.counts import FUSED, PRIMITIVES
from pangu_compile.report.text import ranges, render_text

CONFIG: dict[str, Any] = {
    "model_type": "openpangu_v2", "vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 3, "kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5,
    "intermediate_size": 96, "q_lora_rank": 10, "num_nextn_predict_layers": 1, "max_position_embeddings": 96,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
    "first_k_dense_replace": 1, "router_enable_expert_bias": True, "routed_scaling_factor": 1.5, "dsa_layers": [0],
    "index_n_heads": 2, "index_head_dim": 6, "index_topk": 9, "swa_layers": [1, 3], "sliding_window_list": [5, 6],
    "param_sink_number": 2, "use_mome": True, "use_mhc": True, "mhc_num_stream": 2, "mhc_recur_norm": 3,
    "mhc_use_gamma": True, "sandwich_norm": True, "block_post_layernorm_idx": [1],
}  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json and nothing else."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bare")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def written(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What `inspect` writes: the page and the record."""
    folder = tmp_path_factory.mktemp("written")
    files = ("--html", str(folder / "r.html"), "--json", str(folder / "r.json"))
    assert main(["inspect", str(bare), *files, "--context", "64", "--target", "ascend910b", "--acceptance", "0.5"]) == 0
    return (folder / "r.html").read_text(), (folder / "r.json").read_text()


@pytest.fixture(scope="module")
def summary(written: tuple[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(written[1])
    return record


def test_every_layer_has_its_own_kind(summary: dict[str, Any]) -> None:
    assert summary["fused"] == {
        "dsa_attention": 1, "swa_attention": 1, "dense_attention": 1, "moe_ffn": 2, "dense_ffn": 1, "mhc_pre": 6, "mhc_post": 6,
    }  # fmt: skip
    assert tuple(summary["fused"]) == FUSED
    assert summary["mtp"]["swa_attention"] == 1 and summary["mtp"]["moe_ffn"] == 1
    assert summary["primitives_left"] == dict.fromkeys(PRIMITIVES, 0)
    kinds = [(layer["attention"], layer["ffn"], layer["block_post_norm"]) for layer in summary["layers"]]
    assert kinds == [("dsa", "dense", False), ("swa", "moe", True), ("dense", "moe", False), ("swa", "moe", False)]
    assert summary["layers"][3]["mtp_head"] == 1 and all("function" in layer for layer in summary["layers"])


def test_decode_numbers(summary: dict[str, Any]) -> None:
    d = summary["decode"]
    assert set(d) >= {"operators_per_layer_before", "operators_per_layer_after", "bytes_per_token", "bytes_minimum", "context"}
    assert d["context"] == 64 and d["operators_per_layer_after"] <= 12 < 100 < d["operators_per_layer_before"]
    assert d["bytes_per_token"] == sum(op["bytes"] for op in summary["operators"])
    assert d["bytes_minimum"] == d["bytes_minimum_weights"] + d["bytes_minimum_caches"]
    assert d["ratio"] == pytest.approx(d["bytes_per_token"] / d["bytes_minimum"], abs=1e-5)
    assert d["ratio"] > 1.0
    overhead = d["bytes_per_token"] - d["bytes_minimum"]
    assert overhead <= 1.2 * d["bytes_activations"] + 8192  # rings and tables are small, and nothing else is there


def test_time_and_speculation(summary: dict[str, Any]) -> None:
    t = summary["time"]
    assert t["step_seconds"] == pytest.approx(sum(op["seconds"] for op in summary["operators"]))
    assert t["tokens_per_second"] == pytest.approx(1 / t["step_seconds"]) and t["chips_needed"] == 1
    s = t["speculation"]
    assert s["acceptance"] == [0.5] and s["expected_tokens_per_step"] == 1.5 and s["verify_tokens"] == 2
    assert s["verify_seconds"] > t["step_seconds"] and s["draft_seconds"] > 0
    assert summary["prefill"]["tokens"] == 64


def test_storage_adds_up(summary: dict[str, Any]) -> None:
    assert sum(k["bytes"] for k in summary["weights_by_kind"]) == summary["plan"]["weight_bytes"]
    assert sum(k["bytes"] for k in summary["weights_by_dtype"]) == summary["plan"]["weight_bytes"]
    caches = summary["caches"]
    assert caches["contexts"][-1] == 96 and set(caches["kinds"]) == {
        "latent_dsa", "latent_dense", "latent_swa", "index_keys", "convolutions", "mtp",
    }  # fmt: skip
    assert all(p["ratio"] <= 1.10 for p in summary["arena"]["programs"].values())


def test_passes_and_graphs(summary: dict[str, Any]) -> None:
    assert len(summary["passes"]) > 5 and all(p["seconds"] >= 0 for p in summary["passes"])
    made = {f["op"] for p in summary["passes"] for f in p["fusions"]}
    assert {"dsa_attention", "swa_attention", "moe_ffn", "mhc_post_pre"} <= made
    assert summary["passes"][-1]["nodes_after"] < summary["passes"][0]["nodes_before"] / 10
    drawn = {layer for g in summary["graphs"] for layer in g["layers"]}
    assert drawn == {"0", "1", "2", "mtp.1"}
    assert all(g["history"][0]["nodes"] > 10 * g["count"] for g in summary["graphs"])


def test_page_and_text(summary: dict[str, Any]) -> None:
    page = render_report(summary)
    assert "sparse (DSA) attention" in page and str(summary["path"]) not in page
    text = render_text(summary)
    assert "program step" in text and "MTP head 1: swa attention window 6, moe ffn" in text and "ratio" in text
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_summary_of_a_hand_made_model(compiled: Compiled, view: View) -> None:
    record = model_summary(compiled, view)
    json.dumps(record, allow_nan=False)
    assert record["decode"]["operators_after"] == 12 and record["time"]["chips_needed"] == 2  # 6720 + 640 bytes
    assert [layer.get("function") for layer in record["layers"]] == ["layer_0", "layer_0", None]
    (graph,) = record["graphs"]
    assert graph["layers"] == ["0", "1"] and [n["op"] for n in graph["nodes"]] == ["linear", "concat", "moe_gate", "moe_ffn"]
    assert graph["nodes"][3]["reads"] == [2] and graph["nodes"][3]["weights"] == 2


def status(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, args)])
    out, err = capfd.readouterr()
    return code, out, err


def test_the_page_shows_the_record(written: tuple[str, str], summary: dict[str, Any]) -> None:
    assert written[0] == render_report(summary)
    assert summary["kind"] == "checkpoint" and summary["time"]["chip"]["target"] == "ascend910b"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--context", "97"), "context 97 is not between 1 and 96"),
        (("--context", "0"), "context 0 is not between"),
        (("--acceptance", "0.5,0.5"), "2 rates, but the model has 1"),
        (("--acceptance", "lots"), "'lots' is not a number"),
        (("--target", "gpu"), "--target"),
        (("--weights", "f16"), "--weights"),
        (("--measure", "--target", "ascend910b"), "--measure"),
        (("--html", "no/such/folder/x.html"), "no/such/folder"),
        (("--html", "."), "is a folder"),
    ],
)
def test_bad_options(bare: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], words: str) -> None:
    code, out, err = status(capfd, bare, *options)
    assert code == 2 and out == "" and words in err and len(err.strip().splitlines()) == 1


def test_bad_paths(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "missing", tmp_path):
        code, _, err = status(capfd, path, "--html", tmp_path / "x.html")
        assert code == 2 and err.startswith("pangu-compile: error:")
    assert not (tmp_path / "x.html").exists()
