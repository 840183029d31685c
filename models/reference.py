"""openPangu-2.0 on whole sequences: the oracle that everything compiled is judged against (run it in float64)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention
from .config import OpenPanguConfig
from .layers import MHC, MLP, MergeMHC, MoE, RMSNorm


class DecoderLayer(nn.Module):
    """A base layer."""

    def __init__(self, config: OpenPanguConfig, layer: int):
        super().__init__()
        c = self.c = config
        self.self_attn = Attention(c, layer)
        self.mlp = MoE(c) if c.is_moe(layer) else MLP(c.hidden_size, c.intermediate_size)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if c.sandwich_norm:
            self.pre_mlp_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
            self.post_mlp_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if c.use_mhc and layer < c.num_hidden_layers:
            self.attn_mhc_module, self.mlp_mhc_module = MHC(c), MHC(c)
        if layer in c.block_post_layernorm_idx:
            streams = c.mhc_num_stream if c.use_mhc else 1
            self.block_post_layernorm = RMSNorm(streams * c.hidden_size, c.rms_norm_eps)

    def attend(self, y: Tensor, positions: Tensor) -> Tensor:
        a = self.self_attn(self.input_layernorm(y), positions)
        return self.post_attention_layernorm(a) if self.c.sandwich_norm else a

    def feed(self, y: Tensor) -> Tensor:
        if not self.c.sandwich_norm:
            return self.mlp(self.post_attention_layernorm(y))
        return self.post_mlp_layernorm(self.mlp(self.pre_mlp_layernorm(y)))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [B, T, n, H] with mHC, else [B, T, H]."""
        if not self.c.use_mhc:
            x = x + self.attend(x, positions)
            x = x + self.feed(x)
        else:
            y, post, res = self.attn_mhc_module.pre(x)
            x = self.attn_mhc_module.post(x, self.attend(y, positions), post, res)
            y, post, res = self.mlp_mhc_module.pre(x)
            x = self.mlp_mhc_module.post(x, self.feed(y), post, res)
        if hasattr(self, "block_post_layernorm"):
            flat = x.reshape(*x.shape[:2], -1)
            x = self.block_post_layernorm(flat).view(x.shape)
        return x


class SharedHead(nn.Module):
    """An MTP head's own final norm; the projection is the trunk's."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MTPLayer(DecoderLayer):
    """A multi-token-prediction block: plain residual, no mHC, no block_post norm."""

    def __init__(self, config: OpenPanguConfig, layer: int):
        super().__init__(config, layer)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def forward_rows(self, embedded: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1))
        x = x + self.attend(x, positions)
        return x + self.feed(x)


class OpenPanguModel(nn.Module):
    """Embedding, layers (base layers, then the MTP blocks), final norm."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        base = [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        extra = [MTPLayer(config, i) for i in range(config.num_hidden_layers, config.num_layers)]
        self.layers = nn.ModuleList([*base, *extra])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.use_mhc:
            self.merge_mhc_module = MergeMHC(config)


class OpenPanguForCausalLM(nn.Module):
    """The whole model. Parameter names are the canonical checkpoint names (see tensors.py)."""

    def __init__(self, config: OpenPanguConfig):
        super().__init__()
        self.config = config
        self.model = OpenPanguModel(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def hidden(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> merged hidden before the final norm [B, T, H]; what MTP head 1 reads."""
        c = self.config
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.model.embed_tokens(tokens)
        if c.use_mhc:
            x = x[:, :, None].expand(-1, -1, c.mhc_num_stream, -1)
        for layer in self.model.layers[: c.num_hidden_layers]:
            x = layer(x, positions)
        return self.model.merge_mhc_module.merge(x) if c.use_mhc else x

    def project(self, x: Tensor) -> Tensor:
        weight = self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        return torch.matmul(x, weight.t())

    def logits_from_hidden(self, g: Tensor) -> Tensor:
        return self.project(self.model.norm(g))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> logits [B, T, V]."""
        return self.logits_from_hidden(self.hidden(tokens))

    def block(self, head: int) -> MTPLayer:
        layer = self.model.layers[self.config.num_hidden_layers + head - 1]
        assert isinstance(layer, MTPLayer)
        return layer

    def mtp_hidden(self, head: int, previous: Tensor, tokens: Tensor) -> Tensor:
        """Block outputs of head `head` (1-based) for rows p = head-1 .. T-2, as [B, T - head, H].

        Args:
            previous: for head 1 the trunk's hidden [B, T, H]; else head-1's rows [B, T - head + 1, H].
            tokens: [B, T]; row p reads token[p+1]. Row p comes from `previous` at p (head 1) or p-1.
        """
        rows = tokens.shape[1] - head
        positions = torch.arange(head - 1, tokens.shape[1] - 1, device=tokens.device)
        return self.block(head).forward_rows(self.model.embed_tokens(tokens[:, head:]), previous[:, :rows], positions)

    def mtp_logits(self, head: int, x: Tensor) -> Tensor:
        """Row p's logits: the draft of token p+2."""
        return self.project(self.block(head).shared_head.norm(x))

    def mtp_forward(self, tokens: Tensor, g: Tensor) -> list[Tensor]:
        """Logits of every head: head j's are [B, T - j, V]."""
        logits, previous = [], g
        for head in range(1, self.config.num_nextn_predict_layers + 1):
            previous = self.mtp_hidden(head, previous, tokens)
            logits.append(self.mtp_logits(head, previous))
        return logits
