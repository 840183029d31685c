"""The building blocks of openpangu_v2 on whole sequences: clear, batched, differentiable, in any float dtype.

Shapes: B sequences of T tokens. Keys and values are expanded per head and masks are explicit here; the latent form is
in `programs.py`, and the two are compared in the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import OpenPanguConfig

MHC_EPS = 1e-6
ROUTER_EPS = 1e-20


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32: what the router, mHC and the indexer's scores are computed in."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.to(wide(x.dtype))
        scaled = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


class IndexNorm(nn.Module):
    """The indexer's k_norm: RMSNorm with eps 1e-6, or a LayerNorm where the checkpoint carries a bias."""

    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return nn.functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class MoMEConv(nn.Module):
    """Depthwise causal convolution whose output is zero at the first k-1 positions (conv_mode "pangu")."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> the convolution's contribution [B, T, C]."""
        k = self.weight.shape[-1]
        y = torch.zeros_like(x)
        if x.shape[1] >= k:
            rows = x.shape[1] - (k - 1)
            total = x[:, :rows] * self.weight[:, 0, 0]
            for j in range(1, k):
                total = total + x[:, j : rows + j] * self.weight[:, 0, j]
            y = torch.cat([y[:, : k - 1], total], 1)
        return y


def rotary(positions: Tensor, dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [T, dim/2], angles in float64."""
    exponent = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64) / dim
    angle = positions.to(torch.float64)[:, None] / theta**exponent
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half rotation of the last axis; x [.., T, d] or [.., T, heads, d] with cos/sin shaped to broadcast."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class MHC(nn.Module):
    """Manifold-constrained hyper-connections around one branch: `pre` reads the streams, `post` writes them."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        n, width = config.mhc_num_stream, config.mhc_num_stream * config.hidden_size
        self.n, self.recur, self.eps = n, config.mhc_recur_norm, config.rms_norm_eps
        self.phi = nn.Linear(width, n * (n + 2), bias=False)
        self.branch_alpha = nn.Parameter(torch.ones(3))
        self.branch_beta = nn.Parameter(torch.zeros(n * (n + 2)))
        self.norm_gamma = nn.Parameter(torch.ones(width)) if config.mhc_use_gamma else None

    def pre(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Streams [.., n, H] -> (branch input [.., H], h_post [.., n], R [.., n, n])."""
        n, m = self.n, mhc_project(x, self.phi.weight, self.norm_gamma, self.eps)
        alpha, beta = self.branch_alpha.to(m.dtype), self.branch_beta.to(m.dtype)
        h_pre = torch.sigmoid(alpha[0] * m[..., :n] + beta[:n]) + MHC_EPS
        h_post = 2 * torch.sigmoid(alpha[1] * m[..., n : 2 * n] + beta[n : 2 * n])
        raw = (alpha[2] * m[..., 2 * n :] + beta[2 * n :]).reshape(*m.shape[:-1], n, n)
        mixed = (h_pre[..., None] * x.to(m.dtype)).sum(-2)
        return mixed.to(x.dtype), h_post, sinkhorn(raw, self.recur)

    def post(self, x: Tensor, out: Tensor, h_post: Tensor, res: Tensor) -> Tensor:
        """X'[j] = h_post[j] * out + sum_i R[i, j] * X[i]."""
        streams = x.to(res.dtype)
        kept = (res[..., :, :, None] * streams[..., :, None, :]).sum(-3)
        return (h_post[..., None] * out.to(res.dtype)[..., None, :] + kept).to(x.dtype)


class MergeMHC(nn.Module):
    """The tail: streams -> one hidden vector."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        n, width = config.mhc_num_stream, config.mhc_num_stream * config.hidden_size
        self.eps = config.rms_norm_eps
        self.phi = nn.Linear(width, n, bias=False)
        self.branch_alpha_pre = nn.Parameter(torch.ones(1))
        self.branch_beta_pre = nn.Parameter(torch.zeros(n))
        self.norm_gamma = nn.Parameter(torch.ones(width)) if config.mhc_use_gamma else None

    def merge(self, x: Tensor) -> Tensor:
        """[.., n, H] -> [.., H]."""
        m = mhc_project(x, self.phi.weight, self.norm_gamma, self.eps)
        w = torch.sigmoid(self.branch_alpha_pre.to(m.dtype) * m + self.branch_beta_pre.to(m.dtype)) + MHC_EPS
        return (w[..., None] * x.to(m.dtype)).sum(-2).to(x.dtype)


def mhc_project(x: Tensor, phi: Tensor, gamma: Tensor | None, eps: float) -> Tensor:
    """phi . (RMS-normalised flattened streams * gamma), in at least float32."""
    flat = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1]).to(wide(x.dtype))
    flat = flat * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + eps)
    if gamma is not None:
        flat = flat * gamma.to(flat.dtype)
    return torch.matmul(flat, phi.to(flat.dtype).t())


def sinkhorn(raw: Tensor, recur: int) -> Tensor:
    """Softmax over rows, then columns first, then rows and columns alternately."""
    r = torch.softmax(raw, -1) + MHC_EPS
    r = r / (r.sum(-2, keepdim=True) + MHC_EPS)
    for _ in range(recur - 1):
        r = r / (r.sum(-1, keepdim=True) + MHC_EPS)
        r = r / (r.sum(-2, keepdim=True) + MHC_EPS)
    return r


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """Stacked expert weights: gate rows first, then up rows."""

    def __init__(self, experts: int, hidden: int, inner: int):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.zeros(experts, hidden, inner))


class MoE(nn.Module):
    """Biased sigmoid routing: biased scores choose, unbiased ones weigh; plus unweighted shared experts."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        self.c = config
        self.gate = nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)
        if config.router_enable_expert_bias:
            self.e_score_correction_bias = nn.Parameter(torch.zeros(config.n_routed_experts))
        self.experts = Experts(config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
        if config.n_shared_experts:
            self.shared_experts = MLP(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H] -> chosen experts [N, k] and their weights [N, k]."""
        c, precise = self.c, wide(x.dtype)
        scores = torch.sigmoid(x.to(precise) @ self.gate.weight.to(precise).t())
        biased = scores + self.e_score_correction_bias if c.router_enable_expert_bias else scores
        chosen = torch.sort(biased, dim=-1, descending=True, stable=True)[1][:, : c.num_experts_per_tok]
        weights = scores.gather(1, chosen)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + ROUTER_EPS)
        return chosen, (weights * c.routed_scaling_factor).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        chosen, weights = self.route(flat)
        out = torch.zeros_like(flat)
        for expert in range(self.c.n_routed_experts):
            token, slot = torch.nonzero(chosen == expert, as_tuple=True)
            if token.numel():
                gate, up = (flat[token] @ self.experts.gate_up_proj[expert].t()).chunk(2, -1)
                y = (nn.functional.silu(gate) * up) @ self.experts.down_proj[expert].t()
                out = out.index_add(0, token, y * weights[token, slot, None])
        if self.c.n_shared_experts:
            out = out + self.shared_experts(flat)
        return out.view(x.shape)
