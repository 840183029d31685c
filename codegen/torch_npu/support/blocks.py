"""Plain torch parts of the generated operators: states, convolution windows, hyper-connections, attention.

T tokens, S rows cached, C channels, h heads, n streams, H hidden. Activations and states are of the artifact's dtype; what
needs it is computed in float32. `start` is the position of a call's first token, known on the host: masks are only
built where a call needs them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class AppendCache:
    """A cache of one row per position, in a buffer that is filled in place.

    With `split`, the rows lie in two buffers (columns before it, and after it), each contiguous as the vendor's sparse
    attention wants them. `prefix` rows come before position 0 (attention sinks). `length` counts the positions held;
    setting it back undoes what came later.
    """

    def __init__(self, rows: int, width: int, dtype: torch.dtype, device: torch.device, split: int = 0, prefix: int = 0):
        sizes = (split, width - split) if split else (width,)
        self.buffers = [torch.zeros(prefix + rows, size, dtype=dtype, device=device) for size in sizes]
        self.split, self.prefix, self.length = split, prefix, 0

    def set_prefix(self, rows: Tensor) -> None:
        """Rows [prefix, width] in front of position 0."""
        for buffer, part in zip(self.buffers, self._parts(rows), strict=True):
            buffer[: self.prefix].copy_(part)

    def append(self, rows: Tensor) -> AppendCache:
        """The cache with rows [T, width] added."""
        at = self.prefix + self.length
        for buffer, part in zip(self.buffers, self._parts(rows), strict=True):
            buffer[at : at + rows.shape[0]].copy_(part)
        self.length += rows.shape[0]
        return self

    def rows(self) -> Tensor:
        """[length, width], without the prefix."""
        parts = [buffer[self.prefix : self.prefix + self.length] for buffer in self.buffers]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def with_prefix(self, part: int) -> Tensor:
        """[prefix + length, width of that buffer], contiguous."""
        return self.buffers[part][: self.prefix + self.length]

    def replace(self, rows: Tensor) -> None:
        """All rows anew: an operator that is not fused has computed the whole cache."""
        self.length = 0
        self.append(rows)

    def _parts(self, rows: Tensor) -> list[Tensor]:
        return [rows[:, : self.split], rows[:, self.split :]] if self.split else [rows]


def positions(begin: int, end: int, like: Tensor) -> Tensor:
    """begin .. end - 1 as int64, where `like` is."""
    return torch.arange(begin, end, device=like.device)


def ring_rows(ring: Tensor, start: int, count: int) -> Tensor:
    """Rows of positions start - count .. start - 1; position p is ring row p % R. Those below 0 are some row."""
    return ring.index_select(0, positions(start - count, start, ring) % ring.shape[0])


def write_ring(ring: Tensor, new: Tensor, start: int) -> Tensor:
    """The ring with the rows of positions start, start + 1, .. written; what would be overwritten at once is skipped."""
    tokens, keep = new.shape[0], min(new.shape[0], ring.shape[0])
    at = positions(start + tokens - keep, start + tokens, ring) % ring.shape[0]
    return ring.index_copy_(0, at, new[tokens - keep :])


def mome_conv(x: Tensor, weight: Tensor, ring: Tensor, start: int) -> Tensor:
    """x[T, C] + causal depthwise convolution by weight[k, C]; nothing is added at positions below k - 1. Updates the ring."""
    taps, tokens = weight.shape[0], x.shape[0]
    rows = torch.cat([ring_rows(ring, start, taps - 1), x]).float()
    total = rows[:tokens] * weight[0].float()
    for tap in range(1, taps):
        total = total + rows[tap : tap + tokens] * weight[tap].float()
    total[: max(0, taps - 1 - start)] = 0
    write_ring(ring, x, start)
    return (x.float() + total).to(x.dtype)


def conv_counts(x: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Of the vendor's convolution on one sequence: where it begins and ends, and how many tokens came before."""
    bounds = torch.tensor([0, x.shape[0]], dtype=torch.int32, device=x.device)
    return bounds, torch.tensor([start], dtype=torch.int32, device=x.device)


class RotaryTable:
    """Rotary embedding of all positions, computed once on the host in float64."""

    def __init__(self, dim: int, theta: float, rows: int, dtype: torch.dtype):
        half = torch.arange(0, dim, 2, dtype=torch.float64)
        angle = torch.arange(rows, dtype=torch.float64)[:, None] * torch.pow(theta, half / -dim)[None, :]
        self.values = torch.stack([angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)]).to(dtype)

    def rows(self, at: Tensor) -> Tensor:
        """[2, 1, T, 1, dim]: cos, then sin, each half twice."""
        if self.values.device != at.device:
            self.values = self.values.to(at.device)
        return self.values.index_select(1, at)[:, None, :, None, :]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half rotation (NeoX order) of the last axis of x[1, T, h, d]; cos and sin [1, T, 1, d]."""
    first, second = x.float().chunk(2, -1)
    return (x.float() * cos.float() + torch.cat([-second, first], -1) * sin.float()).to(x.dtype)


def swiglu(x: Tensor) -> Tensor:
    """silu(first half of the last axis) * second half."""
    first, second = x.chunk(2, -1)
    return F.silu(first) * second


# Hyper-connections: x[T, n, H], everything in float32.


def mhc_project(x: Tensor, phi: Tensor, gamma: Tensor | None, eps: float) -> Tensor:
    """phi times the RMS-normed flat streams: [T, rows of phi]."""
    flat = x.flatten(1).float()
    flat = flat * torch.rsqrt((flat * flat).mean(-1, keepdim=True) + eps)
    return F.linear(flat if gamma is None else flat * gamma, phi)


def mhc_pre(
    x: Tensor, phi: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor | None, norm_eps: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Branch input [T, H], post [T, n], raw residual matrix [T, n, n]."""
    n = x.shape[1]
    m = mhc_project(x, phi, gamma, norm_eps)
    weights = torch.sigmoid(alpha[0] * m[:, :n] + beta[:n]) + eps
    post = 2 * torch.sigmoid(alpha[1] * m[:, n : 2 * n] + beta[n : 2 * n])
    raw = (alpha[2] * m[:, 2 * n :] + beta[2 * n :]).view(-1, n, n)
    return (weights[:, :, None] * x.float()).sum(1).to(x.dtype), post, raw


def sinkhorn(raw: Tensor, iterations: int, eps: float) -> Tensor:
    """Softmax over rows, then columns and rows in turn; `iterations` counts the column steps."""
    r = torch.softmax(raw.float(), -1) + eps
    r = r / (r.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        r = r / (r.sum(-1, keepdim=True) + eps)
        r = r / (r.sum(-2, keepdim=True) + eps)
    return r


def mhc_post(x: Tensor, res: Tensor, out: Tensor, post: Tensor) -> Tensor:
    """X'[j] = post[j] * out + sum_i res[i, j] * X[i]."""
    kept = torch.matmul(res.transpose(1, 2), x.float())
    return (post[:, :, None] * out.float()[:, None, :] + kept).to(x.dtype)


def mhc_merge(x: Tensor, phi: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor | None, norm_eps: float, eps: float) -> Tensor:
    """The streams as one hidden vector [T, H]."""
    weights = torch.sigmoid(alpha * mhc_project(x, phi, gamma, norm_eps) + beta) + eps
    return (weights[:, :, None] * x.float()).sum(1).to(x.dtype)


# Latent attention: a row is (latent [C], rotary key [r]); query and rows share it.


def absorb(q: Tensor, kv_b: Tensor, nope: int) -> Tensor:
    """Queries q[T, h, nope + r] in latent space, [T, h, C]; kv_b [h, nope + v, C]."""
    return torch.matmul(q[..., :nope].transpose(0, 1), kv_b[:, :nope]).transpose(0, 1)


def leave(mixed: Tensor, kv_b: Tensor, nope: int) -> Tensor:
    """Values of mixed latents [T, h, C]: [T, h * v]."""
    return torch.matmul(mixed.transpose(0, 1), kv_b[:, nope:].transpose(1, 2)).transpose(0, 1).flatten(1)


def mix(query: Tensor, keys: Tensor, visible: Tensor | None, sinks: Tensor | None, latent: int, scale: float) -> Tensor:
    """Softmax attention over sinks and keys together: [T, h, latent].

    Args:
        query: [T, h, C + r].
        keys: [N, C + r], or [T, N, C + r] where every token has keys of its own.
        visible: [T, N], None: all. sinks: [P, C + r], seen by every query.
    """
    shared = keys.dim() == 2
    scores = torch.matmul(query, keys.t() if shared else keys.transpose(1, 2)).float() * scale
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, :], float("-inf"))
    if sinks is None:
        return torch.matmul(torch.softmax(scores, -1).to(query.dtype), keys[..., :latent])
    sink_scores = torch.matmul(query, sinks.t()).float() * scale
    weights = torch.softmax(torch.cat([sink_scores, scores], -1), -1).to(query.dtype)
    count = sinks.shape[0]
    mixed = torch.matmul(weights[..., count:], keys[..., :latent])
    return mixed + torch.matmul(weights[..., :count], sinks[:, :latent])


def causal(tokens: int, rows: int, like: Tensor) -> Tensor | None:
    """[tokens, rows]: the last `tokens` of `rows` positions see those up to their own; None where all see all."""
    if tokens == 1:
        return None
    return positions(0, rows, like)[None, :] <= positions(rows - tokens, rows, like)[:, None]


def in_window(tokens: int, before: int, window: int, like: Tensor) -> Tensor | None:
    """[tokens, before + tokens]: causal, and less than `window` positions away; None where all see all."""
    if tokens == 1 and before < window:
        return None
    distance = positions(before, before + tokens, like)[:, None] - positions(0, before + tokens, like)[None, :]
    return (distance >= 0) & (distance < window)


def top_rows(iq: Tensor, iw: Tensor, keys: Tensor, scale: float, k: int) -> tuple[Tensor, Tensor]:
    """The k causal rows of the highest score sum_h iw * relu(iq . key * scale), lowest first among equals, per token.

    iq [T, h, d], iw [T, h], keys [N, d] -> indices [T, min(k, N)], and which of them are causal.
    """
    tokens, rows = iq.shape[0], keys.shape[0]
    dots = torch.relu(torch.matmul(iq.float(), keys.float().t()) * scale)
    scores = torch.matmul(iw.float()[:, None, :], dots)[:, 0]
    own = positions(rows - tokens, rows, keys)[:, None]
    scores = scores.masked_fill(positions(0, rows, keys)[None, :] > own, float("-inf"))
    chosen = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :k]
    return chosen, chosen <= own


def behind_sinks(chosen: Tensor, sinks: int) -> Tensor:
    """Rows int32 [.., k] (-1: none) of a cache that has `sinks` rows in front: these first, the rest moved behind them."""
    front = torch.arange(sinks, dtype=torch.int32, device=chosen.device).expand(*chosen.shape[:-1], sinks)
    return torch.cat([front, torch.where(chosen < 0, chosen, chosen + sinks)], -1).contiguous()


def moe_gate(
    logits: Tensor, bias: Tensor | None, k: int, normalise: bool, scale: float, eps: float
) -> tuple[Tensor, Tensor]:
    """The k experts of the highest sigmoid(logits) + bias, lowest first among equals, and their unbiased weights."""
    scores = torch.sigmoid(logits)
    biased = scores if bias is None else scores + bias
    index = torch.sort(biased, dim=-1, descending=True, stable=True).indices[:, :k]
    weight = scores.gather(-1, index)
    if normalise:
        weight = weight / (weight.sum(-1, keepdim=True) + eps)
    return index, weight * scale


def expert_linear(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """y[t, j] = weight[index[t, j]] @ x[t] (or x[t, j])."""
    rows = x if x.dim() == 3 else x[:, None, :]
    return torch.matmul(weight[index.long()], rows.unsqueeze(-1)).squeeze(-1)


def moe_ffn(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Weighted sum of the chosen experts' SwiGLU, experts gathered by index."""
    inner = swiglu(expert_linear(x, gate_up, index))
    return (expert_linear(inner, down, index) * weight[..., None].to(x.dtype)).sum(1)


def verify(own: Tensor, drafts: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """accepted [], tokens [K + 1] (accepted drafts, one own token, then -1), length []: greedy acceptance of drafts [K]."""
    order = torch.arange(drafts.shape[0] + 1, device=own.device)
    wrong = torch.cat([own[:-1] != drafts, torch.ones(1, dtype=torch.bool, device=own.device)])
    accepted = order[wrong].min()
    return accepted, torch.where(order <= accepted, own, -1), accepted + start + 1


def topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of the last axis, lowest index first among equals."""
    found = torch.sort(x, dim=-1, descending=True, stable=True)
    return found.values[..., :k], found.indices[..., :k]


def as_cache(rows: Tensor) -> AppendCache:
    """A cache that holds exactly these rows."""
    cache = AppendCache(0, rows.shape[1], rows.dtype, rows.device)
    cache.buffers, cache.length = [rows], rows.shape[0]
    return cache
