"""The training forward of openPangu-2.0: the maths of `models.reference` on whole sequences, arranged for speed.

It reads the same state_dict names. What differs from the reference is only the arrangement: windows are computed in
blocks, all experts run as one wide SwiGLU whose hidden values carry the router's weights (0 for experts not chosen),
and matrix products run in bfloat16. evaluate.py measures the result with the reference model itself.
Every piece is compiled once by torch.compile and reused by all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Fn = TypeVar("Fn", bound=Callable[..., Any])
EPS, MHC_EPS = 1e-5, 1e-6
COMPILE = True
DTYPE = torch.bfloat16  # of matrix products; the tests compare with the reference in float32


def piece(fn: Fn) -> Fn:
    """Compiles `fn` lazily on its first call (so that importing this module stays cheap)."""
    compiled: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        if not compiled:
            compiled.append(torch.compile(fn, dynamic=False) if COMPILE else fn)
        return compiled[0](*args)

    return cast("Fn", call)


def linear(x: Tensor, w: Tensor) -> Tensor:
    """x @ w.T in DTYPE."""
    return F.linear(x.to(DTYPE), w.to(DTYPE))


def split_last(x: Tensor, first: int, second: int) -> Tensor:
    """[..., first * second] -> [..., first, second]."""
    return x.reshape(*x.shape[:-1], first, second)


def norm(x: Tensor, weight: Tensor, eps: float = EPS) -> Tensor:
    """RMSNorm over the last axis in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half rotation of the last axis; cos/sin [T, d/2] broadcast over x [B, T, heads, d]."""
    a, b = x.float().chunk(2, -1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def conv(x: Tensor, w: Tensor, first: Tensor) -> Tensor:
    """x + MoME: depthwise causal convolution over [B, T, C]; the first k-1 rows (from row `first` on) get none."""
    x = x.float()
    k = w.shape[-1]
    out = x * w[:, 0, k - 1]
    for back in range(1, k):
        out = out + F.pad(x, (0, 0, back, 0))[:, : x.shape[1]] * w[:, 0, k - 1 - back]
    rows = torch.arange(x.shape[1])
    return x + out * (rows >= first + k - 1)[None, :, None]


def sinkhorn(r: Tensor, rounds: int) -> Tensor:
    """[n, n, N] (row, column, token): softmax over the row, then alternately normalised columns and rows."""
    r = torch.exp(r - r.amax(1, keepdim=True))
    r = r / r.sum(1, keepdim=True) + MHC_EPS
    r = r / (r.sum(0, keepdim=True) + MHC_EPS)
    for _ in range(rounds - 1):
        r = r / (r.sum(1, keepdim=True) + MHC_EPS)
        r = r / (r.sum(0, keepdim=True) + MHC_EPS)
    return r


@piece
def mhc_coefficients(x: Tensor, phi: Tensor, gamma: Tensor) -> Tensor:
    """x [B, T, n, H] -> m [rows of phi, B*T]."""
    flat = x.flatten(0, 1).flatten(1)
    flat = flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS) * gamma
    return phi @ flat.T


@piece
def mhc_res(m: Tensor, alpha: Tensor, beta: Tensor, n: int, rounds: int) -> Tensor:
    """The doubly stochastic [B*T, n, n] of the residual."""
    res = (alpha[2] * m[2 * n :] + beta[2 * n :, None]).reshape(n, n, -1)
    return sinkhorn(res, rounds).permute(2, 0, 1).contiguous()


@piece
def mhc_pre(x: Tensor, m: Tensor, alpha: Tensor, beta: Tensor, weight: Tensor) -> Tensor:
    """The normed input [B, T, H] of a sublayer."""
    n = x.shape[2]
    pre = (torch.sigmoid(alpha[0] * m[:n] + beta[:n, None]) + MHC_EPS).T.reshape(*x.shape[:3], 1)
    return norm((pre * x).sum(2), weight)


@piece
def mhc_post(x: Tensor, out: Tensor, weight: Tensor, m: Tensor, alpha: Tensor, beta: Tensor, res: Tensor) -> Tensor:
    """X'[j] = post[j] * norm(out) + sum_i res[i, j] X[i]."""
    n = x.shape[2]
    post = (2 * torch.sigmoid(alpha[1] * m[n : 2 * n] + beta[n : 2 * n, None])).T.reshape(*x.shape[:3], 1)
    out = norm(out, weight)
    res = res.reshape(*x.shape[:2], n, n)
    mixed = sum(res[:, :, i, :, None] * x[:, :, i, None, :] for i in range(n))
    return post * out[:, :, None] + mixed


@piece
def block_post(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm over all streams together."""
    return norm(x.flatten(2), weight).reshape(x.shape)


@piece
def merge(x: Tensor, phi: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The merged hidden state [B, T, H] (before the final norm)."""
    flat = x.flatten(2)
    m = (flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS) * gamma) @ phi.T
    return ((torch.sigmoid(alpha * m + beta) + MHC_EPS)[..., None] * x).sum(2)


@piece
def qkv(u: Tensor, w: Weights, cos: Tensor, sin: Tensor, dims: tuple[int, int, int, int], first: Tensor
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per-head q, k [B, T, heads, nope+rope], v [B, T, heads, v] in bfloat16 (k, v begin with S sink rows) and qr."""
    heads, nope, rope_dim, v_dim = dims
    batch = u.shape[0]
    qr = norm(conv(linear(u, w["q_a_proj.weight"]), w["qa_conv.weight"], first), w["q_a_layernorm.weight"])
    q = split_last(linear(qr, w["q_b_proj.weight"]), heads, nope + rope_dim)
    q = torch.cat([q[..., :nope].float(), rope(q[..., nope:], cos, sin)], -1)
    kv = linear(u, w["kv_a_proj_with_mqa.weight"])
    rank = kv.shape[-1] - rope_dim
    c = conv(kv[..., :rank], w["compresskv_conv.weight"], first)
    k_pe = rope(kv[..., None, rank:], cos, sin)[:, :, 0]
    sinks = w["param_sink_compressed_kv"].shape[0]
    c = torch.cat([w["param_sink_compressed_kv"].expand(batch, sinks, rank), c], 1)
    k_pe = torch.cat([w["param_sink_k_pe"].expand(batch, sinks, rope_dim), k_pe], 1)
    both = split_last(linear(norm(c, w["kv_a_layernorm.weight"]), w["kv_b_proj.weight"]), heads, nope + v_dim)
    k = torch.cat([both[..., :nope].float(), k_pe[:, :, None].expand(-1, -1, heads, -1)], -1)
    q = q * (nope + rope_dim) ** -0.5
    return q.to(DTYPE), k.to(DTYPE), both[..., nope:], qr


@piece
def swa(q: Tensor, k: Tensor, v: Tensor, sinks: int, window: int, first: Tensor) -> Tensor:
    """Sliding-window attention in blocks of one window: [B, T, heads * v]."""
    blocks, heads = q.shape[1] // window, (q.shape[0], q.shape[2])

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        sink = x[:, :sinks].transpose(1, 2)[:, :, None].expand(-1, -1, blocks, -1, -1)
        real = x[:, sinks:].transpose(1, 2).reshape(*heads, blocks, window, -1)
        before = F.pad(real, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        return sink, torch.cat([before, real], 3)

    (k_sink, k_real), (v_sink, v_real) = split(k), split(v)
    qb = q.transpose(1, 2).reshape(*heads, blocks, window, -1)
    keys = torch.cat([k_sink, k_real], 3)
    scores = (qb @ keys.transpose(-1, -2)).float()
    at = torch.arange(window)
    key_at = torch.arange(2 * window) - window
    gap = at[:, None] - key_at[None]
    position = torch.arange(blocks)[:, None, None] * window + key_at[None, None]
    seen = (gap >= 0)[None] & (gap < window)[None] & (position >= first)
    seen = torch.cat([torch.ones(blocks, window, sinks, dtype=torch.bool), seen], -1)
    p = torch.softmax(scores.masked_fill(~seen, -1e30), -1).to(DTYPE)
    out = p @ torch.cat([v_sink, v_real], 3)
    return out.flatten(2, 3).transpose(1, 2).flatten(2)


@piece
def index_scores(u: Tensor, qr: Tensor, w: Weights, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """The lightning indexer's scores [B, T, T] (query, key) in float32, before any mask; inputs are detached."""
    u, qr = u.detach(), qr.detach()
    rope_dim = 2 * cos.shape[-1]
    qi = split_last(linear(qr, w["indexer.wq_b.weight"]), heads, -1)
    ki = norm(linear(u, w["indexer.wk.weight"]), w["indexer.k_norm.weight"], 1e-6)[:, :, None]
    dim = ki.shape[-1]
    qi, ki = (torch.cat([rope(x[..., :rope_dim], cos, sin), x[..., rope_dim:].float()], -1) for x in (qi, ki))
    weight = linear(u, w["indexer.weights_proj.weight"]).float() * heads**-0.5
    s = qi.to(DTYPE).transpose(1, 2) @ ki.to(DTYPE).permute(0, 2, 3, 1)
    scores: Tensor = (weight.transpose(1, 2)[..., None] * F.relu(s.float() * dim**-0.5)).sum(1)
    return scores


def select(scores: Tensor, topk: int) -> Tensor:
    """Which keys [B, T, T] each query sees: causal, and the topk best only (the lowest index wins a tie)."""
    length = scores.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    if topk >= length:
        return causal.expand(scores.shape).contiguous()
    with torch.no_grad():
        masked = scores.detach().masked_fill(~causal, float("-inf"))[:, topk:]
        best = masked.topk(topk, dim=-1, sorted=False).values
        least = best.amin(-1, keepdim=True)
        equal = masked == least
        wanted = (best == least).sum(-1, keepdim=True, dtype=torch.int32)
        seen = causal.expand(scores.shape).clone()
        seen[:, topk:] &= (masked > least) | (equal & (equal.cumsum(-1, dtype=torch.int32) <= wanted))
    return seen


@piece
def dsa(q: Tensor, k: Tensor, v: Tensor, sinks: int, scores: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to the selected keys [B, T, heads * v], and the indexer's KL from the heads' mean attention."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    logits = (q @ k.transpose(-1, -2)).float()
    mask = F.pad(seen, (sinks, 0), value=True)[:, None]
    p = torch.softmax(logits.masked_fill(~mask, -1e30), -1)
    target = p.detach()[..., sinks:].mean(1)
    target = target / (target.sum(-1, keepdim=True) + 1e-9)
    guess = torch.log_softmax(scores.masked_fill(~seen, -1e30), -1)
    kl = (target * (torch.log(target + 1e-9) - guess.clamp(min=-1e4))).sum(-1).mean()
    out = (p.to(DTYPE) @ v).transpose(1, 2).flatten(2)
    return out, kl


@piece
def attention_out(o: Tensor, w: Weights, first: Tensor) -> Tensor:
    """The o convolution and the output projection."""
    return linear(conv(o, w["o_conv.weight"], first), w["o_proj.weight"])


@piece
def dense_ffn(x: Tensor, w: Weights) -> Tensor:
    """SwiGLU."""
    return linear(F.silu(linear(x, w["gate_proj.weight"]).float()) * linear(x, w["up_proj.weight"]),
                  w["down_proj.weight"])


@piece
def moe_ffn(x: Tensor, w: Weights, top: int, scaling: float) -> tuple[Tensor, Tensor]:
    """Biased top-k routing over all experts as one wide SwiGLU, plus the shared expert; returns the load [E] too."""
    s = torch.sigmoid(x @ w["gate.weight"].T)
    chosen = torch.topk((s + w["e_score_correction_bias"]).detach(), top, dim=-1).indices
    mask = torch.zeros_like(s).scatter(-1, chosen, 1.0).detach()
    weight = s * mask
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-20) * scaling
    gate_up, down = w["experts.gate_up_proj"], w["experts.down_proj"]
    experts, width, _ = gate_up.shape
    both = split_last(linear(x, gate_up.flatten(0, 1)), experts, width).float()
    half = width // 2
    hidden = F.silu(both[..., :half]) * both[..., half:] * weight[..., None]
    out = linear(hidden.flatten(-2), down.transpose(0, 1).flatten(1))
    shared = F.silu(linear(x, w["shared_experts.gate_proj.weight"]).float())
    shared = shared * linear(x, w["shared_experts.up_proj.weight"])
    return out + linear(shared, w["shared_experts.down_proj.weight"]), mask.flatten(0, -2).mean(0)


@piece
def mtp_input(token: Tensor, g: Tensor, enorm: Tensor, hnorm: Tensor, w: Tensor) -> Tensor:
    """eh_proj(concat(enorm(embedding), hnorm(g))) in float32."""
    return linear(torch.cat([norm(token, enorm), norm(g, hnorm)], -1), w).float()


@piece
def add_normed(x: Tensor, out: Tensor, weight: Tensor) -> Tensor:
    """x + norm(out): a sandwich-normed plain residual."""
    return x + norm(out, weight)


@piece
def normed(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm as a piece of its own."""
    return norm(x, weight)


@piece
def head_logits(h: Tensor, weight: Tensor, lm_head: Tensor) -> Tensor:
    """Float32 logits."""
    return linear(norm(h, weight), lm_head).float()


@piece
def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy in nats."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


@piece
def draft_loss(logits: Tensor, target: Tensor, trunk: Tensor, distil: Tensor) -> Tensor:
    """(1 - distil) * CE(target) + distil * CE(the trunk's distribution), over rows [B, T', V]."""
    logp = torch.log_softmax(logits, -1)
    hard = -logp.gather(-1, target[..., None]).mean()
    soft = -(torch.softmax(trunk.detach(), -1) * logp).sum(-1).mean()
    return (1 - distil) * hard + distil * soft


class FastModel:
    """Runs the forward over a flat dict of parameters with reference names.

    forward(ids [B, T+2], topk, distil) -> (losses, loads, agree): losses["trunk"], ["mtp1"].., ["indexer"].
    """

    def __init__(self, config: dict[str, Any], params: Weights) -> None:
        self.c, self.p = config, params
        self.groups: dict[str, Weights] = {}
        for name, value in params.items():
            for part in (".self_attn.", ".mlp."):
                if part in name:
                    head, tail = name.split(part)
                    self.groups.setdefault(head + part[:-1], {})[tail] = value
        window = config["sliding_window_list"]
        self.windows = {layer: window[i] for i, layer in enumerate(config["swa_layers"])}

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos, sin [T, rope/2] in float32 from float64 angles."""
        dim = self.c["qk_rope_head_dim"]
        inv = self.c["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * inv
        return angle.cos().float(), angle.sin().float()

    def attention(self, layer: int, u: Tensor, first: int, topk: int) -> tuple[Tensor, Tensor | None]:
        """One attention sublayer on the normed input; returns (output, indexer KL or None)."""
        c, w = self.c, self.groups[f"model.layers.{layer}.self_attn"]
        cos, sin = self.tables(u.shape[1])
        start = torch.tensor(first)
        dims = (c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"])
        main = {k: v for k, v in w.items() if not k.startswith("indexer.")}
        q, k, v, qr = qkv(u, main, cos, sin, dims, start)
        kl = None
        if layer in self.windows:
            o = swa(q, k, v, c["param_sink_number"], self.windows[layer], start)
        else:
            index = {k: v for k, v in w.items() if k.startswith("indexer.")}
            scores = index_scores(u, qr, index, cos, sin, c["index_n_heads"])
            o, kl = dsa(q, k, v, c["param_sink_number"], scores, select(scores, topk))
        out = {k: w[k] for k in ("o_conv.weight", "o_proj.weight")}
        return attention_out(o, out, start), kl

    def ffn(self, layer: int, x: Tensor, loads: dict[int, Tensor]) -> Tensor:
        """One FFN sublayer on the normed input."""
        w = self.groups[f"model.layers.{layer}.mlp"]
        if "gate.weight" not in w:
            return dense_ffn(x, w)
        out, loads[layer] = moe_ffn(x, w, self.c["num_experts_per_tok"], self.c["routed_scaling_factor"])
        return out

    def sublayer(self, x: Tensor, name: str, norms: tuple[str, str], run: Callable[[Tensor], Tensor]) -> Tensor:
        """mHC around one sublayer: X [B, T, n, H] -> X."""
        module, w = {"self_attn": "attn_mhc_module", "mlp": "mlp_mhc_module"}[name.rsplit(".", 1)[1]], self.p
        layer = name.rsplit(".", 1)[0]
        alpha, beta = w[f"{layer}.{module}.branch_alpha"], w[f"{layer}.{module}.branch_beta"]
        m = mhc_coefficients(x, w[f"{layer}.{module}.phi.weight"], w[f"{layer}.{module}.norm_gamma"])
        res = mhc_res(m, alpha, beta, self.c["mhc_num_stream"], self.c["mhc_recur_norm"])
        out = run(mhc_pre(x, m, alpha, beta, w[f"{layer}.{norms[0]}.weight"]))
        return mhc_post(x, out, w[f"{layer}.{norms[1]}.weight"], m, alpha, beta, res)

    def trunk(self, ids: Tensor, topk: int, loads: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """ids [B, T] -> (merged hidden [B, T, H], summed indexer KL)."""
        c, p = self.c, self.p
        x = F.embedding(ids, p["model.embed_tokens.weight"])[:, :, None].expand(-1, -1, c["mhc_num_stream"], -1)
        x = x.contiguous()
        kls: list[Tensor] = []
        for layer in range(c["num_hidden_layers"]):
            def attend(u: Tensor, layer: int = layer) -> Tensor:
                out, kl = self.attention(layer, u, 0, topk)
                kls.extend([] if kl is None else [kl])
                return out

            name = f"model.layers.{layer}"
            x = self.sublayer(x, f"{name}.self_attn", ("input_layernorm", "post_attention_layernorm"), attend)
            x = self.sublayer(x, f"{name}.mlp", ("pre_mlp_layernorm", "post_mlp_layernorm"),
                              lambda u, layer=layer: self.ffn(layer, u, loads))  # type: ignore[misc]
            if layer in c["block_post_layernorm_idx"]:
                x = block_post(x, p[f"{name}.block_post_layernorm.weight"])
        m = "model.merge_mhc_module."
        h = merge(x, p[m + "phi.weight"], p[m + "norm_gamma"], p[m + "branch_alpha_pre"], p[m + "branch_beta_pre"])
        return h, sum(kls, torch.zeros(()))

    def draft(self, j: int, ids: Tensor, g: Tensor, loads: dict[int, Tensor]) -> Tensor:
        """Head j's block output [B, T, H] for rows 0..T-1 (rows before j-1 are unused); ids [B, T] is token[p+1]."""
        p, layer = self.p, self.c["num_hidden_layers"] + j - 1
        n = f"model.layers.{layer}."
        token = F.embedding(ids, p["model.embed_tokens.weight"])
        x = mtp_input(token, g, p[n + "enorm.weight"], p[n + "hnorm.weight"], p[n + "eh_proj.weight"])
        a, _ = self.attention(layer, normed(x, p[n + "input_layernorm.weight"]), j - 1, 0)
        x = add_normed(x, a, p[n + "post_attention_layernorm.weight"])
        f = self.ffn(layer, normed(x, p[n + "pre_mlp_layernorm.weight"]), loads)
        return add_normed(x, f, p[n + "post_mlp_layernorm.weight"])

    def logits(self, h: Tensor, layer: int | None = None) -> Tensor:
        """Logits of the trunk, or of the MTP head in `layer`."""
        name = "model.norm.weight" if layer is None else f"model.layers.{layer}.shared_head.norm.weight"
        return head_logits(h, self.p[name], self.p["lm_head.weight"])

    def forward(self, ids: Tensor, topk: int, distil: float) -> tuple[dict[str, Tensor], dict[int, Tensor],
                                                                     dict[str, Tensor]]:
        """Losses, expert loads per layer, and the argmax agreement of each head with the trunk."""
        loads: dict[int, Tensor] = {}
        length = ids.shape[1] - 2
        h, kl = self.trunk(ids[:, :length], topk, loads)
        trunk = self.logits(h)
        losses = {"trunk": cross_entropy(trunk, ids[:, 1 : length + 1]), "indexer": kl}
        agree: dict[str, Tensor] = {}
        g, mix = h, torch.tensor(distil)
        best = trunk.argmax(-1)
        for j in range(1, self.c["num_nextn_predict_layers"] + 1):
            if j > 1:
                g = F.pad(g, (0, 0, 1, 0))[:, :length]
            g = self.draft(j, ids[:, 1 : length + 1], g, loads)
            logits = self.logits(g, self.c["num_hidden_layers"] + j - 1)
            rows = slice(self.c["num_nextn_predict_layers"] - 1, length - 1)
            ahead = slice(rows.start + 1, length)
            target = ids[:, 2 : length + 2][:, rows]
            losses[f"mtp{j}"] = draft_loss(logits[:, rows], target, trunk[:, ahead], mix)
            agree[f"mtp{j}"] = (logits[:, rows].argmax(-1) == best[:, ahead]).float().mean()
        return losses, loads, agree
