"""The traced programs: one step of the trunk and one step of each MTP head, with every state explicit.

`reference.py` reads whole sequences and is the oracle. The modules here compute the same function T tokens at a time
over explicit states, in the form that the compiler wants to see: latent attention (kv_b_proj is absorbed, no per-head
keys or values), windows gathered from a ring, experts gathered by index. They own no parameters; they read those of
the reference, so a user's edited reference layer (an FFN, a norm) is traced as it is.

States (docs of the ring rule: `Ring`): append caches grow by T rows a call; a ring keeps position p in row p % rows.
A rejected draft is undone by setting the length back: rows past it are masked by position, and are overwritten later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import OpenPanguConfig
from .outlining import outlined
from .program_spec import ProgramSpec, StateSpec
from .reference import OpenPanguForCausalLM

F64 = torch.float64
GREEDY_STEP, SAMPLED_STEP = WHOLE_STEPS = ("speculate", "speculate_sampled")  # programs of a whole step with drafts


class Ring:
    """Rows of the last positions: reads by position before the call's own rows are written."""

    @staticmethod
    def window(ring: Tensor, new: Tensor, start: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Rows of positions start - length .. start + T - 1 in order, and those positions.

        Args:
            ring: [R, C], row p % R holds position p < start (R >= length).
            new: [T, C], positions start .. start + T - 1.
        Returns:
            rows [length + T, C] (rows of negative positions are some finite row: mask them) and positions [length + T].
        """
        total, rows = new.shape[0] + length, ring.shape[0]
        position = start - length + torch.arange(total, device=new.device)
        old = torch.remainder(position, rows)
        source = torch.where(position < start, old, position - start + rows)
        return torch.cat([ring, new], 0)[source], position

    @staticmethod
    def write(ring: Tensor, new: Tensor, positions: Tensor) -> Tensor:
        """Ring after the call; where T > R the later positions win."""
        return ring.index_copy(0, torch.remainder(positions, ring.shape[0]), new)


class StepConv(nn.Module):
    """MoME depthwise causal convolution, conv_mode "pangu": nothing is added at the sequence's first k-1 positions."""

    def __init__(self, conv: nn.Module, width: int):
        super().__init__()
        self.conv, self.width = conv, width

    def forward(self, x: Tensor, start: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
        tokens, history = x.shape[0], self.width - 1
        rows, positions = Ring.window(ring, x, start, history)
        total = torch.zeros_like(x)
        for tap in range(self.width):
            total = total + rows.narrow(0, tap, tokens) * self.conv.weight[:, 0, tap]
        own = positions.narrow(0, history, tokens)
        y = torch.where((own >= history)[:, None], x + total, x)
        return y, Ring.write(ring, x, own)


def rotary(positions: Tensor, dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [T, dim/2]; angles in float64 so that position 500,000 is still exact to float32."""
    half = torch.arange(0, dim, 2, device=positions.device, dtype=F64)
    angle = positions.to(F64)[:, None] * torch.pow(theta, half / -dim)[None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half rotation (NeoX order) of the last axis."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def stable_topk(scores: Tensor, k: Any) -> Tensor:
    """Indices of the k largest of the last axis, lowest index first among equals (torch.topk promises no tie order)."""
    _, order = torch.sort(scores, dim=-1, descending=True, stable=True)
    return order[:, :k]


class StepAttention(nn.Module):
    """Latent attention over the cache: q is absorbed into the latent space, values leave it after the sum."""

    def __init__(self, attn: nn.Module, config: OpenPanguConfig, layer: int):
        super().__init__()
        self.attn, self.c = attn, config
        self.kind = config.attention_kind(layer)
        self.window = config.window(layer) if self.kind == "swa" else 0
        if config.use_mome:
            width = config.conv_width
            self.conv_q = StepConv(attn.qa_conv, width) if config.q_lora_rank is not None else None
            self.conv_kv = StepConv(attn.compresskv_conv, width)
            self.conv_o = StepConv(attn.o_conv, width)

    def states(self, prefix: str, owner: int) -> list[StateSpec]:
        c, slack = self.c, self.c.num_nextn_predict_layers
        rows = self.window + slack if self.kind == "swa" else None
        specs = [StateSpec(f"{prefix}.latent", c.kv_lora_rank + c.qk_rope_head_dim, rows, owner)]
        if self.kind == "dsa":
            specs.append(StateSpec(f"{prefix}.index", c.index_head_dim, None, owner))
        if c.use_mome:
            rows = c.conv_width - 1 + slack
            widths = [("conv_q", c.q_lora_rank)] if c.q_lora_rank is not None else []
            widths += [("conv_kv", c.kv_lora_rank), ("conv_o", c.num_attention_heads * c.v_head_dim)]
            specs += [StateSpec(f"{prefix}.{name}", int(width), rows, owner) for name, width in widths]
        return specs

    def outlined(self, path: str, u: Tensor, start: Tensor, positions: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """[out, *new states]; traced once per structure."""
        specs = self.states("", 0)

        def shapes(args: Sequence[Tensor]) -> list[Tensor]:
            return [like(args[0]), *like_states(args[3:], specs, args[0].shape[0])]

        return outlined(self, path, (u, start, positions, *states), shapes)

    def forward(self, u: Tensor, start: Tensor, positions: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """u [T, H]; positions [T] are RoPE's, start counts the rows already in the states. -> (out [T, H], *new states)."""
        c, a, state = self.c, self.attn, iter(states)
        latent_cache = next(state)
        index_cache = next(state) if self.kind == "dsa" else None
        new_states: list[Tensor] = []
        cos, sin = rotary(positions, c.qk_rope_head_dim, c.rope_theta, u.dtype)
        query_input, q = self._query(u, start, state, new_states)
        latent = self._latent(u, start, cos, sin, state, new_states)
        nope = c.qk_nope_head_dim
        q_pe = rotate(q[..., nope:], cos[:, None, :], sin[:, None, :])
        kv_b = a.kv_b_proj.weight.view(c.num_attention_heads, nope + c.v_head_dim, c.kv_lora_rank)
        q_latent = torch.matmul(q[..., :nope].transpose(0, 1), kv_b[:, :nope]).transpose(0, 1)
        query = torch.cat([q_latent, q_pe], -1) * float((nope + c.qk_rope_head_dim) ** -0.5)
        if self.kind == "swa":
            mixed, caches = self._windowed(query, latent, latent_cache, start)
        elif index_cache is not None:
            mixed, caches = self._sparse(u, query_input, query, latent, latent_cache, index_cache, cos, sin)
        else:
            mixed, caches = self._dense(query, latent, latent_cache)
        out = torch.matmul(mixed.transpose(0, 1), kv_b[:, nope:].transpose(1, 2)).transpose(0, 1)
        out = out.reshape(u.shape[0], c.num_attention_heads * c.v_head_dim)
        if c.use_mome:
            out, ring = self.conv_o(out, start, next(state))
            new_states.append(ring)
        return (a.o_proj(out), *caches, *new_states)

    def _query(self, u: Tensor, start: Tensor, state: Any, new_states: list[Tensor]) -> tuple[Tensor, Tensor]:
        c, a = self.c, self.attn
        shape = (u.shape[0], c.num_attention_heads, c.qk_nope_head_dim + c.qk_rope_head_dim)
        if c.q_lora_rank is None:
            return u, a.q_proj(u).view(shape)
        ql = a.q_a_proj(u)
        if c.use_mome:
            ql, ring = self.conv_q(ql, start, next(state))
            new_states.append(ring)
        qr = a.q_a_layernorm(ql)
        return qr, a.q_b_proj(qr).view(shape)

    def _latent(self, u: Tensor, start: Tensor, cos: Tensor, sin: Tensor, state: Any, new_states: list[Tensor]) -> Tensor:
        c, a = self.c, self.attn
        kv = a.kv_a_proj_with_mqa(u)
        compressed = kv[:, : c.kv_lora_rank]
        if c.use_mome:
            compressed, ring = self.conv_kv(compressed, start, next(state))
            new_states.append(ring)
        return torch.cat([a.kv_a_layernorm(compressed), rotate(kv[:, c.kv_lora_rank :], cos, sin)], -1)

    def _mix(self, query: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        """Joint softmax over sinks and keys. query [T, h, C]; keys [N, C] or [T, N, C]; visible [T, N]; -> [T, h, kv_lora]."""
        c, a = self.c, self.attn
        tokens, heads, width = query.shape
        if keys.dim() == 2:
            scores = torch.matmul(query.reshape(tokens * heads, width), keys.t()).view(tokens, heads, keys.shape[0])
        else:
            scores = torch.matmul(query, keys.transpose(1, 2))
        scores = scores.masked_fill(~visible[:, None, :], float("-inf"))
        sinks = c.param_sink_number
        if sinks:
            sink_latent = a.kv_a_layernorm(a.param_sink_compressed_kv)
            sink_keys = torch.cat([sink_latent, a.param_sink_k_pe], -1)
            sink_scores = torch.matmul(query.reshape(tokens * heads, width), sink_keys.t()).view(tokens, heads, sinks)
            scores = torch.cat([sink_scores, scores], -1)
        weights = torch.softmax(scores, -1)
        own = weights[..., sinks:].clone(
            memory_format=torch.contiguous_format
        )  # compact, so that the reshapes below ask nothing of symbolic strides
        values = keys[..., : c.kv_lora_rank]
        if keys.dim() == 2:
            flat = own.reshape(tokens * heads, keys.shape[0])
            mixed = torch.matmul(flat, values).view(tokens, heads, c.kv_lora_rank)
        else:
            mixed = torch.matmul(own, values)
        if sinks:
            flat = weights[..., :sinks].clone(memory_format=torch.contiguous_format).reshape(tokens * heads, sinks)
            mixed = mixed + torch.matmul(flat, sink_latent).view(tokens, heads, c.kv_lora_rank)
        return mixed

    def _windowed(self, query: Tensor, latent: Tensor, ring: Tensor, start: Tensor) -> tuple[Tensor, list[Tensor]]:
        keys, key_position = Ring.window(ring, latent, start, self.window - 1)
        own = start + torch.arange(latent.shape[0], device=latent.device)
        distance = own[:, None] - key_position[None, :]
        visible = (key_position >= 0)[None, :] & (distance >= 0) & (distance < self.window)
        return self._mix(query, keys, visible), [Ring.write(ring, latent, own)]

    def _dense(self, query: Tensor, latent: Tensor, cache: Tensor) -> tuple[Tensor, list[Tensor]]:
        keys = torch.cat([cache, latent], 0)
        return self._mix(query, keys, causal(cache, latent)), [keys]

    def _sparse(
        self, u: Tensor, query_input: Tensor, query: Tensor, latent: Tensor, cache: Tensor, index_cache: Tensor,
        cos: Tensor, sin: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        c, indexer = self.c, self.attn.indexer
        rope, heads, width = c.qk_rope_head_dim, c.index_n_heads, c.index_head_dim
        tokens = u.shape[0]
        keys = torch.cat([cache, latent], 0)
        qi = indexer.wq_b(query_input).view(tokens, heads, width)
        qi = torch.cat([rotate(qi[..., :rope], cos[:, None, :], sin[:, None, :]), qi[..., rope:]], -1)
        ki = indexer.k_norm(indexer.wk(u))
        ki = torch.cat([rotate(ki[:, :rope], cos, sin), ki[:, rope:]], -1)
        index_keys = torch.cat([index_cache, ki], 0)
        weight = indexer.weights_proj(u) * float(heads**-0.5)
        dots = torch.matmul(qi.reshape(tokens * heads, width), index_keys.t()) * float(width**-0.5)
        scores = (dots.relu().view(tokens, heads, index_keys.shape[0]) * weight[:, :, None]).sum(1)
        seen = causal(cache, latent)
        scores = scores.masked_fill(~seen, float("-inf"))
        chosen = stable_topk(scores, torch.sym_min(c.index_topk, keys.shape[0]))
        own = cache.shape[0] + torch.arange(tokens, device=u.device)
        return self._mix(query, keys[chosen], chosen <= own[:, None]), [keys, index_keys]


def causal(cache: Tensor, new: Tensor) -> Tensor:
    """[T, S+T]: may row t (position S+t) see position s?"""
    total, old = cache.shape[0] + new.shape[0], cache.shape[0]
    own = old + torch.arange(new.shape[0], device=new.device)
    return torch.arange(total, device=new.device)[None, :] <= own[:, None]


class StepMoE(nn.Module):
    """Routed experts gathered by index (biased scores pick, unbiased ones weigh) plus the shared experts."""

    def __init__(self, mlp: nn.Module, config: OpenPanguConfig):
        super().__init__()
        self.mlp, self.c = mlp, config

    def forward(self, x: Tensor) -> Tensor:
        c, mlp = self.c, self.mlp
        wide = torch.promote_types(x.dtype, torch.float32)
        scores = torch.sigmoid(torch.matmul(x.to(wide), mlp.gate.weight.to(wide).t()))
        biased = scores + mlp.e_score_correction_bias if c.router_enable_expert_bias else scores
        chosen = stable_topk(biased, c.num_experts_per_tok)
        weights = scores.gather(1, chosen)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        weights = (weights * c.routed_scaling_factor).to(x.dtype)
        gate_up = torch.matmul(mlp.experts.gate_up_proj[chosen], x[:, None, :, None])[..., 0]
        gate, up = gate_up.chunk(2, -1)
        inner = nn.functional.silu(gate) * up
        down = torch.matmul(mlp.experts.down_proj[chosen], inner[..., None])[..., 0]
        out = (down * weights[..., None]).sum(1)
        return out + mlp.shared_experts(x) if c.n_shared_experts else out


def like(x: Tensor) -> Tensor:
    """An empty tensor of that shape (and storage of its own)."""
    return x.new_empty(x.shape)


def like_first(args: Sequence[Tensor]) -> list[Tensor]:
    """Shapes of a module whose one result is like its first argument."""
    return [like(args[0])]


class StreamsRead(nn.Module):
    """mHC's first half, `MHC.pre`, as a module of its own: all layers share one trace of it."""

    def __init__(self, mhc: nn.Module, config: OpenPanguConfig):
        super().__init__()
        self.mhc, self.n = mhc, config.mhc_num_stream

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.mhc.pre(x))

    def shapes(self, args: Sequence[Tensor]) -> list[Tensor]:
        x, n = args[0], self.n
        tokens = x.shape[0]
        return [x.new_empty(tokens, x.shape[2]), x.new_empty(tokens, n), x.new_empty(tokens, n, n)]


class StreamsWrite(nn.Module):
    """mHC's second half, `MHC.post`; see `StreamsRead`."""

    def __init__(self, mhc: nn.Module):
        super().__init__()
        self.mhc = mhc

    def forward(self, x: Tensor, out: Tensor, post: Tensor, res: Tensor) -> tuple[Tensor, ...]:
        return (self.mhc.post(x, out, post, res),)

    def shapes(self, args: Sequence[Tensor]) -> list[Tensor]:
        return [args[0].new_empty(args[0].shape)]


class Streams(nn.Module):
    """The residual around one branch: mHC, or x + out."""

    def __init__(self, mhc: nn.Module, config: OpenPanguConfig, path: str):
        super().__init__()
        self.reads, self.writes, self.path = StreamsRead(mhc, config), StreamsWrite(mhc), path

    def read(self, x: Tensor) -> list[Tensor]:
        return outlined(self.reads, f"{self.path}.reads", (x,), self.reads.shapes)

    def write(self, x: Tensor, out: Tensor, post: Tensor, res: Tensor) -> Tensor:
        return outlined(self.writes, f"{self.path}.writes", (x, out, post, res), self.writes.shapes)[0]


class StepLayer(nn.Module):
    """One base layer: mHC around attention and FFN (plain residuals where mHC is off)."""

    def __init__(self, layer: nn.Module, config: OpenPanguConfig, index: int):
        super().__init__()
        self.layer, self.c = layer, config
        self.normed_after = index in config.block_post_layernorm_idx
        self.attention = StepAttention(layer.self_attn, config, index)
        self.ffn = StepMoE(layer.mlp, config) if config.is_moe(index) else layer.mlp
        if config.use_mhc:
            self.around_attention = Streams(layer.attn_mhc_module, config, "around_attention")
            self.around_ffn = Streams(layer.mlp_mhc_module, config, "around_ffn")

    def forward(self, x: Tensor, start: Tensor, positions: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """x [T, n, H] with mHC, else [T, H]; returns x and the new states."""
        layer, c = self.layer, self.c
        y, post, res = self.around_attention.read(x) if c.use_mhc else (x, None, None)
        attended, *new_states = self.attention.outlined("attention", layer.input_layernorm(y), start, positions, states)
        if c.sandwich_norm:
            attended = layer.post_attention_layernorm(attended)
        x = self.around_attention.write(x, attended, post, res) if c.use_mhc else x + attended
        y, post, res = self.around_ffn.read(x) if c.use_mhc else (x, None, None)
        normed = (layer.pre_mlp_layernorm if c.sandwich_norm else layer.post_attention_layernorm)(y)
        (out,) = outlined(self.ffn, "ffn", (normed,), like_first)
        if c.sandwich_norm:
            out = layer.post_mlp_layernorm(out)
        x = self.around_ffn.write(x, out, post, res) if c.use_mhc else x + out
        if self.normed_after:
            x = layer.block_post_layernorm(x.flatten(1)).view(x.shape)
        return (x, *new_states)


def like_states(args: Sequence[Tensor], specs: Sequence[StateSpec], tokens: int) -> list[Tensor]:
    """Empty tensors shaped like the new states of `args` after `tokens` rows."""
    grown = [s.shape[0] + tokens if spec.rows is None else s.shape[0] for s, spec in zip(args, specs, strict=True)]
    return [s.new_empty(rows, s.shape[1]) for s, rows in zip(args, grown, strict=True)]


def layer_shapes(specs: Sequence[StateSpec]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Shapes of a layer's results from its arguments (x, start, positions, *states)."""
    return lambda args: [args[0].new_empty(args[0].shape), *like_states(args[3:], specs, args[0].shape[0])]


class Step(nn.Module):
    """step(tokens[T], start, rows[M], *states) -> (logits [M, V], hidden [T, H], *states)."""

    def __init__(self, lm: OpenPanguForCausalLM, config: OpenPanguConfig):
        super().__init__()
        self.lm, self.c = lm, config
        base = range(config.num_hidden_layers)
        self.layers = nn.ModuleList([StepLayer(lm.model.layers[i], config, i) for i in base])
        self.specs = [layer.attention.states(f"layers.{i}", 0) for i, layer in enumerate(self.layers)]

    def forward(self, tokens: Tensor, start: Tensor, rows: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        hidden, *new_states = self.trunk(tokens, start, states)
        return (self.lm.logits_from_hidden(hidden[rows]), hidden, *new_states)

    def trunk(self, tokens: Tensor, start: Tensor, states: Sequence[Tensor], path: str = "") -> list[Tensor]:
        """[hidden [T, H], *new states]; `path` leads from the traced module to this one."""
        trunk, c = self.lm.model, self.c
        positions = start + torch.arange(tokens.shape[0], device=tokens.device)
        x = trunk.embed_tokens(tokens)
        if c.use_mhc:
            x = x[:, None, :].expand(-1, c.mhc_num_stream, -1)
        new_states: list[Tensor] = []
        at = 0
        for i, (layer, specs) in enumerate(zip(self.layers, self.specs, strict=True)):
            own = states[at : at + len(specs)]
            x, *updated = outlined(layer, f"{path}layers.{i}", (x, start, positions, *own), layer_shapes(specs))
            new_states += updated
            at += len(specs)
        return [trunk.merge_mhc_module.merge(x) if c.use_mhc else x, *new_states]


class DraftBlock(nn.Module):
    """One MTP block: embedded tokens and the hidden rows of the level below, a plain residual around both branches."""

    def __init__(self, block: nn.Module, config: OpenPanguConfig, index: int):
        super().__init__()
        self.block, self.c = block, config
        self.attention = StepAttention(block.self_attn, config, index)
        self.ffn = StepMoE(block.mlp, config) if config.is_moe(index) else block.mlp

    def forward(self, hidden: Tensor, start: Tensor, positions: Tensor, embedded: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        block, c = self.block, self.c
        x = block.eh_proj(torch.cat([block.enorm(embedded), block.hnorm(hidden)], -1))
        attended, *new_states = self.attention.outlined("attention", block.input_layernorm(x), start, positions, states)
        x = x + (block.post_attention_layernorm(attended) if c.sandwich_norm else attended)
        normed = (block.pre_mlp_layernorm if c.sandwich_norm else block.post_attention_layernorm)(x)
        (out,) = outlined(self.ffn, "ffn", (normed,), like_first)
        return (x + (block.post_mlp_layernorm(out) if c.sandwich_norm else out), *new_states)


class Draft(nn.Module):
    """draft_j(tokens[T], hidden[T, H], start, rows[M], *states) -> (logits [M, V], block output [T, H], *states).

    Row i of the head (its own count, `start` + 0..T-1) is position p = i + j - 1 and takes token[p+1].
    """

    def __init__(self, lm: OpenPanguForCausalLM, config: OpenPanguConfig, head: int):
        super().__init__()
        self.lm, self.c, self.head = lm, config, head
        index = config.num_hidden_layers + head - 1
        self.block = DraftBlock(lm.model.layers[index], config, index)
        self.specs = [self.block.attention.states(f"mtp.{head}", head)]

    def forward(self, tokens: Tensor, hidden: Tensor, start: Tensor, rows: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x, *new_states = self.outputs(tokens, hidden, start, states)
        return (self.lm.mtp_logits(self.head, x[rows]), x, *new_states)

    def outputs(self, tokens: Tensor, hidden: Tensor, start: Tensor, states: Sequence[Tensor], path: str = "") -> list[Tensor]:
        """[block output [T, H], *new states]; `path` leads from the traced module to this one."""
        positions = start + (self.head - 1) + torch.arange(tokens.shape[0], device=tokens.device)
        args = (hidden, start, positions, self.lm.model.embed_tokens(tokens), *states)
        specs = self.specs[0]

        def shapes(a: Sequence[Tensor]) -> list[Tensor]:
            return [a[0].new_empty(a[0].shape), *like_states(a[4:], specs, a[0].shape[0])]

        return outlined(self.block, f"{path}block", args, shapes)


def canonical_names(module: nn.Module, lm: OpenPanguForCausalLM) -> dict[str, str]:
    """Every name of a parameter or buffer in a program's module -> its name in the model."""
    canonical = {id(p): n for n, p in lm.named_parameters()} | {id(b): n for n, b in lm.named_buffers()}
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {n: canonical[id(p)] for n, p in tensors}


def program_spec(name: str, module: Step | Draft, config: OpenPanguConfig, device: str) -> ProgramSpec:
    """Example arguments: sizes are arbitrary, all different, and stand for the symbolic dims T and M."""
    tokens, wanted = 7, 5
    where: dict[str, Any] = {"device": device}
    inputs: list[tuple[str, Tensor, str | None]] = [("tokens", torch.zeros(tokens, dtype=torch.long, **where), "T")]
    if isinstance(module, Draft):
        inputs.append(("hidden", torch.zeros(tokens, config.hidden_size, **where), "T"))
    inputs.append(("start", torch.zeros((), dtype=torch.long, **where), None))
    inputs.append(("rows", torch.zeros(wanted, dtype=torch.long, **where), "M"))
    states = tuple(spec for group in module.specs for spec in group)
    return ProgramSpec(name, module, tuple(inputs), states, ("logits", "hidden"), canonical_names(module, module.lm))


def build_programs(
    config: OpenPanguConfig, mtp: bool = True, lm: OpenPanguForCausalLM | None = None, steps: Sequence[str] = WHOLE_STEPS
) -> list[ProgramSpec]:
    """The programs of a model; those of a whole step with drafts are last, as they call the others' layers.

    steps: which of those are wanted, in the order of WHOLE_STEPS.
    Weights are on the meta device unless `lm` (perhaps a user's edited reference) is given.
    """
    from .speculate import speculate_spec  # built from the programs here

    if lm is None:
        with torch.device("meta"):
            lm = OpenPanguForCausalLM(config)
    lm = lm.eval()
    device = next(lm.parameters()).device.type
    step = Step(lm, config)
    drafts = [Draft(lm, config, head) for head in range(1, config.num_nextn_predict_layers + 1)] if mtp else []
    specs = [program_spec("step", step, config, device)]
    specs += [program_spec(f"draft_{draft.head}", draft, config, device) for draft in drafts]
    wanted = [name for name in WHOLE_STEPS if name in steps and drafts]
    return [*specs, *(speculate_spec(name, step, drafts, config, device) for name in wanted)]
