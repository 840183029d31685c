"""The fusions on traced layers (cases/*.ir): they fire, they keep away from anything else, and they keep the meaning.

Every run here validates each pass with the numpy interpreter, the cases in which a rule must not fire included.
"""

from __future__ import annotations

import re

import pytest

from pangu_compile.ir import IRError, Module, Value
from pangu_compile.passes import PASSES, Pass, attention, layers, moe, run_passes, streams
from pangu_compile.passes.forms import SHORTEST_CHUNK, multiply_adds
from pangu_compile.passes.pattern import Rule, apply_rules

from .cases import module_of, ops, text_of, traced

FUSIONS = tuple(p for p in PASSES if p.name not in ("outline", "reroll"))


def fused(text: str, passes: tuple[Pass, ...] = FUSIONS) -> Module:
    table = tuple(Pass(p.name, p.run) for p in passes)  # on one layer there is nothing to outline
    return run_passes(module_of(text), validate=True, passes=table)


FULL_HEAD = ["mhc_pre", "rotary_table", "mla_prologue"]
FULL_TAIL = ["attention_output", "mhc_post_pre"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("full_dsa", [*FULL_HEAD, "index_prologue", "dsa_attention", *FULL_TAIL, "dense_ffn", "mhc_post"]),
        ("full_swa", [*FULL_HEAD, "swa_attention", *FULL_TAIL, "moe_gate", "moe_ffn", "mhc_post"]),
        ("full_dense", [*FULL_HEAD, "dense_attention", *FULL_TAIL, "moe_gate", "moe_ffn", "mhc_post"]),
        ("bare_dsa", ["rms_norm", "rotary_table", "index_prologue", "mla_prologue", "dsa_attention", "attention_output",
                      "residual", "dense_ffn", "add"]),
        ("bare_swa", ["rms_norm", "rotary_table", "mla_prologue", "swa_attention", "attention_output", "residual",
                      "moe_gate", "moe_ffn", "add"]),
        ("bare_dense", ["rms_norm", "rotary_table", "mla_prologue", "dense_attention", "attention_output", "residual",
                        "moe_gate", "moe_ffn", "add"]),
        ("streams_dense", ["mhc_pre", "rotary_table", "mla_prologue", "dense_attention", "attention_output", "mhc_post_pre",
                           "moe_gate", "moe_ffn", "mhc_post"]),
    ],
)  # fmt: skip
def test_a_layer_reads_like_the_model_card(case, expected):
    assert sorted(ops(fused(text_of(case)))) == sorted(expected)


@pytest.mark.parametrize("case", ["full_dsa", "full_swa", "full_dense"])
def test_every_option_arrives_in_its_slot(case):
    module = fused(text_of(case))
    slots = {n.op: n.attrs["slots"] for n in module.programs["f"].graph.nodes if "slots" in n.attrs}
    assert {"q_a", "q_conv", "q_ring", "q_norm", "kv_conv", "kv_ring", "start"} <= set(slots["mla_prologue"])
    assert ("cache" in slots["mla_prologue"]) == (case != "full_swa")
    assert {"out_norm", "norm"} <= set(slots["mhc_post_pre"]) and {"out_norm", "block_norm"} <= set(slots["mhc_post"])
    assert "norm" in slots["mhc_pre"] and "gamma" not in slots["mhc_pre"]  # gamma is folded into phi
    assert "sinks" in slots[f"{case.removeprefix('full_')}_attention"] and "o_conv" in slots["attention_output"]


def test_the_cases_are_what_tracing_gives():
    for case, text in traced().items():
        assert text_of(case) == text, f"{case}: run python -m tests.passes.cases and look at the difference"


def edit(case: str, pattern: str, replacement: str) -> str:
    """The case with the first match of a regular expression replaced."""
    text, count = re.subn(pattern, replacement, text_of(case), count=1, flags=re.M)
    assert count == 1, pattern
    return text


def also_return(case: str, pattern: str) -> str:
    """The case with the value whose definition matches returned as well."""
    text = text_of(case)
    found = re.search(rf"^  (%v\d+)[^=]* = {pattern}", text, flags=re.M)
    assert found is not None, pattern
    return text.replace("  return ", f"  return {found[1]}, ")


def rows_before_columns() -> str:
    """The first two steps of the first Sinkhorn in the other order."""
    before, softmax, rest = text_of("full_swa").partition("softmax(")
    lines = rest.split("\n")
    swap = {"(1,)": "(2,)", "(2,)": "(1,)", "[T, 1, 2]": "[T, 2, 1]", "[T, 2, 1]": "[T, 1, 2]"}
    lines[2:8] = [re.sub("|".join(map(re.escape, swap)), lambda m: swap[m[0]], line) for line in lines[2:8]]
    return before + softmax + "\n".join(lines)


REFUSALS = [
    # masks: another bound is another model
    ("swa_attention", edit("full_swa", r"lt\((%v\d+, %v\d+)\) : bool\[T, T", r"le(\1) : bool[T, T")),
    ("swa_attention", edit("full_swa", r"ge\((%v\d+, %v\d+)\) : bool\[T, T", r"gt(\1) : bool[T, T")),
    ("dense_attention", edit("full_dense", r"le\((%v\d+, %v\d+)\) : bool\[T, S", r"lt(\1) : bool[T, S")),
    ("dsa_attention", edit("full_dsa", r"relu\(", "abs(")),
    ("dsa_attention", edit("full_dsa", r"le\((%v\d+, %v\d+)\) : bool\[T, Min", r"ge(\1) : bool[T, Min")),
    # somebody else reads what the fusion would hide
    ("swa_attention", also_return("full_swa", r"softmax\(.*T \+ 4\]")),
    ("dense_attention", also_return("bare_dense", r"softmax\(%v\d+\) : f32\[T, 2, S")),
    ("dsa_attention", also_return("full_dsa", r"relu\(")),
    ("moe_gate", also_return("full_swa", r"take_along\(")),
    ("moe_ffn", also_return("full_swa", r"expert_linear\(")),
    ("moe_ffn", also_return("streams_dense", r"expert_linear\(")),
    ("dense_ffn", also_return("full_dsa", r"silu\(")),
    # routing: weights are the unbiased scores
    ("moe_gate", edit("full_swa", r"(%v\d+) = add\((%v\d+), %e_score(.*\n.* = topk\(.*\n.*take_along\()%v\d+",
                      r"\1 = add(\2, %e_score\3\1")),
    ("moe_gate", edit("full_swa", r"sigmoid\((%v\d+)\) : f32\[T, 4\]", r"tanh(\1) : f32[T, 4]")),
    ("moe_ffn", edit("full_swa", r"silu\((%v\d+)\) : f32\[T, 2, 5\]", r"sigmoid(\1) : f32[T, 2, 5]")),
    ("dense_ffn", edit("full_dsa", r"silu\(", "relu(")),
    # mHC: rows first is another Sinkhorn; another factor is another gate
    ("mhc_pre", rows_before_columns()),
    ("mhc_pre", also_return("full_swa", r"sigmoid\(%v\d+\) : f32\[T, 2\]")),
    ("mhc_pre", edit("full_swa", r"value=2\.0\}", "value=3.0}")),
    # convolution: the first k - 1 positions add nothing, and taps are in order
    ("mla_prologue", edit("full_swa", r"ge\((%v\d+), (%v\d+)\) : bool\[T\]", r"gt(\1, \2) : bool[T]")),
    ("mla_prologue", also_return("full_swa", r"remainder.*i64\[T\]")),
]  # fmt: skip


@pytest.mark.parametrize(("op", "text"), [pytest.param(op, text, id=f"{i}-{op}") for i, (op, text) in enumerate(REFUSALS[:-1])])
def test_a_rule_keeps_away(op, text):
    module = fused(text)
    made = ops(module)
    if op == "mhc_pre":
        assert made.count("mhc_pre") + made.count("mhc_post_pre") < 2
    else:
        assert op not in made


def test_index_arithmetic_may_be_read_elsewhere():
    """It costs nothing to keep, so it does not stop a fusion."""
    op, text = REFUSALS[-1]
    assert op in ops(fused(text))


def norm(inverse: str = "0.25", axes: str = "(1,)", extra: str = "") -> str:
    return f"""func @f(%x: f32[T, 4], %gamma: f32[4]) {{
  %a = mul(%x, %x) : f32[T, 4]
  %b = reduce_sum(%a) {{axes={axes}}} : f32[T, 1]
  %c = constant() {{dtype='f32', value={inverse}}} : f32[]
  %d = mul(%b, %c) : f32[T, 1]
  %e = constant() {{dtype='f32', value=1e-05}} : f32[]
  %g = add(%e, %d) : f32[T, 1]
  %h = rsqrt(%g) : f32[T, 1]
  %i = mul(%h, %x) : f32[T, 4]
  %j = mul(%gamma, %i) : f32[T, 4]
  return %j{extra}
}}"""


def test_operands_of_commutative_operators_match_either_way():
    assert ops(fused(norm())) == ["rms_norm"]


@pytest.mark.parametrize("text", [norm(inverse="0.26"), norm(extra=", %i"), norm().replace("rsqrt", "sqrt")])
def test_norms_that_are_not_rms_stay(text):
    assert "rms_norm" not in ops(fused(text))


def test_a_product_with_an_activation_is_no_linear_layer():
    text = """func @f(%x: f32[T, 4], %latent: f32[5, 4]) {
  %n = neg(%latent) : f32[5, 4]
  %t = transpose(%n) {perm=(1, 0)} : f32[4, 5]
  %y = matmul(%x, %t) : f32[T, 5]
  return %y
}"""
    assert "linear" not in ops(fused(text))
    assert "linear" in ops(fused(text.replace("%latent", "%w").replace("neg(%w)", "reshape(%w) {shape=(5, 4)}")))


# Deliberately broken rules: validation catches each and names its pass.


def broken(original: Rule, after) -> Rule:
    return Rule(original.name, original.before, after)


def rows_first(b, m) -> list[Value]:
    """Sinkhorn that starts with the rows."""
    made = streams.mhc_pre.after(b, m)
    node = made[2].producer
    turned = b("transpose", b("sinkhorn", b("transpose", m["raw"], perm=(0, 2, 1)), iterations=node.attrs["iterations"],
                              eps=node.attrs["mhc_eps"]), perm=(0, 2, 1))  # fmt: skip
    return [made[0], made[1], turned]


def biased_weights(b, m) -> list[Value] | None:
    made = moe.moe_gate.after(b, m)
    picked = b("take_along", m["biased"], made[1])
    scale = b.constant(m.numbers["scale"], picked.type.dtype)
    return [b("mul", b("div", picked, b("reduce_sum", picked, axes=(1,))), scale), made[1]]


def narrower_window(b, m) -> list[Value] | None:
    made = attention.swa_attention.after(b, m)
    node = made[0].producer
    return b.multi(node.op, *node.inputs, **{**node.attrs, "window": node.attrs["window"] - 1})


def sinks_in_the_mask(b, m) -> list[Value] | None:
    """Sinks as the last rows of the cache, where causality hides them."""
    made = attention.dense_attention.after(b, m)
    node = made[0].producer
    named = dict(zip(node.attrs["slots"], node.inputs, strict=True))
    named["cache"] = b("concat", named["cache"], named.pop("sinks"), axis=0)
    return b.multi(node.op, *named.values(), **{**node.attrs, "slots": tuple(named)})


@pytest.mark.parametrize(
    ("case", "stage", "rules"),
    [
        ("full_swa", "fuse_streams", (broken(streams.mhc_pre, rows_first),)),
        ("full_swa", "fuse_moe", (broken(moe.moe_gate, biased_weights),)),
        ("full_swa", "fuse_attention", (broken(attention.swa_attention, narrower_window),)),
        ("full_dense", "fuse_attention", (broken(attention.dense_attention, sinks_in_the_mask),)),
    ],
    ids=["sinkhorn-order", "biased-weights", "window-off-by-one", "sinks-in-mask"],
)
def test_a_broken_rule_is_caught_and_named(case, stage, rules):
    def run(module: Module) -> None:
        if stage == "fuse_streams":
            for graph in module.graphs():
                streams.fuse_sinkhorn(graph, module)
        apply_rules(module, rules, stage)

    at = next(i for i, p in enumerate(FUSIONS) if p.name == stage)
    table = (*FUSIONS[:at], Pass(f"broken_{stage}", run))
    with pytest.raises(IRError, match=f"pass broken_{stage} changed f's output"):
        fused(text_of(case), table)


def test_the_cheaper_form_is_chosen():
    module = fused(text_of("full_dense"))
    node = next(n for n in module.programs["f"].graph.nodes if n.op == "dense_attention")
    at = node.attrs["expand_from"]
    assert at == 0 or multiply_adds(node, at, True) < multiply_adds(node, at, False)
    assert at == 0 or at == SHORTEST_CHUNK or multiply_adds(node, at - 1, True) >= multiply_adds(node, at - 1, False)
    assert layers.is_parameter(module.programs["f"].graph.params[-1])
