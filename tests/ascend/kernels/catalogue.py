"""The kernels under test and their shapes: the published model's, the small checkpoint's, and odd ones."""

from __future__ import annotations

from typing import Any

from pangu_compile.codegen.ascend.attention_kernels import attention
from pangu_compile.codegen.ascend.convert_kernels import convert, dequantise, quantise
from pangu_compile.codegen.ascend.index_kernels import index_score, index_topk
from pangu_compile.codegen.ascend.platform import platform
from pangu_compile.codegen.ascend.product_kernels import product
from pangu_compile.codegen.ascend.select_kernels import argmax, moe_gate, mtp_verify
from pangu_compile.codegen.ascend.stream_kernels import Post, Pre, mhc
from pangu_compile.codegen.ascend.vector_kernels import (
    conv_norm,
    index_key,
    query_rows,
    residual,
    ring_write,
    rms_norm,
    rotary,
    swiglu,
)

CHIP = platform("ascend910b")
EPS = 1e-5
FULL = Pre(EPS, 1e-6, gamma=True, iterations=20, norm_eps=EPS)
INT8 = Pre(EPS, 1e-6, gamma=True, iterations=20, norm_eps=EPS, digits=1)
DIGITS = Pre(EPS, 1e-6, gamma=True, iterations=20, norm_eps=EPS, digits=3)
WIDE = Pre(EPS, 1e-6, gamma=True, iterations=20, norm_eps=EPS, wide_y=True)
BOTH = Pre(EPS, 1e-6, gamma=True, iterations=20, norm_eps=EPS, digits=2, wide_y=True)

RMS = {
    "rms_96": dict(channels=96, eps=EPS),
    "rms_2560": dict(channels=2560, eps=EPS),
    "rms_split_39": dict(channels=39, eps=EPS, x_type="float", y_type="split"),
    "rms_float_2560": dict(channels=2560, eps=EPS, x_type="float", y_type="float"),
    "rms_mixed_96": dict(channels=96, eps=EPS, y_type="split"),
    "rms_norm": dict(channels=9, eps=EPS),  # the toolkit has names of this kind
    "rms_quant_96": dict(channels=96, eps=EPS, digits=1),
    "rms_quant_81": dict(channels=81, eps=EPS, digits=1),
    "rms_digits_96": dict(channels=96, eps=EPS, digits=3, x_type="float"),
    "rms_digits_81": dict(channels=81, eps=EPS, digits=2),
}
RESIDUAL = {
    "residual_all": dict(channels=39, out_eps=EPS, block_eps=EPS, norm_eps=EPS),
    "residual_plain": dict(channels=96),
    "residual_wide": dict(
        channels=39, out_eps=EPS, block_eps=EPS, norm_eps=EPS, stream_type="float", out_type="float", wide_y=True
    ),
    "residual_split": dict(
        channels=39, out_eps=EPS, norm_eps=EPS, stream_type="float", out_type="float", wide_y=True, y_type="split"
    ),
    "residual_float": dict(channels=188, norm_eps=EPS, stream_type="float", out_type="float", y_type="float"),
    "residual_mixed": dict(channels=41, norm_eps=EPS, stream_type="float"),
    "residual_norm": dict(channels=130, out_eps=EPS, norm_eps=EPS),
}
SWIGLU = {
    "swiglu_50": dict(width=50),
    "swiglu_quant_96": dict(width=96, digits=1),
    "swiglu_quant_9216": dict(width=9216, digits=1),
    "swiglu_12000": dict(width=12000),
    "swiglu_wide_50": dict(width=50, x_type="float"),
    "swiglu_wide_96": dict(width=96, digits=1, x_type="float"),
    "swiglu_split_50": dict(width=50, x_type="float", y_type="split"),
    "swiglu_split_12000": dict(width=12005, x_type="float", y_type="split"),
    "swiglu_wide_3": dict(width=3, digits=1, x_type="float"),
    "swiglu_wide_9216": dict(width=9216, x_type="float"),
    "swiglu_digits_50": dict(width=50, digits=3, x_type="float"),
    "swiglu_digits_96": dict(width=96, digits=2),
    "swiglu_digits_9216": dict(width=9216, digits=3, x_type="float"),
}
CONV = {
    "conv_144": dict(channels=144, taps=3, ring=5),
    "conv_1100": dict(channels=1100, taps=4, ring=4),
    "conv_2": dict(channels=23, taps=2, ring=1),
    "query_low": dict(channels=96, taps=3, ring=5, norm_eps=EPS),
    "latent_row": dict(channels=64, taps=3, ring=5, norm_eps=EPS, rotary=16),
    "latent_odd": dict(channels=23, norm_eps=EPS, rotary=6),
    "latent_512": dict(channels=512, taps=3, ring=5, norm_eps=EPS, rotary=64),
}
SPLIT = {"x_type": "float", "y_type": "split"}
CONV |= {f"{name}_split": CONV[name] | SPLIT for name in ("conv_1100", "conv_2", "query_low", "latent_row", "latent_odd")}
FLOAT = {"x_type": "float", "y_type": "float"}
CONV |= {"conv_2_float": CONV["conv_2"] | FLOAT, "low_float": dict(channels=69, norm_eps=EPS, x_pitch=137) | FLOAT}
CONVERT = {
    "split_float": dict(channels=33, x_type="float", y_type="split"),
    "split_bf16": dict(channels=33, x_type="bfloat16_t", y_type="split"),
    "split_2565": dict(channels=2565, x_type="float", y_type="split"),
    "join_float": dict(channels=33, x_type="split", y_type="float"),
    "join_bf16": dict(channels=2565, x_type="split", y_type="bfloat16_t"),
}
ROTARY = {
    "rotary_3": dict(heads=3, channels=24, dim=10, offset=14),
    "rotary_48": dict(heads=48, channels=192, dim=64, offset=128),
    "rotary_index": dict(heads=4, channels=32, dim=16, offset=0),
    "rotary_split": dict(heads=3, channels=24, dim=10, offset=14, split=True),
    "rotary_middle": dict(heads=2, channels=43, dim=6, offset=20, split=True),
    "rotary_alone": dict(heads=1, channels=8, dim=8, offset=0, split=True),
    "rotary_48_split": dict(heads=48, channels=192, dim=64, offset=128, split=True),
}
INDEX_KEY = {
    "key_32": dict(channels=32, dim=16, eps=1e-6),
    "key_bias": dict(channels=17, dim=10, eps=1e-6, bias=True),
    "key_whole": dict(channels=10, dim=10, eps=1e-6),
}
INDEX_KEY |= {f"{name}_split": spec | SPLIT for name, spec in INDEX_KEY.items()}
QUERY = {
    "query_rows_4": dict(heads=4, width=48, latent=64, rope=16),
    "query_rows_3": dict(heads=3, width=17, latent=23, rope=6),
}
GATE = {
    "gate_5": dict(experts=5, k=2, bias=False, normalise=False, scale=1.0, eps=1e-20),
    "gate_33": dict(experts=33, k=9, bias=True, normalise=True, scale=1.7, eps=1e-20),
    "gate_256": dict(experts=256, k=8, bias=True, normalise=True, scale=2.5, eps=1e-20),
    "gate_384": dict(experts=384, k=8, bias=True, normalise=True, scale=2.5, eps=1e-20),
}
ARGMAX = {"argmax_9000": dict(columns=9000), "argmax_77": dict(columns=77, dtype="bfloat16_t")}
VERIFY = {"verify_3": dict(drafts=3), "verify_1": dict(drafts=1)}
MHC = {
    "pre_2560": dict(streams=4, hidden=2560, pre=FULL),
    "pre_odd": dict(streams=3, hidden=23, pre=Pre(EPS, 1e-6, False, 2)),
    "chain_96": dict(streams=4, hidden=96, post=Post(EPS), pre=FULL),
    "chain_block": dict(streams=2, hidden=97, post=Post(EPS, EPS), pre=FULL),
    "chain_int8": dict(streams=4, hidden=97, post=Post(EPS), pre=INT8),
    "chain_digits": dict(streams=4, hidden=97, post=Post(EPS), pre=DIGITS, stream_type="float", out_type="float", y_type="float"),
    "pre_digits": dict(streams=4, hidden=2560, pre=DIGITS, stream_type="float", y_type="split"),
    "chain_both": dict(streams=2, hidden=40, post=Post(EPS, EPS), pre=BOTH, stream_type="float"),
    "chain_one": dict(streams=1, hidden=40, post=Post(), pre=Pre(EPS, 1e-6, True, 5)),
    "post_block": dict(streams=3, hidden=97, post=Post(None, EPS)),
    "post_plain": dict(streams=2, hidden=130, post=Post(EPS)),
    "chain_wide": dict(streams=4, hidden=97, post=Post(EPS), pre=WIDE, stream_type="float", out_type="float"),
    "block_wide": dict(streams=2, hidden=40, post=Post(EPS, EPS), pre=WIDE, stream_type="float"),
    "post_wide": dict(streams=3, hidden=97, post=Post(None, EPS), stream_type="float", out_type="float"),
    "pre_wide": dict(streams=4, hidden=2560, pre=WIDE, stream_type="float"),
    "chain_split": dict(streams=4, hidden=97, post=Post(EPS), pre=WIDE, stream_type="float", out_type="float", y_type="split"),
    "pre_split": dict(streams=4, hidden=2560, pre=WIDE, stream_type="float", y_type="split"),
    "plain_split": dict(streams=3, hidden=23, pre=Pre(EPS, 1e-6, False, 2), stream_type="float", y_type="split"),
    "merge_float": dict(streams=4, hidden=23, pre=Pre(EPS, 1e-6, True, merge=True), stream_type="float", y_type="float"),
    "merge_wide": dict(streams=4, hidden=23, pre=Pre(EPS, 1e-6, True, merge=True), stream_type="float"),
    "merge_96": dict(streams=4, hidden=96, pre=Pre(EPS, 1e-6, True, merge=True)),
}
ATTENTION = {
    "swa_small": dict(kind="swa", heads=4, width=80, latent=64, sinks=8, scale=48**-0.5, window=64, ring=67),
    "swa_odd": dict(kind="swa", heads=3, width=29, latent=23, sinks=0, scale=0.2, window=7, ring=6),
    "swa_one": dict(kind="swa", heads=1, width=12, latent=10, sinks=1, scale=0.3, window=1, ring=1),
    "swa_full": dict(kind="swa", heads=48, width=576, latent=512, sinks=128, scale=192**-0.5, window=512, ring=515),
    "dense_odd": dict(kind="dense", heads=3, width=29, latent=23, sinks=5, scale=0.2),
    "dsa_odd": dict(kind="dsa", heads=3, width=29, latent=23, sinks=3, scale=0.2, top=20),
    "dsa_full": dict(kind="dsa", heads=48, width=576, latent=512, sinks=128, scale=192**-0.5, top=2048),
}
ATTENTION |= {f"{name}_split": spec | {"row_type": "split"} for name, spec in ATTENTION.items()}
INDEX_SCORE = {
    "score_24": dict(heads=24, channels=128, scale=128**-0.5),
    "score_one": dict(heads=1, channels=19, scale=0.3, weight_type="float"),
    "score_4": dict(heads=4, channels=32, scale=0.3),
}
INDEX_SCORE |= {f"{name}_split": spec | {"row_type": "split", "weight_type": "float"} for name, spec in INDEX_SCORE.items()}
TOPK = {"topk_20": dict(top=20), "topk_128": dict(top=128), "topk_2048": dict(top=2048)}
PRODUCT = {
    "product_10": dict(depth=10, columns=19),
    "product_one": dict(depth=1, columns=1),
    "product_96": dict(depth=96, columns=150),
    "product_odd": dict(depth=1301, columns=333),
    "product_2560": dict(depth=2560, columns=2560),
    "product_logits": dict(depth=97, columns=9001),
    "product_split": dict(depth=96, columns=150, x_type="split"),
    "product_split_odd": dict(depth=1301, columns=333, x_type="split"),
    "product_split_one": dict(depth=1, columns=1, x_type="split"),
    "product_split_2560": dict(depth=2560, columns=2560, x_type="split"),
    "product_heads": dict(depth=41, columns=23, x_type="split", heads=3),
    "product_absorb": dict(
        depth=9, columns=300, x_type="split", heads=5, by_depth=True, x_strides=(5 * 30, 30, 15), w_strides=(20 * 300, 300),
        y_strides=(5 * 306, 306),
    ),
    "product_absorb_wide": dict(depth=777, columns=19, x_type="split", heads=2, by_depth=True),
    "product_values": dict(
        depth=300, columns=11, x_type="split", heads=5, x_strides=(5 * 600, 300, 1500), w_strides=(20 * 300, 300)
    ),
    "product_groups": dict(depth=41, columns=300, x_type="split", groups=7),
    "product_groups_bf16": dict(depth=600, columns=23, groups=3),
}
QUANTISE = {"quantise_96": dict(channels=96), "quantise_39": dict(channels=39), "quantise_9216": dict(channels=9216)}
QUANTISE |= {f"digits_2_{n}": dict(channels=n, digits=2) for n in (39, 300)}
QUANTISE |= {f"digits_3_{n}": dict(channels=n, digits=3) for n in (1, 39, 96, 300, 9216)}
DEQUANTISE = {
    "dequantise_39": dict(columns=39),
    "dequantise_5000": dict(columns=5000),
    "dequantise_groups": dict(columns=41, groups=7),
    "dequantise_groups_wide": dict(columns=2500, groups=3),
    "dequantise_digits_39": dict(columns=39, digits=2),
    "dequantise_digits_5000": dict(columns=5000, digits=3),
    "dequantise_digits_groups": dict(columns=41, groups=7, digits=3),
}
RING = {
    "ring_576": dict(channels=576, ring=515),
    "ring_29": dict(channels=29, ring=6),
    "ring_29_split": dict(channels=29, ring=6, row_type="split"),
}

SPECS: dict[str, tuple[Any, dict[str, Any]]] = {}
for _builder, _group in (
    (rms_norm, RMS),
    (residual, RESIDUAL),
    (swiglu, SWIGLU),
    (conv_norm, CONV),
    (convert, CONVERT),
    (rotary, ROTARY),
    (index_key, INDEX_KEY),
    (query_rows, QUERY),
    (moe_gate, GATE),
    (argmax, ARGMAX),
    (mtp_verify, VERIFY),
    (mhc, MHC),
    (attention, ATTENTION),
    (index_score, INDEX_SCORE),
    (index_topk, TOPK),
    (ring_write, RING),
    (product, PRODUCT),
    (quantise, QUANTISE),
    (dequantise, DEQUANTISE),
):
    SPECS |= {name: (_builder, spec) for name, spec in _group.items()}
KERNELS = {name: builder(CHIP, name, **spec) for name, (builder, spec) in SPECS.items()}
TOKENS = (1, 2, 5, 17, 70)
