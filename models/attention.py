"""Multi-head latent attention with MoME convolutions, parameter sinks, and DSA, SWA or dense visibility."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import OpenPanguConfig
from .layers import IndexNorm, MoMEConv, RMSNorm, rotary, rotate, wide


class Indexer(nn.Module):
    """The lightning indexer of DSA layers; its heads carry the rotary part FIRST."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        self.c = config
        source = config.q_lora_rank if config.q_lora_rank is not None else config.hidden_size
        self.wq_b = nn.Linear(source, config.index_n_heads * config.index_head_dim, bias=False)
        self.wk = nn.Linear(config.hidden_size, config.index_head_dim, bias=False)
        self.k_norm = IndexNorm(config.index_head_dim, config.index_k_norm_bias)
        self.weights_proj = nn.Linear(config.hidden_size, config.index_n_heads, bias=False)

    def scores(self, u: Tensor, query_input: Tensor, positions: Tensor) -> Tensor:
        """[B, T, T] (query, key), not yet causal."""
        c = self.c
        cos, sin = rotary(positions, c.qk_rope_head_dim, c.rope_theta, u.dtype)
        rope = c.qk_rope_head_dim
        q = self.wq_b(query_input).view(*u.shape[:2], c.index_n_heads, c.index_head_dim)
        q = torch.cat([rotate(q[..., :rope], cos[:, None], sin[:, None]), q[..., rope:]], -1)
        k = self.k_norm(self.wk(u))
        k = torch.cat([rotate(k[..., :rope], cos, sin), k[..., rope:]], -1)
        precise = wide(u.dtype)
        weight = (self.weights_proj(u) * c.index_n_heads**-0.5).to(precise)
        dots = torch.einsum("bthd,bsd->bths", q.to(precise), k.to(precise)) * c.index_head_dim**-0.5
        return torch.einsum("bths,bth->bts", dots.relu(), weight)


class Attention(nn.Module):
    """One layer's attention; `layer` decides its kind and window."""

    def __init__(self, config: OpenPanguConfig, layer: int):
        super().__init__()
        c = self.c = config
        self.kind, self.window = c.attention_kind(layer), c.window(layer)
        heads, qk = c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim
        if c.q_lora_rank is None:
            self.q_proj = nn.Linear(c.hidden_size, heads * qk, bias=False)
        else:
            self.q_a_proj = nn.Linear(c.hidden_size, c.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
            self.q_b_proj = nn.Linear(c.q_lora_rank, heads * qk, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.rms_norm_eps)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * c.v_head_dim, c.hidden_size, bias=False)
        if c.use_mome:
            if c.q_lora_rank is not None:
                self.qa_conv = MoMEConv(c.q_lora_rank, c.conv_width)
            self.compresskv_conv = MoMEConv(c.kv_lora_rank, c.conv_width)
            self.o_conv = MoMEConv(heads * c.v_head_dim, c.conv_width)
        if c.param_sink_number:
            self.param_sink_compressed_kv = nn.Parameter(torch.zeros(c.param_sink_number, c.kv_lora_rank))
            self.param_sink_k_pe = nn.Parameter(torch.zeros(c.param_sink_number, c.qk_rope_head_dim))
        if self.kind == "dsa":
            self.indexer = Indexer(c)

    def forward(self, u: Tensor, positions: Tensor) -> Tensor:
        """u [B, T, H], positions [T] for RoPE -> [B, T, H]."""
        c = self.c
        batch, tokens = u.shape[:2]
        query_input, q = self._query(u)
        cos, sin = rotary(positions, c.qk_rope_head_dim, c.rope_theta, u.dtype)
        nope = c.qk_nope_head_dim
        q = torch.cat([q[..., :nope], rotate(q[..., nope:], cos[:, None], sin[:, None])], -1)
        kv = self.kv_a_proj_with_mqa(u)
        latent, k_pe = kv[..., : c.kv_lora_rank], rotate(kv[..., c.kv_lora_rank :], cos, sin)
        if c.use_mome:
            latent = latent + self.compresskv_conv(latent)
        if c.param_sink_number:
            sink = self.param_sink_compressed_kv.to(u.dtype).expand(batch, -1, -1)
            latent = torch.cat([sink, latent], 1)
            k_pe = torch.cat([self.param_sink_k_pe.to(u.dtype).expand(batch, -1, -1), k_pe], 1)
        expanded = self.kv_b_proj(self.kv_a_layernorm(latent))
        expanded = expanded.view(batch, -1, c.num_attention_heads, nope + c.v_head_dim)
        shared = k_pe[:, :, None].expand(-1, -1, c.num_attention_heads, -1)
        k = torch.cat([expanded[..., :nope], shared], -1)
        scores = torch.einsum("bthd,bshd->bhts", q, k) * (nope + c.qk_rope_head_dim) ** -0.5
        visible = self._visible(u, query_input, positions)
        sinks = torch.ones(batch, tokens, c.param_sink_number, dtype=torch.bool, device=u.device)
        visible = torch.cat([sinks, visible], -1)
        weights = torch.softmax(scores.masked_fill(~visible[:, None], float("-inf")), -1)
        out = torch.einsum("bhts,bshd->bthd", weights, expanded[..., nope:]).reshape(batch, tokens, -1)
        if c.use_mome:
            out = out + self.o_conv(out)
        return self.o_proj(out)

    def _query(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(what the indexer's queries are projected from, main queries [B, T, h, nope + rope])."""
        c = self.c
        if c.q_lora_rank is None:
            source, q = u, self.q_proj(u)
        else:
            low = self.q_a_proj(u)
            if c.use_mome:
                low = low + self.qa_conv(low)
            source = self.q_a_layernorm(low)
            q = self.q_b_proj(source)
        return source, q.view(*u.shape[:2], c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim)

    def _visible(self, u: Tensor, query_input: Tensor, positions: Tensor) -> Tensor:
        """[B, T, T]: may query t read key s? (Sinks are outside of this mask.)"""
        tokens = u.shape[1]
        index = torch.arange(tokens, device=u.device)
        distance = index[:, None] - index[None, :]
        visible = (distance >= 0).expand(u.shape[0], -1, -1)
        if self.kind == "swa":
            visible = visible & (distance < self.window)
        elif self.kind == "dsa" and tokens > self.c.index_topk:
            scores = self.indexer.scores(u, query_input, positions).masked_fill(~visible, float("-inf"))
            order = torch.sort(scores, dim=-1, descending=True, stable=True)[1]
            chosen = torch.zeros_like(visible).scatter(-1, order[..., : self.c.index_topk], True)
            visible = visible & chosen
        return visible
