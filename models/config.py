"""config.json of openpangu_v2: every field known, every value checked, errors that name the field."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pangu_compile.errors import UserError

MODEL_TYPE = "openpangu_v2"
FLOAT_MAX = 3e38  # of float32; also keeps NaN, infinity and integers that no float holds out
# Fields of Hugging Face that do not change the computation.
NEUTRAL = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_range",
    "auto_map", "bos_token_id", "pad_token_id", "output_router_logits", "router_aux_loss_coef", "pretraining_tp",
    "output_attentions", "output_hidden_states", "return_dict", "is_decoder", "torchscript", "name_or_path",
    "ep_size", "attention_dropout",
}  # fmt: skip
# Fields that must have the one value that this architecture has.
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",), "rope_interleave": (False,), "attention_bias": (False,), "rope_scaling": (None,),
    "mlp_bias": (False,), "scoring_func": ("sigmoid",), "n_group": (1, None), "topk_group": (1, None),
}  # fmt: skip


@dataclass(frozen=True)
class OpenPanguConfig:
    """Sizes and switches; field names are those of config.json. Layer ids of MTP heads follow the base layers."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    intermediate_size: int
    q_lora_rank: int | None = None
    num_nextn_predict_layers: int = 0
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    n_shared_experts: int = 0
    moe_intermediate_size: int = 0
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    router_enable_expert_bias: bool = False
    dsa_layers: tuple[int, ...] = ()
    index_n_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0
    index_k_norm_bias: bool = False
    swa_layers: tuple[int, ...] = ()
    sliding_window: int | None = None
    sliding_window_list: tuple[int, ...] | None = None
    param_sink_number: int = 0
    use_mome: bool = False
    router_sliding_window: int = 3
    use_mhc: bool = False
    mhc_num_stream: int = 1
    mhc_recur_norm: int = 1
    mhc_use_gamma: bool = False
    sandwich_norm: bool = False
    block_post_layernorm_idx: tuple[int, ...] = ()
    eos_token_id: tuple[int, ...] = ()

    @property
    def num_layers(self) -> int:
        """Base layers plus MTP blocks."""
        return self.num_hidden_layers + self.num_nextn_predict_layers

    @property
    def conv_width(self) -> int:
        """k of the MoME convolutions."""
        return self.router_sliding_window

    def attention_kind(self, layer: int) -> str:
        """"dsa", "swa", or "dense" (plain causal). An MTP block that is listed nowhere is swa at `sliding_window`."""
        if layer in self.dsa_layers:
            return "dsa"
        if layer in self.swa_layers or (layer >= self.num_hidden_layers and self.sliding_window):
            return "swa"
        return "dense"

    def window(self, layer: int) -> int:
        """Tokens that a query of an swa layer sees, itself included; 0 for other layers."""
        if self.attention_kind(layer) != "swa":
            return 0
        if self.sliding_window_list is not None and layer in self.swa_layers:
            return self.sliding_window_list[self.swa_layers.index(layer)]
        assert self.sliding_window is not None
        return self.sliding_window

    def is_moe(self, layer: int) -> bool:
        if layer >= self.num_hidden_layers:
            return self.n_routed_experts > 0
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        record: dict[str, Any] = {"architectures": ["OpenPanguV2ForCausalLM"], "model_type": MODEL_TYPE}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            record[field.name] = list(value) if isinstance(value, tuple) else value
        if not self.eos_token_id:
            del record["eos_token_id"]
        record["hidden_act"] = "silu"
        record["rope_interleave"] = False
        record["num_key_value_heads"] = self.num_attention_heads
        return record

    @staticmethod
    def from_dict(raw: Mapping[str, Any], where: str = "config") -> OpenPanguConfig:
        """UserError naming the field that is unknown, missing, of a wrong type, or inconsistent."""
        return _Reader(raw, where).read()

    @staticmethod
    def from_file(path: str | Path) -> OpenPanguConfig:
        """Read config.json (or the folder that holds it). UserError naming file and field."""
        path = Path(path)
        path = path / "config.json" if path.is_dir() else path
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; a checkpoint folder must hold config.json") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
        except (RecursionError, ValueError) as error:
            raise UserError(f"{path}: not JSON ({error})") from None
        if not isinstance(raw, dict):
            raise UserError(f"{path}: must be a JSON object")
        return OpenPanguConfig.from_dict(raw, str(path))


class _Reader:
    """One reading of a raw config: `fail` names file and field."""

    def __init__(self, raw: Mapping[str, Any], where: str):
        self.raw, self.where = raw, where

    def fail(self, field: str, what: str) -> UserError:
        return UserError(f"{self.where}: field {field!r} {what}")

    def read(self) -> OpenPanguConfig:
        if self.raw.get("model_type", MODEL_TYPE) != MODEL_TYPE:  # an absent model_type is let through
            raise self.fail("model_type", f"is {self.raw['model_type']!r}; this compiler takes {MODEL_TYPE!r}")
        known = {f.name: f for f in dataclasses.fields(OpenPanguConfig)}
        values: dict[str, Any] = {}
        for key, value in self.raw.items():
            if key in known:
                values[key] = self._typed(key, str(known[key].type), value)
            elif key in FIXED:
                if value not in FIXED[key]:
                    raise self.fail(key, f"is {value!r}; only {FIXED[key][0]!r} is supported")
            elif key not in NEUTRAL and key != "num_key_value_heads" and not key.startswith("_"):
                raise self.fail(key, "is unknown; it may change the model, so it is refused")
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise self.fail(name, "is missing")
        config = OpenPanguConfig(**values)
        self._check(config)
        return config

    def _typed(self, key: str, kind: str, value: Any) -> Any:
        if key == "eos_token_id":
            value = [] if value is None else value if isinstance(value, list) else [value]
        if value is None:
            if "None" in kind:
                return None
            if kind.startswith("tuple"):
                return ()
            raise self.fail(key, "is null")
        if kind.startswith("tuple"):
            if not isinstance(value, list) or any(not isinstance(v, int) or isinstance(v, bool) for v in value):
                raise self.fail(key, f"must be a list of integers, got {value!r}")
            return tuple(value)
        if kind.startswith("bool"):
            if not isinstance(value, bool):
                raise self.fail(key, f"must be true or false, got {value!r}")
            return value
        if kind.startswith("float"):
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < FLOAT_MAX:
                raise self.fail(key, f"must be a positive number, got {value!r}")
            return float(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.fail(key, f"must be a non-negative integer, got {value!r}")
        return value

    def _check(self, c: OpenPanguConfig) -> None:
        positive = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank",
                    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings"]  # fmt: skip
        dense = any(not c.is_moe(i) for i in range(c.num_layers))
        positive += ["intermediate_size"] if dense else []
        positive += ["num_experts_per_tok", "moe_intermediate_size"] if c.n_routed_experts else []
        positive += ["index_n_heads", "index_head_dim", "index_topk"] if c.dsa_layers else []
        positive += ["mhc_num_stream", "mhc_recur_norm"] if c.use_mhc else []
        positive += ["q_lora_rank"] if c.q_lora_rank is not None else []
        for name in positive:
            if getattr(c, name) < 1:
                raise self.fail(name, f"must be at least 1, got {getattr(c, name)}")
        if c.qk_rope_head_dim % 2:
            raise self.fail("qk_rope_head_dim", f"must be even, got {c.qk_rope_head_dim}")
        if c.dsa_layers and c.index_head_dim < c.qk_rope_head_dim:
            raise self.fail("index_head_dim", f"is {c.index_head_dim}, less than qk_rope_head_dim {c.qk_rope_head_dim}")
        if c.use_mome and c.router_sliding_window < 2:
            raise self.fail("router_sliding_window", f"must be at least 2 with use_mome, got {c.router_sliding_window}")
        if c.num_experts_per_tok > c.n_routed_experts:
            raise self.fail("num_experts_per_tok", f"is {c.num_experts_per_tok} of only {c.n_routed_experts} experts")
        heads = self.raw.get("num_key_value_heads", c.num_attention_heads)
        if heads not in (c.num_attention_heads, None):
            what = f"is {heads}; latent attention needs num_attention_heads {c.num_attention_heads}"
            raise self.fail("num_key_value_heads", what)
        self._check_layers(c)

    def _check_layers(self, c: OpenPanguConfig) -> None:
        for name, limit in (("dsa_layers", c.num_layers), ("swa_layers", c.num_layers),
                            ("block_post_layernorm_idx", c.num_hidden_layers)):  # fmt: skip
            ids = getattr(c, name)
            if len(set(ids)) != len(ids):
                raise self.fail(name, "lists a layer twice")
            wrong = [i for i in ids if not 0 <= i < limit]
            if wrong:
                raise self.fail(name, f"lists layer {wrong[0]}; there are {limit}")
        both = sorted(set(c.dsa_layers) & set(c.swa_layers))
        if both:
            raise self.fail("swa_layers", f"lists layer {both[0]}, which is in dsa_layers too")
        if c.sliding_window_list is not None:
            if len(c.sliding_window_list) != len(c.swa_layers):
                what = f"has {len(c.sliding_window_list)} windows for {len(c.swa_layers)} swa_layers"
                raise self.fail("sliding_window_list", what)
            if any(w < 1 for w in c.sliding_window_list):
                raise self.fail("sliding_window_list", "must hold windows of at least 1")
        elif c.swa_layers and not c.sliding_window:
            raise self.fail("sliding_window", "is missing: swa_layers need it, or sliding_window_list")
        if c.first_k_dense_replace > c.num_hidden_layers:
            what = f"is {c.first_k_dense_replace}; there are {c.num_hidden_layers} layers"
            raise self.fail("first_k_dense_replace", what)
        wrong_ids = [t for t in c.eos_token_id if not 0 <= t < c.vocab_size]
        if wrong_ids:
            raise self.fail("eos_token_id", f"is {wrong_ids[0]}; the vocabulary has {c.vocab_size}")
