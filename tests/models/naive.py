"""openPangu-2.0 once more, from the written specification: numpy, one token at a time, nothing shared with the package.

Slow and plain on purpose. Weights come under the checkpoint's names (per-expert layout), the config is config.json's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Vec = Any


def rms(x: Vec, w: Vec, eps: float) -> Vec:
    return x / np.sqrt((x * x).sum() / len(x) + eps) * w


def sigmoid(x: Vec) -> Vec:
    return 1 / (1 + np.exp(-x))


def softmax(x: Vec) -> Vec:
    e = np.exp(x - x.max())
    return e / e.sum()


def rope(x: Vec, position: int, theta: float) -> Vec:
    """Half rotation as a complex product."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def conv(w: Vec, history: list[Vec]) -> Vec:
    """The convolution's output at the last row; zero while fewer than k rows exist."""
    k, t = w.shape[2], len(history) - 1
    out = np.zeros(len(history[0]))
    if t >= k - 1:
        for j in range(k):
            out += w[:, 0, j] * history[t - (k - 1) + j]
    return out


def best(scores: Vec, k: int) -> list[int]:
    """The k largest, the lower index first among equals."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


class Naive:
    def __init__(self, config: dict[str, Any], weights: dict[str, Vec]):
        self.c, self.w = config, weights

    def get(self, name: str) -> Vec:
        return self.w[name]

    # ---- attention

    def kind(self, layer: int) -> tuple[str, int]:
        c = self.c
        if layer in c["dsa_layers"]:
            return "dsa", 0
        if layer in c["swa_layers"]:
            windows = c["sliding_window_list"]
            return "swa", windows[c["swa_layers"].index(layer)] if windows else c["sliding_window"]
        if layer >= c["num_hidden_layers"] and c["sliding_window"]:
            return "swa", c["sliding_window"]
        return "dense", 0

    def attention(self, layer: int, rows: list[Vec], first: int) -> list[Vec]:
        """rows: inputs; row i is at RoPE position first + i."""
        c, name = self.c, f"model.layers.{layer}.self_attn."
        heads, nope, v_dim = c["num_attention_heads"], c["qk_nope_head_dim"], c["v_head_dim"]
        rank, eps, theta = c["kv_lora_rank"], c["rms_norm_eps"], c["rope_theta"]
        kind, window = self.kind(layer)
        kv_b = self.get(name + "kv_b_proj.weight").reshape(heads, nope + v_dim, rank)
        kv_norm = self.get(name + "kv_a_layernorm.weight")
        qls: list[Vec] = []
        cs: list[Vec] = []
        raw_os: list[Vec] = []
        keys: list[tuple[Vec, Vec]] = []
        index_keys: list[Vec] = []
        outs = []
        sinks = []
        for s in range(c["param_sink_number"]):
            compressed = rms(self.get(name + "param_sink_compressed_kv")[s], kv_norm, eps)
            sinks.append((compressed, self.get(name + "param_sink_k_pe")[s]))
        for i, u in enumerate(rows):
            position = first + i
            if c["q_lora_rank"] is None:
                qr, q = u, self.get(name + "q_proj.weight") @ u
            else:
                ql = self.get(name + "q_a_proj.weight") @ u
                qls.append(ql)
                if c["use_mome"]:
                    ql = ql + conv(self.get(name + "qa_conv.weight"), qls)
                qr = rms(ql, self.get(name + "q_a_layernorm.weight"), eps)
                q = self.get(name + "q_b_proj.weight") @ qr
            kv = self.get(name + "kv_a_proj_with_mqa.weight") @ u
            latent = kv[:rank]
            cs.append(latent)
            if c["use_mome"]:
                latent = latent + conv(self.get(name + "compresskv_conv.weight"), cs)
            keys.append((rms(latent, kv_norm, eps), rope(kv[rank:], position, theta)))
            seen = list(range(i + 1))
            if kind == "swa":
                seen = [s for s in seen if i - s < window]
            if kind == "dsa":
                scores = self.index_scores(name + "indexer.", u, qr, position, index_keys)
                seen = sorted(best(scores, c["index_topk"]))
            visible = sinks + [keys[s] for s in seen]
            q = q.reshape(heads, -1)
            o = []
            for h in range(heads):
                q_pe = rope(q[h, nope:], position, theta)
                logits = [q[h, :nope] @ (kv_b[h, :nope] @ lat) + q_pe @ pe for lat, pe in visible]
                p = softmax(np.array(logits) * q.shape[1] ** -0.5)
                o.append(sum(a * (kv_b[h, nope:] @ lat) for a, (lat, _) in zip(p, visible, strict=True)))
            out = np.concatenate(o)
            raw_os.append(out)
            if c["use_mome"]:
                out = out + conv(self.get(name + "o_conv.weight"), raw_os)
            outs.append(self.get(name + "o_proj.weight") @ out)
        return outs

    def index_scores(self, name: str, u: Vec, qr: Vec, position: int, index_keys: list[Vec]) -> list[float]:
        """Appends the row's own index key; a score for every key so far."""
        c = self.c
        heads, dim, pe, theta = c["index_n_heads"], c["index_head_dim"], c["qk_rope_head_dim"], c["rope_theta"]
        key = self.get(name + "wk.weight") @ u
        if name + "k_norm.bias" in self.w:
            key = key - key.mean()
            key = rms(key, self.get(name + "k_norm.weight"), 1e-6) + self.get(name + "k_norm.bias")
        else:
            key = rms(key, self.get(name + "k_norm.weight"), 1e-6)
        index_keys.append(np.concatenate([rope(key[:pe], position, theta), key[pe:]]))
        q = (self.get(name + "wq_b.weight") @ qr).reshape(heads, dim)
        q = [np.concatenate([rope(x[:pe], position, theta), x[pe:]]) for x in q]
        w = self.get(name + "weights_proj.weight") @ u * heads**-0.5
        return [sum(w[h] * max(0.0, float(q[h] @ k) * dim**-0.5) for h in range(heads)) for k in index_keys]

    # ---- feed-forward

    def swiglu(self, name: str, x: Vec) -> Vec:
        gate = self.get(name + "gate_proj.weight") @ x
        return self.get(name + "down_proj.weight") @ (gate * sigmoid(gate) * (self.get(name + "up_proj.weight") @ x))

    def ffn(self, layer: int, x: Vec) -> Vec:
        c, name = self.c, f"model.layers.{layer}.mlp."
        moe = c["n_routed_experts"] and (layer >= c["first_k_dense_replace"] or layer >= c["num_hidden_layers"])
        if not moe:
            return self.swiglu(name, x)
        s = sigmoid(self.get(name + "gate.weight") @ x)
        biased = s + self.get(name + "e_score_correction_bias") if c["router_enable_expert_bias"] else s
        chosen = best(biased, c["num_experts_per_tok"])
        total = sum(s[e] for e in chosen) + 1e-20 if c["norm_topk_prob"] else 1.0
        out = sum(c["routed_scaling_factor"] * s[e] / total * self.swiglu(f"{name}experts.{e}.", x) for e in chosen)
        return out + self.swiglu(name + "shared_experts.", x) if c["n_shared_experts"] else out

    # ---- hyper-connections

    def mhc(self, name: str, streams: Vec) -> tuple[Vec, Vec, Vec]:
        """(branch input, h_post, R)."""
        n = self.c["mhc_num_stream"]
        gamma = self.get(name + "norm_gamma") if self.c["mhc_use_gamma"] else 1.0
        m = self.get(name + "phi.weight") @ rms(streams.reshape(-1), gamma, self.c["rms_norm_eps"])
        a, b = self.get(name + "branch_alpha"), self.get(name + "branch_beta")
        pre = sigmoid(a[0] * m[:n] + b[:n]) + 1e-6
        post = 2 * sigmoid(a[1] * m[n : 2 * n] + b[n : 2 * n])
        raw = (a[2] * m[2 * n :] + b[2 * n :]).reshape(n, n)
        r = np.array([softmax(row) + 1e-6 for row in raw])
        for step in range(2 * self.c["mhc_recur_norm"] - 1):
            if step % 2 == 0:
                r = np.array([[r[i, j] / (r[:, j].sum() + 1e-6) for j in range(n)] for i in range(n)])
            else:
                r = np.array([[r[i, j] / (r[i].sum() + 1e-6) for j in range(n)] for i in range(n)])
        return sum(pre[s] * streams[s] for s in range(n)), post, r

    def mhc_post(self, streams: Vec, out: Vec, post: Vec, r: Vec) -> Vec:
        n = len(post)
        return np.array([post[j] * out + sum(r[i, j] * streams[i] for i in range(n)) for j in range(n)])

    # ---- the model

    def norm(self, name: str, x: Vec) -> Vec:
        return rms(x, self.get(name + ".weight"), self.c["rms_norm_eps"])

    def branches(self, layer: int, first: int) -> tuple[Any, Any]:
        """The two branches of a layer as functions of all rows."""
        name, sandwich = f"model.layers.{layer}.", self.c["sandwich_norm"]

        def attend(ys: list[Vec]) -> list[Vec]:
            outs = self.attention(layer, [self.norm(name + "input_layernorm", y) for y in ys], first)
            return [self.norm(name + "post_attention_layernorm", o) for o in outs] if sandwich else outs

        def feed(ys: list[Vec]) -> list[Vec]:
            before = "pre_mlp_layernorm" if sandwich else "post_attention_layernorm"
            outs = [self.ffn(layer, self.norm(name + before, y)) for y in ys]
            return [self.norm(name + "post_mlp_layernorm", o) for o in outs] if sandwich else outs

        return attend, feed

    def hidden(self, tokens: list[int]) -> list[Vec]:
        c = self.c
        xs = [self.get("model.embed_tokens.weight")[t] for t in tokens]
        if c["use_mhc"]:
            xs = [np.array([x] * c["mhc_num_stream"]) for x in xs]
        for layer in range(c["num_hidden_layers"]):
            name = f"model.layers.{layer}."
            for module, branch in zip(("attn_mhc_module.", "mlp_mhc_module."), self.branches(layer, 0), strict=True):
                if c["use_mhc"]:
                    mixed = [self.mhc(name + module, x) for x in xs]
                    outs = branch([y for y, _, _ in mixed])
                    xs = [self.mhc_post(x, o, post, r) for x, o, (_, post, r) in zip(xs, outs, mixed, strict=True)]
                else:
                    xs = [x + o for x, o in zip(xs, branch(xs), strict=True)]
            if layer in c["block_post_layernorm_idx"]:
                xs = [self.norm(name + "block_post_layernorm", x.reshape(-1)).reshape(x.shape) for x in xs]
        if not c["use_mhc"]:
            return xs
        return [self.merge(x) for x in xs]

    def merge(self, streams: Vec) -> Vec:
        name = "model.merge_mhc_module."
        gamma = self.get(name + "norm_gamma") if self.c["mhc_use_gamma"] else 1.0
        m = self.get(name + "phi.weight") @ rms(streams.reshape(-1), gamma, self.c["rms_norm_eps"])
        w = sigmoid(self.get(name + "branch_alpha_pre") * m + self.get(name + "branch_beta_pre")) + 1e-6
        return sum(a * x for a, x in zip(w, streams, strict=True))

    def head(self, x: Vec) -> Vec:
        return self.get("model.embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight") @ x

    def logits(self, tokens: list[int]) -> Vec:
        return np.array([self.head(self.norm("model.norm", h)) for h in self.hidden(tokens)])

    def draft_logits(self, tokens: list[int]) -> list[dict[int, Vec]]:
        """Per head: row p -> logits of token p + 2."""
        below = dict(enumerate(self.hidden(tokens)))
        all_logits = []
        for j in range(1, self.c["num_nextn_predict_layers"] + 1):
            layer = self.c["num_hidden_layers"] + j - 1
            name = f"model.layers.{layer}."
            positions = list(range(j - 1, len(tokens) - 1))
            xs = []
            for p in positions:
                e = self.norm(name + "enorm", self.get("model.embed_tokens.weight")[tokens[p + 1]])
                g = self.norm(name + "hnorm", below[p] if j == 1 else below[p - 1])
                xs.append(self.get(name + "eh_proj.weight") @ np.concatenate([e, g]))
            for branch in self.branches(layer, j - 1):
                xs = [x + o for x, o in zip(xs, branch(xs), strict=True)]
            below = dict(zip(positions, xs, strict=True))
            all_logits.append({p: self.head(self.norm(name + "shared_head.norm", x)) for p, x in below.items()})
        return all_logits
