"""CPU reference implementations of the vendor operators that generated programs call, for machines without an NPU.

They compute the semantics that the vendor documents, in float32, and refuse what the documentation does not allow, so that a
call that would fail on the chip fails here too. `register()` puts them into torch.library under namespace `npu` with the
vendor's own schemas; where torch_npu is importable nothing of this is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIXTEEN = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, *SIXTEEN)
STREAMS = (4, 6, 8)
NO_LIMIT = 9223372036854775807


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"not allowed by the operator's documentation: {what}")


def rms(x: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Normed x in float32 and 1 / rms."""
    wide = x.float()
    axes = tuple(range(x.dim() - gamma.dim(), x.dim()))
    rstd = torch.rsqrt((wide * wide).mean(axes, keepdim=True) + eps)
    return wide * rstd * gamma.float(), rstd


def npu_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    expect(input.dtype in FLOATS and gamma.dtype == input.dtype, f"npu_rms_norm of {input.dtype} with gamma {gamma.dtype}")
    y, rstd = rms(input, gamma, epsilon)
    return y.to(input.dtype), rstd


def npu_add_rms_norm(x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    expect(x1.dtype in FLOATS and x1.dtype == x2.dtype == gamma.dtype, "npu_add_rms_norm of unlike dtypes")
    expect(x1.shape == x2.shape, f"npu_add_rms_norm of {tuple(x1.shape)} and {tuple(x2.shape)}")
    total = x1.float() + x2.float()
    y, rstd = rms(total, gamma, epsilon)
    return y.to(x1.dtype), rstd, total.to(x1.dtype)


def npu_rotary_mul(input: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None) -> Tensor:
    batch, tokens, heads, width = input.shape
    expect(rotary_mode == "half" and rotate is None, "only the half mode has a reference here")
    expect(width % 2 == 0 and width < 896 and batch < 1000 and heads < 1000, f"npu_rotary_mul of {tuple(input.shape)}")
    expect(r1.shape == r2.shape == (1, tokens, 1, width), f"npu_rotary_mul with r1 {tuple(r1.shape)}")
    expect(input.dtype in FLOATS and r1.dtype == r2.dtype == input.dtype, "npu_rotary_mul of unlike dtypes")
    first, second = input.float().chunk(2, -1)
    return (r1.float() * input.float() + r2.float() * torch.cat([-second, first], -1)).to(input.dtype)


def npu_swiglu(input: Tensor, dim: int = -1) -> Tensor:
    expect(input.dtype in FLOATS and input.shape[dim] % 2 == 0, f"npu_swiglu of {input.dtype} {tuple(input.shape)}")
    a, b = input.float().chunk(2, dim)
    return (a * torch.sigmoid(a) * b).to(input.dtype)


def npu_moe_gating_top_k(
    x: Tensor, k: int, *, bias: Tensor | None = None, input_ids: Tensor | None = None, tid2eid: Tensor | None = None,
    k_group: int = 1, group_count: int = 1, group_select_mode: int = 0, renorm: int = 0, norm_type: int = 0,
    out_flag: bool = False, routed_scaling_factor: float = 1.0, eps: float = 1e-20,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    expect(x.dim() == 2 and x.dtype in FLOATS, f"npu_moe_gating_top_k of {x.dtype} {tuple(x.shape)}")
    expect(2 < x.shape[1] <= 2048 and 1 <= k <= x.shape[1], f"{k} of {x.shape[1]} experts")
    expect(bias is None or (bias.dtype == x.dtype and bias.shape == x.shape[1:]), "npu_moe_gating_top_k with another bias")
    plain = norm_type == 1 and group_count == 1 and k_group == 1 and input_ids is None
    expect(plain, "only ungrouped sigmoid has a reference here")
    scores = torch.sigmoid(x.float())
    biased = scores if bias is None else scores + bias.float()
    index = torch.sort(biased, dim=-1, descending=True, stable=True).indices[:, :k]
    weight = scores.gather(-1, index)
    weight = weight / (weight.sum(-1, keepdim=True) + eps) * routed_scaling_factor
    return weight.to(x.dtype), index.to(torch.int32), scores if out_flag else x.new_empty(0, dtype=torch.float32)


def npu_moe_init_routing_v2(
    x: Tensor, expert_idx: Tensor, *, scale: Tensor | None = None, offset: Tensor | None = None, active_num: int = -1,
    expert_capacity: int = -1, expert_num: int = -1, drop_pad_mode: int = 0, expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False, quant_mode: int = -1, active_expert_range: Any = (), row_idx_type: int = 0,
    x_dtype: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    expect(expert_idx.dtype == torch.int32 and expert_idx.dim() == 2, f"experts {expert_idx.dtype} {tuple(expert_idx.shape)}")
    expect(quant_mode == -1 and drop_pad_mode == 0 and row_idx_type == 0, "only the plain mode has a reference here")
    expect(expert_tokens_num_type == 1 and expert_tokens_num_flag, "npu_moe_init_routing_v2 gives counts only with type 1")
    expect(list(active_expert_range) == [0, expert_num] and expert_num > 0, f"active_expert_range {active_expert_range}")
    flat = expert_idx.flatten().long()
    expect(active_num in (-1, 0, flat.numel()), f"active_num {active_num} for {flat.numel()} rows")
    order = torch.sort(flat, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(flat.numel())
    counts = torch.bincount(flat, minlength=expert_num)
    return x[order // expert_idx.shape[1]], place.to(torch.int32), counts, torch.empty(flat.numel(), dtype=torch.float32)


def npu_grouped_matmul(
    x: list[Tensor], weight: list[Tensor], *, bias: Any = None, scale: Any = None, offset: Any = None,
    antiquant_scale: Any = None, antiquant_offset: Any = None, per_token_scale: Any = None, group_list: Tensor | None = None,
    activation_input: Any = None, activation_quant_scale: Any = None, activation_quant_offset: Any = None,
    split_item: int | None = 0, group_type: int | None = None, group_list_type: int | None = 0, act_type: int | None = 0,
    tuning_config: Any = None, output_dtype: Any = None, x_dtype: Any = None, weight_dtype: Any = None, scale_dtype: Any = None,
    per_token_scale_dtype: Any = None,
) -> list[Tensor]:  # fmt: skip
    expect(len(x) == len(weight) == 1 and x[0].dim() == 2 and weight[0].dim() == 3, "one matrix and one stack of weights")
    expect(x[0].dtype == weight[0].dtype and x[0].dtype in FLOATS, f"npu_grouped_matmul of {x[0].dtype} and {weight[0].dtype}")
    counted = group_list is not None and group_list.dtype == torch.int64 and len(group_list) == len(weight[0]) > 1
    expect(counted, f"groups {group_list}")
    plain = split_item in (2, 3) and group_type == 0 and group_list_type == 1 and act_type == 0
    expect(plain, "only counted rows have a reference here")
    assert group_list is not None
    expect(int(group_list.sum()) == len(x[0]), f"{int(group_list.sum())} rows in groups of {len(x[0])}")
    parts = torch.split(x[0].float(), group_list.tolist())
    return [torch.cat([p @ w.float() for p, w in zip(parts, weight[0], strict=True)]).to(x[0].dtype)]


def npu_moe_token_unpermute(
    permuted_tokens: Tensor, sorted_indices: Tensor, probs: Tensor | None = None, padded_mode: bool = False,
    restore_shape: Any = None,
) -> Tensor:  # fmt: skip
    plain = sorted_indices.dtype == torch.int32 and not padded_mode and restore_shape is None
    expect(plain, "npu_moe_token_unpermute wants int32 indices, unpadded")
    expect(probs is None or probs.dtype in FLOATS, "probs of another dtype")
    k = 1 if probs is None else probs.shape[1]
    rows = permuted_tokens.float()[sorted_indices.long()].view(-1, k, permuted_tokens.shape[1])
    return (rows if probs is None else rows * probs.float()[..., None]).sum(1).to(permuted_tokens.dtype)


def npu_lightning_indexer(
    query: Tensor, key: Tensor, weights: Tensor, *, actual_seq_lengths_query: Tensor | None = None,
    actual_seq_lengths_key: Tensor | None = None, block_table: Tensor | None = None, layout_query: str = "BSND",
    layout_key: str = "BSND", sparse_count: int = 2048, sparse_mode: int = 3, pre_tokens: int = NO_LIMIT,
    next_tokens: int = NO_LIMIT, return_value: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    expect(query.dtype in SIXTEEN and query.dtype == key.dtype == weights.dtype, "npu_lightning_indexer wants 16-bit operands")
    expect(layout_query == layout_key == "BSND" and query.shape[0] == 1 and sparse_mode == 3, "only one BSND sequence, causal")
    expect(query.shape[3] == key.shape[3] == 128 and key.shape[2] == 1 and query.shape[2] <= 64, f"heads {tuple(query.shape)}")
    expect(query.is_contiguous() and key.is_contiguous() and weights.is_contiguous(), "contiguous operands")
    expect(1 <= sparse_count <= 2048 or sparse_count in range(3072, 8193, 1024), f"sparse_count {sparse_count}")
    tokens, rows = query.shape[1], key.shape[1]
    dots = torch.relu(torch.einsum("thd,sd->ths", query[0].float(), key[0, :, 0].float()))
    scores = torch.einsum("th,ths->ts", weights[0].float(), dots)
    own = torch.arange(rows - tokens, rows)[:, None]
    scores = scores.masked_fill(torch.arange(rows)[None, :] > own, float("-inf"))
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :sparse_count]
    chosen = torch.full((tokens, sparse_count), -1, dtype=torch.int32)
    chosen[:, : order.shape[1]] = torch.where(order <= own, order, -1)
    return chosen[None, :, None, :], torch.empty(0, dtype=query.dtype)


def npu_sparse_flash_attention(
    query: Tensor, key: Tensor, value: Tensor | None, sparse_indices: Tensor, scale_value: float, *,
    block_table: Tensor | None = None, actual_seq_lengths_query: Tensor | None = None,
    actual_seq_lengths_kv: Tensor | None = None, query_rope: Tensor | None = None, key_rope: Tensor | None = None,
    sparse_block_size: int = 1, layout_query: str = "BSND", layout_kv: str = "BSND", sparse_mode: int = 3,
    pre_tokens: int = NO_LIMIT, next_tokens: int = NO_LIMIT, attention_mode: int = 0, return_softmax_lse: bool = False,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    sixteen = query.dtype in SIXTEEN and query.dtype == key.dtype and value is not None
    expect(sixteen, "npu_sparse_flash_attention wants 16-bit operands")
    expect(query_rope is not None and key_rope is not None and attention_mode == 2, "queries and keys with a rotary part, mode 2")
    assert query_rope is not None and key_rope is not None and value is not None
    expect(layout_query == layout_kv == "BSND" and query.shape[0] == 1 and key.shape[2] == 1, "only one BSND sequence")
    expect(query.shape[3] == key.shape[3] == 512 and query_rope.shape[3] == key_rope.shape[3] == 64, "widths 512 and 64")
    expect(all(t.is_contiguous() for t in (query, key, value, query_rope, key_rope, sparse_indices)), "contiguous operands")
    plain = sparse_indices.dtype == torch.int32 and sparse_block_size == 1 and sparse_mode == 3 and sinks is None
    expect(plain, "int32 rows, causal")
    expect(1 <= query.shape[2] <= 128 and not return_softmax_lse, f"{query.shape[2]} heads")
    chosen = sparse_indices[0, :, 0].long()
    valid = chosen >= 0
    expect(bool((valid[:, :-1] | ~valid[:, 1:]).all()), "valid rows come before invalid ones")
    tokens, rows = query.shape[1], key.shape[1]
    seen = valid & (chosen <= torch.arange(rows - tokens, rows)[:, None])
    keys = torch.cat([key, key_rope], -1)[0, :, 0].float()[chosen.clamp(min=0)]
    scores = torch.einsum("thc,tkc->thk", torch.cat([query, query_rope], -1)[0].float(), keys) * scale_value
    weights = torch.softmax(scores.masked_fill(~seen[:, None, :], float("-inf")), -1)
    out = torch.einsum("thk,tkc->thc", weights, value[0, :, 0].float()[chosen.clamp(min=0)])
    empty = torch.empty(0, dtype=torch.float32)
    return out[None].to(query.dtype), empty, empty.clone()


def npu_mhc_pre(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, *, gamma: Tensor | None = None, norm_eps: float = 1e-6,
    hc_eps: float = 1e-6, out_flag: int = 0, inner_precise: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    tokens, n, width = x.shape
    expect(x.dtype in SIXTEEN and n in STREAMS and width % 16 == 0 and width <= 16384, f"npu_mhc_pre of {x.dtype} {tuple(x.shape)}")
    expect(all(t.dtype == torch.float32 for t in (phi, alpha, bias)) and alpha.shape == (3,), "float32 parameters")
    expect(gamma is None or gamma.shape == (n, width), "gamma [n, D]")
    flat = x.float().reshape(tokens, -1)
    inv_rms = torch.rsqrt((flat * flat).mean(-1) + norm_eps)
    mixed = (flat if gamma is None else flat * gamma.flatten()) @ phi.t()
    w = mixed * inv_rms[:, None]
    pre = torch.sigmoid(w[:, :n] * alpha[0] + bias[:n]) + hc_eps
    post = 2 * torch.sigmoid(w[:, n : 2 * n] * alpha[1] + bias[n : 2 * n])
    raw = (w[:, 2 * n :] * alpha[2] + bias[2 * n :]).view(tokens, n, n)
    branch = (pre[:, :, None] * x.float()).sum(1).to(x.dtype)
    return branch, post, raw, inv_rms, mixed, pre


def npu_mhc_sinkhorn(x: Tensor, *, eps: float = 1e-6, num_iters: int = 20, out_flag: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    expect(x.dtype == torch.float32 and x.shape[-1] in STREAMS and 1 <= num_iters <= 100, f"npu_mhc_sinkhorn of {tuple(x.shape)}")
    r = torch.softmax(x, -1) + eps
    r = r / (r.sum(-2, keepdim=True) + eps)
    for _ in range(num_iters - 1):
        r = r / (r.sum(-1, keepdim=True) + eps)
        r = r / (r.sum(-2, keepdim=True) + eps)
    return r, x.new_empty(0), x.new_empty(0)


def npu_mhc_post(x: Tensor, h_res: Tensor | None, h_out: Tensor, h_post: Tensor) -> Tensor:
    expect(x.dtype in SIXTEEN and x.dtype == h_out.dtype and x.shape[1] in STREAMS, f"npu_mhc_post of {x.dtype} {tuple(x.shape)}")
    expect(h_res is not None and h_res.dtype == h_post.dtype == torch.float32, "float32 matrices")
    assert h_res is not None
    total = torch.einsum("tij,tih->tjh", h_res, x.float()) + h_post[:, :, None] * h_out.float()[:, None, :]
    return total.to(x.dtype)


def npu_fused_causal_conv1d(
    x: Tensor, weight: Tensor, conv_states: Tensor, *, query_start_loc: Tensor | None = None,
    cache_indices: Tensor | None = None, initial_state_mode: Tensor | None = None, bias: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None, activation: str | None = "None", pad_slot_id: int | None = -1,
    run_mode: int | None = 0, residual_connection: int | None = 0, max_query_len: int | None = -1,
    num_computed_tokens: Tensor | None = None, block_idx_first_scheduled_token: Tensor | None = None,
    block_idx_last_scheduled_token: Tensor | None = None, initial_state_idx: Tensor | None = None,
    block_size: int | None = 128, conv_mode: str | None = "default",
) -> Tensor:  # fmt: skip
    expect(x.dtype in SIXTEEN and x.dim() == 2 and x.shape[1] % 128 == 0, f"npu_fused_causal_conv1d of {x.dtype} {tuple(x.shape)}")
    expect(weight.shape == (3, x.shape[1]) and conv_states.shape == (1, 2, x.shape[1]), "a kernel [3, dim], one state [2, dim]")
    plain = conv_mode == "pangu" and num_computed_tokens is not None and cache_indices is None
    expect(plain, "only one pangu sequence has a reference here")
    expect(query_start_loc is not None and query_start_loc.tolist() == [0, len(x)] and num_accepted_tokens is None, "one sequence")
    assert num_computed_tokens is not None
    before = int(num_computed_tokens[0])
    history = conv_states[0].float() if before else torch.zeros_like(conv_states[0], dtype=torch.float32)
    rows = torch.cat([history, x.float()])
    y = sum((rows[tap : tap + len(x)] * weight[tap].float() for tap in range(3)), torch.zeros_like(x, dtype=torch.float32))
    y[: max(0, 2 - before)] = 0
    conv_states.copy_(rows[-2:].to(conv_states.dtype)[None])
    return (y + x.float() if residual_connection else y).to(x.dtype)


IMPLEMENTATIONS: tuple[Callable[..., Any], ...] = (
    npu_rms_norm, npu_add_rms_norm, npu_rotary_mul, npu_swiglu, npu_moe_gating_top_k, npu_moe_init_routing_v2,
    npu_grouped_matmul, npu_moe_token_unpermute, npu_lightning_indexer, npu_sparse_flash_attention, npu_mhc_pre,
    npu_mhc_sinkhorn, npu_mhc_post, npu_fused_causal_conv1d,
)  # fmt: skip
_LIBRARIES: list[torch.library.Library] = []


def register(schemas: Path | None = None) -> None:
    """Define the operators under namespace `npu`, once in a process, with the schemas of that file (default: beside this)."""
    path = schemas or Path(__file__).with_name("npu_schemas.json")
    texts = json.loads(path.read_text(encoding="utf-8"))["schemas"]
    for function in IMPLEMENTATIONS:
        name = function.__name__
        if torch._C._dispatch_has_kernel(f"npu::{name}"):
            continue
        library = torch.library.Library("npu", "FRAGMENT")
        library.define(texts[name])
        library.impl(name, function, "CPU")
        _LIBRARIES.append(library)
