"""Traced layers as text: what the fusion rules are tested on, small enough to read and to edit.

`python -m tests.passes.cases` traces the models below again and rewrites cases/*.ir; a test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path

from pangu_compile.ir import Graph, Module, Program, Role, parse_graph, print_graph
from pangu_compile.models.config import OpenPanguConfig

FOLDER = Path(__file__).parent / "cases"
COMMON = {
    "vocab_size": 11, "hidden_size": 6, "num_attention_heads": 2, "kv_lora_rank": 5, "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 4, "v_head_dim": 3, "intermediate_size": 7, "max_position_embeddings": 64, "rope_theta": 100.0,
    "rms_norm_eps": 1e-5, "index_n_heads": 2, "index_head_dim": 6, "index_topk": 4, "num_hidden_layers": 3,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "first_k_dense_replace": 1,
    "dsa_layers": [0], "swa_layers": [1], "sliding_window": 3, "routed_scaling_factor": 2.5,
}  # fmt: skip
MODELS = {
    "full": {
        "q_lora_rank": 4, "param_sink_number": 2, "use_mome": True, "router_sliding_window": 3, "use_mhc": True,
        "mhc_num_stream": 2, "mhc_recur_norm": 3, "mhc_use_gamma": True, "sandwich_norm": True, "n_shared_experts": 1,
        "norm_topk_prob": True, "router_enable_expert_bias": True, "block_post_layernorm_idx": [0, 1, 2],
    },
    "bare": {
        "q_lora_rank": None, "param_sink_number": 0, "use_mome": False, "use_mhc": False, "sandwich_norm": False,
        "n_shared_experts": 0, "norm_topk_prob": False, "router_enable_expert_bias": False, "index_k_norm_bias": True,
    },
    # The streams read the experts' sum with nothing between.
    "streams": {
        "num_hidden_layers": 1, "first_k_dense_replace": 0, "dsa_layers": [], "swa_layers": [], "q_lora_rank": None,
        "param_sink_number": 0, "use_mome": False, "use_mhc": True, "mhc_num_stream": 2, "mhc_recur_norm": 2,
        "mhc_use_gamma": False, "sandwich_norm": False, "n_shared_experts": 0, "norm_topk_prob": True,
        "router_enable_expert_bias": False,
    },
}  # fmt: skip


NOISE = r"^p_|layer_|self_attn_|_module|_weight|branch_|mlp_(?=gate|up|down|experts|shared|e_score)"


def config(name: str) -> OpenPanguConfig:
    return OpenPanguConfig.from_dict({**COMMON, **MODELS[name]})


def traced() -> dict[str, str]:
    """Case name -> text, from torch.export and the passes before the fusions."""
    from pangu_compile.models.programs import build_programs
    from pangu_compile.passes import PASSES
    from pangu_compile.trace import trace_programs

    texts = {}
    before = next(i for i, p in enumerate(PASSES) if p.name == "fuse_layers")
    for model in MODELS:
        module = trace_programs(build_programs(config(model), steps=()))
        for step in PASSES[:before]:
            step.run(module)
        for graph in module.graphs():
            graph.rename()
        for index, graph in enumerate(module.functions.values()):
            case = f"{model}_{config(model).attention_kind(index)}"
            texts[case] = _plain(graph, case)
    return texts


def _plain(graph: Graph, name: str) -> str:
    """Without locations, and with parameters named for what they are."""
    states = iter(("latent",) + (("index",) if name.endswith("dsa") else ()) + ("conv_q", "conv_kv", "conv_o"))
    for i, param in enumerate(graph.params):
        if re.fullmatch(r"a\d+", param.name):
            param.name = ("x", "start", "positions")[i] if i < 3 else next(states)
        else:
            param.name = re.sub(NOISE, "", param.name)
    graph.name = name
    for node in graph.nodes:
        node.loc = ""
    return print_graph(graph)


def text_of(case: str) -> str:
    return (FOLDER / f"{case}.ir").read_text(encoding="utf-8")


INPUTS = {"x", "start", "positions", "latent", "index", "conv_q", "conv_kv", "conv_o"}


def module_of(text: str) -> Module:
    """One program; parameters that are not inputs or states are weights."""
    graph = parse_graph(text)
    roles = [Role("input" if p.name in INPUTS else "weight", p.name) for p in graph.params]
    weights = {p.name: p.type for p in graph.params if p.name not in INPUTS}
    outputs = [Role("output", f"out{i}") for i in range(len(graph.outputs))]
    return Module(programs={"f": Program(graph, roles, outputs, ("T", "S"))}, weights=weights)


def ops(module: Module) -> list[str]:
    return [n.op for n in module.programs["f"].graph.nodes]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case, text in traced().items():
        (FOLDER / f"{case}.ir").write_text(text, encoding="utf-8")
        print(case, len(text.splitlines()))
